"""The track file `tracks.json` (format smcd-tracks, version 1): keyframes per object, checked strictly."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_text
from smcd_jax.files.json_value import JsonValue
from smcd_jax.files.text_files import parse_json, read_text
from smcd_jax.tracks.box_tracks import LABEL_RULE, BoxTracks, box_fault, check_frames, is_label, valid_boxes
from smcd_jax.tracks.interpolation import INTERPOLATIONS, frame_times, interpolate
from smcd_jax.tracks.pixel_tracks import PixelTracks, check_count, frame_runs, to_pixels

FORMAT = "smcd-tracks"
VERSION = 1
# Larger numbers of frames are typing errors; the limit keeps them from filling the memory.
MAX_FRAMES = 100_000


@dataclass(frozen=True)
class Keyframe:
    """Box of an object at one frame: xyxy in pixels of the file."""

    frame: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class TrackObject:
    """One object of a track file; `visible` holds ranges (first frame, last frame), None for all frames."""

    label: str
    keyframes: tuple[Keyframe, ...]
    interpolation: str = "linear"
    visible: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class TrackFile:
    """A parsed track file; `size` is the (width, height) that boxes refer to, (1, 1) for boxes in 0..1."""

    frames: int
    size: tuple[float, float]
    objects: tuple[TrackObject, ...]
    prompt: str | None = None
    source: str = "tracks.json"

    def to_pixel_tracks(self, frames: int | None = None) -> PixelTracks:
        """Returns the boxes at every frame, interpolated from the keyframes.

        If ``frames`` is not the number in the file, the same motion is spread over it: first frame on first, last on
            last. An object is present if it is present in the nearest frame of the file; next to frames that hide it,
            its box is that of the nearest frame.

        Args:
            frames: Number of frames of the result; None for that of the file.

        Raises:
            SMCDError: `frames` is not a positive whole number, or `smooth` interpolation between keyframes makes a box
                without area, because its sides move at different speeds.
        """
        count = self.frames if frames is None else frames
        check_frames(count)
        check_count(count, len(self.objects), self.source)
        at = frame_times(self.frames, count)
        boxes = np.zeros((count, len(self.objects), 4))
        present = np.zeros((count, len(self.objects)), bool)
        for index, track in enumerate(self.objects):
            visible = _visible_frames(track, self.frames)
            times = np.where(visible[at.lower] & visible[at.upper], at.times, at.nearest)
            key_times = np.array([keyframe.frame for keyframe in track.keyframes])
            key_boxes = np.array([keyframe.box for keyframe in track.keyframes], np.float64)
            boxes[:, index] = interpolate(key_times, key_boxes, times, track.interpolation)
            present[:, index] = visible[at.nearest]
        tracks = PixelTracks(
            boxes=boxes,
            present=present,
            labels=tuple(track.label for track in self.objects),
            size=self.size,
            source=self.source,
            prompt=self.prompt,
            notes=(f"{self.source}: read as {FORMAT} {VERSION}: {_unit(self.size)}, frames from 0",),
            path=self.source,
            unit_stated=True,
        )
        _check_folds(tracks)
        return tracks


def read_track_file(path: Path) -> TrackFile:
    """Returns the content of a track file, or of `tracks.json` in a folder.

    Raises:
        SMCDError: The file violates the format. `argument` is the key, such as `objects[0].keyframes[1].box`.
    """
    file = path / "tracks.json" if path.is_dir() else path
    return parse_track_file(read_text(file), str(file))


def parse_track_file(text: str, source: str = "tracks.json") -> TrackFile:
    """Returns the content of a track file given as text; `source` is the name of the file in errors."""
    content = JsonValue(parse_json(text, source), source)
    if (format := content.get("format")).data != FORMAT:
        raise format.error(f"must be {FORMAT!r}")
    content.get("version").integer(low=VERSION, high=VERSION)
    content.check_keys(required=("format", "version", "frames", "size", "objects"), optional=("prompt",))
    frames = content.get("frames").integer(low=1, high=MAX_FRAMES)
    prompt = content.get("prompt")
    if "prompt" in content.data and not isinstance(prompt.data, str):
        raise prompt.error("must be text")
    size = content.get("size").numbers(("width", "height"))
    if min(size) <= 0:
        raise content.get("size").error("must be positive")
    objects = content.get("objects").items(non_empty=True)
    return TrackFile(frames, size, tuple(_object(item, frames) for item in objects), prompt.data, source)


def write_track_file(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Writes `track_file_text` to `path`; nothing is lost, so it returns ()."""
    write_text(path, track_file_text(tracks, image_size=image_size))
    return ()


def track_file_text(tracks: BoxTracks, *, image_size: tuple[int, int] | None = None) -> str:
    """Returns the tracks as the text of a track file: one keyframe per visible frame, `linear`, ranges from the mask.

    Args:
        tracks: Tracks to write.
        image_size: (width, height) of the picture: boxes are in pixels, rounded to 4 decimals. None for boxes in 0..1,
            which are read back as the same float32 values.

    Raises:
        SMCDError: An object is absent from all frames, which the format cannot represent.
    """
    if image_size is None:
        # The shortest decimals that are read back as the same float32 values.
        boxes = tracks.boxes.astype(str).astype(np.float64)
    else:
        boxes = np.round(to_pixels(tracks, image_size, FORMAT), 4)
    content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "frames": tracks.num_frames}
    content["size"] = [1, 1] if image_size is None else [_short(side) for side in image_size]
    if tracks.prompt is not None:
        content["prompt"] = tracks.prompt
    content["objects"] = [_object_content(tracks, boxes, index) for index in range(tracks.num_objects)]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _object_content(tracks: BoxTracks, boxes: np.ndarray, index: int) -> dict[str, Any]:
    frames = np.flatnonzero(tracks.mask[:, index])
    if len(frames) == 0:
        raise SMCDError(
            f"object {index} {tracks.labels[index]!r} is absent from all frames, but a track file needs a keyframe; "
            "remove it",
            argument="tracks",
            value=tracks.labels[index],
        )
    keyframes = [{"frame": int(frame), "box": [_short(side) for side in boxes[frame, index]]} for frame in frames]
    content: dict[str, Any] = {"label": tracks.labels[index], "interpolation": "linear", "keyframes": keyframes}
    if len(frames) < tracks.num_frames:
        content["visible"] = [list(run) for run in frame_runs(frames)]
    return content


def _object(item: JsonValue, frames: int) -> TrackObject:
    item.check_keys(required=("label", "keyframes"), optional=("interpolation", "visible"))
    label, interpolation = item.get("label"), item.data.get("interpolation", "linear")
    if not is_label(label.data):
        raise SMCDError(
            f"{item.place}: {LABEL_RULE}, got {label.data!r}", argument=label.key, path=label.path, value=label.data
        )
    if interpolation not in INTERPOLATIONS:
        raise item.get("interpolation").error(f"must be one of {', '.join(INTERPOLATIONS)}")
    keyframes = tuple(_keyframe(value, frames) for value in item.get("keyframes").items(non_empty=True))
    for number, (earlier, later) in enumerate(itertools.pairwise(keyframes), 1):
        if later.frame <= earlier.frame:
            frame = item.get("keyframes").items()[number].get("frame")
            raise frame.error(f"must be greater than {earlier.frame}, the frame of the keyframe before")
    visible = _visible(item.get("visible"), frames) if "visible" in item.data else None
    return TrackObject(label.data, keyframes, interpolation, visible)


def _keyframe(item: JsonValue, frames: int) -> Keyframe:
    item.check_keys(required=("frame", "box"))
    frame = item.get("frame").integer(low=0, high=frames - 1)
    box = item.get("box").numbers(("x1", "y1", "x2", "y2"))
    if fault := box_fault(box):
        raise item.get("box").error(f"has no area: {fault}", got=False)
    return Keyframe(frame, box)


def _visible(ranges: JsonValue, frames: int) -> tuple[tuple[int, int], ...]:
    checked = []
    for item in ranges.items(non_empty=True):
        if len(ends := item.items()) != 2:
            raise item.error("must be [first frame, last frame]")
        first = ends[0].integer(low=0, high=frames - 1)
        checked.append((first, ends[1].integer(low=first, high=frames - 1)))
    return tuple(checked)


def _visible_frames(track: TrackObject, frames: int) -> np.ndarray:
    visible = np.full(frames, track.visible is None)
    for first, last in track.visible or ():
        visible[first : last + 1] = True
    return visible


def _check_folds(tracks: PixelTracks) -> None:
    folded = np.argwhere(tracks.present & ~valid_boxes(tracks.boxes))
    if len(folded) > 0:
        frame, index = folded[0]
        raise SMCDError(
            f"{tracks.where(index, frame)}: smooth interpolation folds the box "
            f"({box_fault(tracks.boxes[frame, index])}); add a keyframe or use linear interpolation",
            argument="interpolation",
            path=tracks.path,
            value="smooth",
        )


def _unit(size: tuple[float, float]) -> str:
    if size == (1, 1):
        return "x1,y1,x2,y2 in 0..1 of the picture"
    return f"x1,y1,x2,y2 in pixels of a {size[0]:g} x {size[1]:g} picture"


def _short(value: float) -> float | int:
    """Returns a whole number as int, so that JSON has no `.0`."""
    return int(value) if float(value).is_integer() else float(value)
