"""YouTube-VIS and COCO-video annotations (`instances.json`): per object a list of x,y,w,h boxes, null where absent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_text
from smcd_jax.files.json_value import JsonValue
from smcd_jax.files.text_files import read_json
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.pixel_tracks import PixelTracks, to_pixels, xywh_to_xyxy, xyxy_to_xywh
from smcd_jax.tracks.track_file import MAX_FRAMES


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """One video of the file: its id, its name (folder of its frames), the file names of its frames, and its boxes."""

    id: int
    name: str
    file_names: tuple[str, ...]
    tracks: PixelTracks


@dataclass(frozen=True, eq=False)
class YouTubeVIS:
    """A parsed `instances.json`; each video is checked only when `video` returns it.

    Attributes:
        source: Name of the file.
        names: Name of each video by its id, in the order of the file.
        annotated: Ids of the videos that have objects.
    """

    source: str
    names: dict[int, str]
    annotated: tuple[int, ...]
    _videos: dict[int, JsonValue]
    _annotations: dict[int, list[JsonValue]]
    _categories: dict[int, str]

    def video(self, key: int | str | None = None) -> AnnotatedVideo:
        """Returns one video, its boxes in pixels from 0.

        Args:
            key: Id or name of the video; None for the only video of the file.

        Raises:
            SMCDError: No video or several videos match, the video has no objects, or an entry violates the format.
                `argument` is `video`, or the key of the entry such as `annotations[3].bboxes[1]`.
        """
        identity = self._find(key)
        entry, annotations = self._videos[identity], self._annotations.get(identity, [])
        where = f"{self.source}: video {identity}"
        if not annotations:
            raise SMCDError(
                f"{where} has no annotation, as in validation and test files; choose another video",
                argument="video",
                path=self.source,
                value=key,
            )
        length = _length(entry)
        columns = [_boxes(item, length) for item in annotations]
        tracks = PixelTracks(
            boxes=np.stack([boxes for boxes, _ in columns], axis=1),
            present=np.stack([present for _, present in columns], axis=1),
            labels=tuple(self._label(item) for item in annotations),
            size=(entry.member("width").number(), entry.member("height").number()),
            source=where,
            notes=(f"{where}: read as YouTube-VIS: x,y,width,height in pixels from 0, null where absent",),
            path=self.source,
        )
        return AnnotatedVideo(identity, self.names[identity], tuple(entry.data.get("file_names") or ()), tracks)

    def _find(self, key: int | str | None) -> int:
        if key is None:
            if len(self.names) == 1:
                return next(iter(self.names))
            first = ", ".join(f"{identity} ({name})" for identity, name in list(self.names.items())[:3])
            problem = f"holds {len(self.names)} videos; choose one by id or name: {first}, ..."
        else:
            named = [identity for identity, name in self.names.items() if name == str(key)]
            if len(named) == 1:
                return named[0]
            if not named and str(key).isdecimal() and int(key) in self.names:
                return int(key)
            problem = f"no video of id or name {key!r} among {len(self.names)}"
            if named:
                problem = f"videos {named[0]} and {named[1]} are both named {key!r}; choose one by id"
        raise SMCDError(f"{self.source}: {problem}", argument="video", path=self.source, value=key)

    def _label(self, annotation: JsonValue) -> str:
        category = _scalar(annotation, "category_id")
        if category.data not in self._categories:
            raise category.error(f"must be one of the {len(self._categories)} categories")
        return self._categories[category.data]


def read_youtube_vis(path: Path) -> YouTubeVIS:
    """Returns the content of a file, or of `instances.json` in a folder.

    Raises:
        SMCDError: The file is not JSON, or lacks videos, annotations or categories.
    """
    source = str(path / "instances.json" if path.is_dir() else path)
    content = JsonValue(read_json(Path(source)), source)
    listed = entries(content, "videos")
    if no_annotations(content.data):
        raise SMCDError(
            f"{source}: no annotations, as in validation and test files; use the file of another split",
            argument="annotations",
            path=source,
        )
    videos = {_scalar(item, "id").data: item for item in listed}
    if not videos or len(videos) < len(listed):
        raise SMCDError(
            f"{source}: videos must have one id each, got {len(listed)} videos with {len(videos)} ids",
            argument="videos",
            path=source,
            value=len(listed),
        )
    annotations: dict[int, list[JsonValue]] = {}
    for item in entries(content, "annotations"):
        annotations.setdefault(_scalar(item, "video_id").data, []).append(item)
    return YouTubeVIS(
        source=source,
        names={identity: _video_name(item.data, identity) for identity, item in videos.items()},
        annotated=tuple(identity for identity in videos if identity in annotations),
        _videos=videos,
        _annotations=annotations,
        _categories={_scalar(item, "id").data: _scalar(item, "name").data for item in entries(content, "categories")},
    )


def write_youtube_vis(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Writes `path` (`instances.json`) with one video of id 1, named after its folder; boxes in pixels, 4 decimals.

    Returns:
        Texts that say what the file lacks: masks, and the prompt if there is one.
    """
    boxes = xyxy_to_xywh(np.round(to_pixels(tracks, image_size, "youtube-vis"), 4))
    name = path.absolute().parent.name or "video"
    categories = list(dict.fromkeys(tracks.labels))
    width, height = image_size
    video = {"id": 1, "name": name, "width": width, "height": height, "length": tracks.num_frames}
    video["file_names"] = [f"{name}/{frame:05d}.jpg" for frame in range(tracks.num_frames)]
    annotations = []
    for index, label in enumerate(tracks.labels):
        shown = list(zip(boxes[:, index], tracks.mask[:, index], strict=True))
        entry = {"id": index + 1, "video_id": 1, "category_id": categories.index(label) + 1, "iscrowd": 0}
        entry |= {"width": width, "height": height}
        entry["bboxes"] = [[round(float(side), 4) for side in box] if present else None for box, present in shown]
        entry["areas"] = [round(float(box[2] * box[3]), 4) if present else None for box, present in shown]
        annotations.append(entry)
    content = {
        "videos": [video],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for number, label in enumerate(categories, 1)],
    }
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
    lost = ["the file holds boxes without masks (no 'segmentations')"]
    if tracks.prompt is not None:
        lost.append(f"YouTube-VIS files hold no prompt; {tracks.prompt!r} is left out")
    return tuple(lost)


def _video_name(item: dict[str, Any], identity: int) -> str:
    if isinstance(item.get("name"), str):
        return item["name"]
    files = item.get("file_names")
    named = isinstance(files, list) and files and isinstance(files[0], str)
    return Path(files[0]).parent.name if named else str(identity)


def _length(entry: JsonValue) -> int:
    length = entry.member("length").integer(low=1, high=MAX_FRAMES)
    files = entry.get("file_names")
    if files.data is not None and (not isinstance(files.data, list) or len(files.data) != length):
        raise files.error(f"must list {length} files, one per frame")
    for name in files.data or ():
        if not isinstance(name, str):
            raise files.error(f"must list names of files, got {name!r:.40}", got=False)
    return length


def _boxes(annotation: JsonValue, length: int) -> tuple[np.ndarray, np.ndarray]:
    listed = annotation.get("bboxes")
    if not isinstance(listed.data, list):
        raise listed.error("must be a list: only boxes listed per video can be read", got=False)
    if len(listed.data) != length:
        raise listed.error(f"must list {length} boxes, one per frame and null where absent")
    present = np.array([not _is_absent(box) for box in listed.data])
    boxes = np.zeros((length, 4))
    for frame, box in enumerate(listed.items()):
        if present[frame]:
            boxes[frame] = box.numbers(("x", "y", "width", "height"))
    return xywh_to_xyxy(boxes), present


def _is_absent(box: Any) -> bool:
    """Returns whether an entry represents a missing box: null, an empty list, or a list of NaN, of -1 or of 0."""
    if box is None or box == []:
        return True
    return isinstance(box, list) and (box in ([-1] * 4, [0] * 4) or all(side != side for side in box))


def no_annotations(content: Any) -> bool:
    """Returns whether the file states that it has no annotations."""
    return isinstance(content, dict) and "annotations" in content and content["annotations"] in (None, [])


def entries(content: JsonValue, key: str) -> list[JsonValue]:
    """Returns the list of JSON objects under a key; a file without it is not a YouTube-VIS annotation file."""
    items = content.data.get(key) if isinstance(content.data, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise SMCDError(
            f"{content.path}: not a YouTube-VIS annotation file; {key!r} must be a list of JSON objects",
            argument=key,
            path=content.path,
        )
    return content.get(key).items()


def _scalar(item: JsonValue, key: str) -> JsonValue:
    value = item.member(key)
    if isinstance(value.data, dict | list):
        raise value.error("must be a number or text")
    return value
