"""YouTube-VIS 2021 (Yang, Fan and Xu 2019, arXiv:1905.04804): videos of several objects, a box or null per frame.

```
FOLDER/
  caption.json              one JSON object that maps video names to captions
  train/instances.json      videos, categories, annotations (one per object: `bboxes` as x,y,w,h or null per frame)
  train/JPEGImages/VIDEO/00000.jpg ...
```

The validation and test parts have no annotations, so the split `holdout` is taken from the training part: the videos
whose hashed name falls below `HOLD_OUT`. The choice depends on nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.builders import RawReport
from data_pipeline.builders.raw_clip import make_clip
from data_pipeline.records.frames import MISSING, read_frame
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_json
from smcd_jax.tracks import PixelTracks, YouTubeVIS, read_youtube_vis

CAPTIONS, INSTANCES, PICTURES = "caption.json", "instances.json", "JPEGImages"
# Share of videos held out, and the salt of the hash of their names. Changing either changes the training data.
HOLD_OUT = 0.05
SALT = "smcd youtube-vis 2021"


@dataclass(frozen=True)
class _Video:
    """Raw data of a clip; `fault` is set instead if the annotations cannot be used."""

    name: str
    file_names: tuple[str, ...] = ()
    tracks: PixelTracks | None = None
    fault: str | None = None


class YouTubeVIS2021:
    """Clips of YouTube-VIS 2021; clip ids are the names of the videos."""

    name = "youtube_vis"
    splits = ("train", "holdout")

    def __init__(self, folder: Path):
        self._pictures = Path(folder) / "train" / PICTURES
        annotations = Path(folder) / "train" / INSTANCES
        captions = Path(folder) / CAPTIONS
        for path, content in (
            (annotations, "the annotations of the training part"),
            (captions, "a JSON object from video names to captions, which YouTube-VIS does not include"),
        ):
            if not path.is_file():
                raise SMCDError(f"{path}: file not found; it must hold {content}", argument="source", path=path)
        self._captions: dict[str, Any] = read_json(captions)
        if not isinstance(self._captions, dict):
            raise SMCDError(f"{captions}: must be one JSON object from video names to captions", path=captions)
        parsed = read_youtube_vis(annotations)
        self._videos: dict[str, tuple[_Video, ...]] = {}
        self._notes = _unannotated(parsed)
        videos = sorted((_video(parsed, identity) for identity in parsed.annotated), key=lambda video: video.name)
        names = [video.name for video in videos]
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise SMCDError(
                f"{annotations}: names of videos must be unique, got {repeated!r} twice",
                argument="name",
                path=annotations,
                value=repeated,
            )
        for split in self.splits:
            self._videos[split] = tuple(video for video in videos if held_out(video.name) == (split == "holdout"))

    def clip_ids(self, split: str) -> tuple[str, ...]:
        """Returns the names of the annotated videos of the split, sorted."""
        return tuple(video.name for video in self._videos[split])

    def clip(self, split: str, index: int) -> Clip:
        """See `Source`."""
        video = self._videos[split][index]
        if video.fault is not None:
            raise BadClip(video.fault, kind=f"bad entry in {INSTANCES}")
        caption = self._captions.get(video.name)
        if caption is None:
            raise BadClip(f"{video.name}: no caption in {CAPTIONS}", kind="no caption")
        if not isinstance(caption, str):
            raise BadClip(
                f"{video.name}: caption in {CAPTIONS} must be a string, got {caption!r:.60}", kind="wrong JSON type"
            )
        files = [self._pictures / name for name in video.file_names]
        if len(files) != len(video.tracks.boxes):
            raise BadClip(
                f"{video.name}: {INSTANCES} must list {len(video.tracks.boxes)} frames, got {len(files)}", kind=MISSING
            )
        return make_clip(video.name, caption, [read_frame(file) for file in files], tracks=video.tracks)

    def validate(self) -> RawReport:
        """See `Source`."""
        if not self._pictures.is_dir():
            raise SMCDError(
                f"{self._pictures}: folder not found; it must hold one folder of frames per video",
                argument="source",
                path=self._pictures,
            )
        if not any(self._videos.values()):
            path = self._pictures.parent / INSTANCES
            raise SMCDError(
                f"{path}: no video has annotations; use the training part of YouTube-VIS", argument="source", path=path
            )
        return RawReport({split: len(videos) for split, videos in self._videos.items()}, self._notes)


def held_out(name: str) -> bool:
    """Returns whether a video belongs to the split `holdout`, 5 % of all names, by its name alone."""
    first = hashlib.sha256(f"{SALT}:{name}".encode()).digest()[:8]
    return int.from_bytes(first, "big") < HOLD_OUT * 2**64


def _video(parsed: YouTubeVIS, identity: int) -> _Video:
    name = parsed.names[identity]
    try:
        video = parsed.video(identity)
    except SMCDError as error:
        return _Video(name, fault=str(error))
    if not all(isinstance(file, str) for file in video.file_names):
        return _Video(name, fault=f"video {identity}: file_names must be strings")
    return _Video(name, video.file_names, video.tracks)


def _unannotated(parsed: YouTubeVIS) -> tuple[str, ...]:
    count = len(parsed.names) - len(parsed.annotated)
    return (f"{count} videos have no annotation and are left out",) if count else ()
