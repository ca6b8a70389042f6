"""A user's own videos, with box tracks in any format of `smcd_jax.tracks` or without tracks.

```
FOLDER/NAME/                     one folder per clip, with
            tracks.json          tracks (or groundtruth.txt, gt/gt.txt, bbox.txt, instances.json)
            *.mp4                a video, or frames: pictures in the folder itself, or in frames/, img1/ or JPEGImages/
            caption.txt          caption, unless the tracks have a prompt
            label.txt            label of the objects, unless the tracks have labels
FOLDER/NAME.mp4, FOLDER/NAME.json    alternatively, a video with its tracks next to it (or .xml, .csv, .txt)
```

If `FOLDER/train`, `FOLDER/val` or `FOLDER/test` exist, each is a split; otherwise all clips belong to the split
`train`. A clip's id is its name. Video and tracks must have the same number of frames; neither is
resampled. Tracks that state no number of frames may end early, and may number frames as the picture files do. A clip
whose folder has no file that could hold tracks has no objects.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import re
from pathlib import Path

import numpy as np

from data_pipeline.builders import RawReport
from data_pipeline.builders.raw_clip import CLIPPED, RECODED, bad_clip_if_wrong, frame_size
from data_pipeline.records.frames import UNREADABLE, Frame, encode_jpeg, read_frame
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_text
from smcd_jax.media import read_video
from smcd_jax.media.pictures import PICTURE_SUFFIXES
from smcd_jax.tracks import BoxTracks, load_tracks

VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif", ".m4v")
FRAME_FOLDERS = ("frames", "img1", "JPEGImages")
SPLITS = ("train", "val", "test")
FROM_VIDEO = "frames of a video stored as jpeg"
FRACTIONS = "boxes within 0..1 read as fractions of the picture"
ENDS_EARLY = "no object present after the last box of the tracks"
NUMBERED = "frames of the tracks numbered like the pictures, which begin later"
TRACK_SUFFIXES = (".json", ".xml", ".csv", ".txt")  # of track files beside a video
NO_TRACKS = "no tracks, hence no objects"
ANOTHER_ASPECT = "tracks drawn on another aspect than the video has"
_TEXTS = ("caption.txt", "prompt.txt", "label.txt")
# The picture to animate in folders of the reference; it is not a frame of a video.
_NOT_A_FRAME = "img.png"
_END_BYTES = 1 << 16
_ADVICE = {
    "label": "names no object; write its label to label.txt",
    "format": "the format is not clear; keep one file, named as its format does, such as groundtruth.txt",
    "video": "holds the tracks of several videos; write those of this clip to a file of their own",
}


class TracksFolder:
    """Clips of a user's folder; clip ids are the names of the folders and videos."""

    name = "tracks_folder"
    splits: tuple[str, ...] = ("train",)

    def __init__(self, folder: Path):
        folder = Path(folder)
        if not folder.is_dir():
            raise SMCDError(
                f"{folder}: folder not found; use a folder with one folder, or a video and its tracks, per clip",
                argument="source",
                path=folder,
            )
        parts = {split: folder / split for split in SPLITS if (folder / split).is_dir()}
        self._folders = parts or {"train": folder}
        self.splits = tuple(self._folders)
        self._entries = {split: _entries(part) for split, part in self._folders.items()}

    def clip_ids(self, split: str) -> tuple[str, ...]:
        """Returns the names of the clips, sorted."""
        return tuple(self._entries[split])

    def clip(self, split: str, index: int) -> Clip:
        """See `Source`."""
        name = self.clip_ids(split)[index]
        path = self._entries[split][name]
        frames, notes = _frames(path)
        width, height = frame_size(name, frames)
        file = _tracks_file(path)
        tracks, more = None, [NO_TRACKS]
        if file is not None:
            tracks, more = _fitting_tracks(path, file, (width, height), len(frames))
        return Clip(
            clip_id=name,
            caption=_caption(path, tracks),
            width=width,
            height=height,
            frames=tuple(frame.data for frame in frames),
            boxes=np.zeros((len(frames), 0, 4)) if tracks is None else tracks.boxes,
            mask=np.zeros((len(frames), 0)) if tracks is None else tracks.mask,
            labels=() if tracks is None else tracks.labels,
            notes=(*notes, *more),
        )

    def fingerprint(self, split: str, index: int) -> str:
        """Returns a hash of names, sizes and contents (of large files, only beginning and end); see `Source`."""
        path = self._entries[split][self.clip_ids(split)[index]]
        digest = hashlib.sha256()
        files = sorted(path.rglob("*")) if path.is_dir() else sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
        for file in files:
            if file.is_file():
                digest.update(f"{file.relative_to(path.parent)} {file.stat().st_size}\n".encode(errors="replace"))
                digest.update(_ends(file))
        return digest.hexdigest()

    def validate(self) -> RawReport:
        """See `Source`."""
        if not any(self._entries.values()):
            folders = ", ".join(str(part) for part in self._folders.values())
            raise SMCDError(
                f"{folders}: no clips found; use a folder with one folder, or a video and its tracks, per clip",
                argument="source",
                path=next(iter(self._folders.values())),
            )
        return RawReport({split: len(entries) for split, entries in self._entries.items()})


def _entries(folder: Path) -> dict[str, Path]:
    entries: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES):
            continue
        name = path.name if path.is_dir() else path.stem
        if name in entries:
            raise SMCDError(
                f"{folder}: {entries[name].name} and {path.name} both give the clip id {name!r}; rename one of them",
                argument="source",
                path=path,
                value=name,
            )
        entries[name] = path
    return dict(sorted(entries.items()))


def _frames(path: Path) -> tuple[list[Frame], list[str]]:
    if path.is_file():
        return _video_frames(path)
    videos = [entry for entry in _files(path) if entry.suffix.lower() in VIDEO_SUFFIXES]
    folders = [folder for folder in (path, *(path / name for name in FRAME_FOLDERS)) if _pictures(folder)]
    if len(videos) + len(folders) != 1:
        found = ", ".join(entry.name for entry in (*videos, *folders)) or "neither"
        raise BadClip(f"{path}: must hold one video or one folder of frames, got {found}", kind="no video")
    if videos:
        return _video_frames(videos[0])
    frames = [read_frame(file) for file in _pictures(folders[0])]
    return frames, [RECODED] * any(frame.recoded for frame in frames)


def _video_frames(path: Path) -> tuple[list[Frame], list[str]]:
    with bad_clip_if_wrong(UNREADABLE):
        video, _ = read_video(path)
    size = (video.shape[2], video.shape[1])
    return [Frame(encode_jpeg(picture), size, recoded=True) for picture in video], [FROM_VIDEO]


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    suffixes = set(PICTURE_SUFFIXES) - set(VIDEO_SUFFIXES)
    files = [entry for entry in _files(folder) if entry.suffix.lower() in suffixes and entry.name != _NOT_A_FRAME]
    return sorted(files, key=lambda entry: ([int(digits) for digits in re.findall(r"\d+", entry.name)], entry.name))


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))


def _tracks_file(path: Path) -> Path | None:
    """Returns the folder, or the file next to a video, that holds the tracks; None for a clip without tracks."""
    if path.is_dir():
        files = [*_files(path), *(path / "gt").glob("*")]
        tables = [file for file in files if file.suffix.lower() in TRACK_SUFFIXES and file.name not in _TEXTS]
        return path if tables else None
    return next(filter(Path.is_file, (path.with_suffix(suffix) for suffix in TRACK_SUFFIXES)), None)


def _fitting_tracks(path: Path, file: Path, size: tuple[int, int], frames: int) -> tuple[BoxTracks, list[str]]:
    """Returns the tracks with one row per frame, and notes for the report."""
    tracks, notes = _tracks(path, file, size, frames=frames), []
    if tracks.num_frames != frames:
        tracks = _numbered_like_pictures(path, tracks, frames)
        notes.append(NUMBERED)
    notes += [FRACTIONS] * any("fractions of a picture" in note for note in tracks.notes)
    notes += [ENDS_EARLY] * any("no object is present after it" in note for note in tracks.notes)
    notes += [CLIPPED] * any("clipped to the picture" in note for note in tracks.notes)
    notes += [ANOTHER_ASPECT] * any("another aspect" in note for note in tracks.notes)
    return tracks, notes


def _tracks(path: Path, file: Path, size: tuple[int, int], *, frames: int) -> BoxTracks:
    label = _text_beside(path, "label.txt")
    with bad_clip_if_wrong("bad tracks"):
        try:
            return load_tracks(file, image_size=size, label=label, video_frames=frames)
        except SMCDError as error:
            # `smcd tracks` resolves these ambiguities with a flag; here, a file resolves them.
            if error.argument not in _ADVICE:
                raise
            held = f"holds {' and '.join(error.value)}; " if isinstance(error.value, list) else ""
            advice = f"{file}: {held}{_ADVICE[error.argument]}"
            raise SMCDError(advice, argument=error.argument, path=error.path) from error


def _numbered_like_pictures(path: Path, tracks: BoxTracks, frames: int) -> BoxTracks:
    """Returns the tracks starting at the frame to which the first picture's number refers.

    Raises:
        BadClip: The tracks have another number of frames than the video, and the numbers of the pictures do not
            explain the difference.
    """
    empty = int(np.argmax(tracks.mask.any(axis=1)))
    first = next((int(digits) for file in _all_pictures(path)[:1] for digits in re.findall(r"\d+", file.stem)[-1:]), 0)
    # Frames in the file count from 0 or 1, and so may the numbers of the pictures.
    start = next((start for start in (first, first - 1) if 0 < start <= empty), None)
    if start is None or tracks.num_frames - start > frames:
        begin = f"; the first box is in frame {empty}" if empty else ""
        raise BadClip(
            f"{path}: tracks must have {frames} frames like the video, got {tracks.num_frames}{begin}",
            kind="frames do not match",
        )
    missing = frames - (tracks.num_frames - start)
    return dataclasses.replace(
        tracks,
        boxes=np.pad(tracks.boxes[start:], ((0, missing), (0, 0), (0, 0))),
        mask=np.pad(tracks.mask[start:], ((0, missing), (0, 0))),
    )


def _all_pictures(path: Path) -> list[Path]:
    return (
        [] if path.is_file() else _pictures(next(filter(_pictures, (path, *map(path.joinpath, FRAME_FOLDERS))), path))
    )


def _ends(file: Path) -> bytes:
    """Returns the content of a file; of a large file, only its beginning and end."""
    with file.open("rb") as opened:
        start = opened.read(_END_BYTES)
        opened.seek(max(len(start), file.stat().st_size - _END_BYTES))
        return start + opened.read(_END_BYTES)


def _caption(path: Path, tracks: BoxTracks | None) -> str:
    caption = (tracks and tracks.prompt) or _text_beside(path, "caption.txt") or _text_beside(path, "prompt.txt")
    if not caption:
        raise BadClip(
            f"{path}: no caption found; add a prompt to tracks.json, or a file caption.txt", kind="no caption"
        )
    return caption


def _text_beside(path: Path, name: str) -> str | None:
    """Reads `NAME/caption.txt` for a folder, `NAME.caption.txt` for a video; None if the file is missing or empty."""
    file = path / name if path.is_dir() else path.with_suffix(f".{name}")
    with bad_clip_if_wrong(f"bad {name}"):
        return read_text(file).strip() or None if file.is_file() else None
