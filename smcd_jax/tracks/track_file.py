"""The track file `tracks.json` (format smcd-tracks, version 1): keyframes per object, read strictly."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import MAX_COORDINATE, parse_json, read_text
from smcd_jax.tracks.box_tracks import BoxTracks, box_fault, check_frames, sound_boxes
from smcd_jax.tracks.interpolation import INTERPOLATIONS, frame_times, interpolate
from smcd_jax.tracks.pixel_tracks import PixelTracks, frame_runs, to_pixels

FORMAT = "smcd-tracks"
VERSION = 1
# A frame count is a typing error long before it is a video; this one keeps it from filling the memory.
MAX_FRAMES = 100_000


@dataclass(frozen=True)
class Keyframe:
    """A box (xyxy, in the file's pixels) that the object has at one frame."""

    frame: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class TrackObject:
    """One object of a track file. `visible` holds frame ranges, ends included; None means all frames."""

    label: str
    keyframes: tuple[Keyframe, ...]
    interpolation: str = "linear"
    visible: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class TrackFile:
    """A parsed track file. `size` is the (width, height) the boxes were drawn on, (1, 1) for boxes in 0..1."""

    frames: int
    size: tuple[float, float]
    objects: tuple[TrackObject, ...]
    prompt: str | None = None
    source: str = "tracks.json"

    def to_pixel_tracks(self, frames: int | None = None) -> PixelTracks:
        """Boxes at every frame, from the keyframes themselves, also where `frames` is not the file's number.

        With another number the same motion is spread over it, first frame on first and last on last; an object is
        present where it is in the nearest of the file's frames, and beside frames that hide it its box is that
        frame's.

        Raises:
            SMCDError: `smooth` between some keyframes makes a box without area (its sides move at different speed).
        """
        count = self.frames if frames is None else frames
        check_frames(count)
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
        )
        _check_folds(tracks)
        return tracks


def read_track_file(path: Path) -> TrackFile:
    """Read `tracks.json`.

    Raises:
        SMCDError: anything that the format does not allow; names file, object, frame and value.
    """
    return parse_track_file(read_text(path), str(path))


def parse_track_file(text: str, source: str = "tracks.json") -> TrackFile:
    """As `read_track_file`, from text; `source` names it in errors."""
    content = _mapping(parse_json(text, source), source)
    if content.get("format") != FORMAT:
        raise SMCDError(f"{source}: format is {content.get('format')!r}, expected {FORMAT!r}")
    version = content.get("version")
    if isinstance(version, bool) or not isinstance(version, int) or version != VERSION:
        raise SMCDError(f"{source}: version {version!r} of {FORMAT} is unknown: this program reads version {VERSION}")
    _check_keys(content, source, required=("format", "version", "frames", "size", "objects"), optional=("prompt",))
    frames = _whole(content["frames"], f"{source}: frames", low=1, high=MAX_FRAMES)
    prompt = content.get("prompt")
    if "prompt" in content and not isinstance(prompt, str):
        raise SMCDError(f"{source}: prompt must be text, got {prompt!r}")
    objects = content["objects"]
    if not isinstance(objects, list) or not objects:
        raise SMCDError(f"{source}: objects must be a list of at least one object, got {objects!r}")
    return TrackFile(
        frames=frames,
        size=_size(content["size"], source),
        objects=tuple(_object(item, index, frames, source=source) for index, item in enumerate(objects)),
        prompt=prompt,
        source=source,
    )


def track_file_text(tracks: BoxTracks, *, image_size: tuple[int, int] | None = None) -> str:
    """The text of a track file: one keyframe for each frame that shows the object, `linear`, ranges from the mask.

    Without `image_size` the size is `[1, 1]` and reading gives the same float32 boxes back; with it, boxes are pixels
    rounded to 4 decimals.

    Raises:
        SMCDError: an object is in no frame, which the format cannot say.
    """
    if image_size is None:
        # The shortest decimal that gives the same float32 again.
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
            f"object {index} {tracks.labels[index]!r} is in no frame: a track file needs a keyframe; drop it"
        )
    keyframes = [{"frame": int(frame), "box": [_short(side) for side in boxes[frame, index]]} for frame in frames]
    content: dict[str, Any] = {"label": tracks.labels[index], "interpolation": "linear", "keyframes": keyframes}
    if len(frames) < tracks.num_frames:
        content["visible"] = [list(run) for run in frame_runs(frames)]
    return content


def _object(item: Any, index: int, frames: int, *, source: str) -> TrackObject:
    where = f"{source}: object {index}"
    item = _mapping(item, where)
    if isinstance(item.get("label"), str):
        where += f" {item['label']!r}"
    _check_keys(item, where, required=("label", "keyframes"), optional=("interpolation", "visible"))
    label = item["label"]
    if not isinstance(label, str) or not label.strip() or len(label.splitlines()) > 1:
        raise SMCDError(f"{where}: label must be one line of text that is not empty, got {label!r}")
    interpolation = item.get("interpolation", "linear")
    if interpolation not in INTERPOLATIONS:
        raise SMCDError(f"{where}: interpolation {interpolation!r} is unknown: use one of {', '.join(INTERPOLATIONS)}")
    if not isinstance(item["keyframes"], list) or not item["keyframes"]:
        raise SMCDError(f"{where}: no keyframe: give keyframes at least one, got {item['keyframes']!r}")
    keyframes = tuple(
        _keyframe(value, f"{where}, keyframe {number}", frames) for number, value in enumerate(item["keyframes"])
    )
    for earlier, later in itertools.pairwise(keyframes):
        if later.frame <= earlier.frame:
            raise SMCDError(
                f"{where}: keyframe at frame {later.frame} follows frame {earlier.frame}: sort, one for each"
            )
    visible = _visible(item["visible"], where, frames) if "visible" in item else None
    return TrackObject(label, keyframes, interpolation, visible)


def _keyframe(item: Any, where: str, frames: int) -> Keyframe:
    item = _mapping(item, where)
    _check_keys(item, where, required=("frame", "box"))
    frame = _whole(item["frame"], f"{where}: frame", low=0, high=frames - 1)
    where += f" (frame {frame})"
    box = item["box"]
    if not isinstance(box, list) or len(box) != 4:
        raise SMCDError(f"{where}: box must be four numbers x1, y1, x2, y2, got {box!r}")
    sides = tuple(_number(value, f"{where}: {name}") for name, value in zip(("x1", "y1", "x2", "y2"), box, strict=True))
    fault = box_fault(np.array(sides))
    if fault:
        raise SMCDError(f"{where}: {fault}")
    return Keyframe(frame, sides)


def _visible(ranges: Any, where: str, frames: int) -> tuple[tuple[int, int], ...]:
    if not isinstance(ranges, list) or not ranges:
        raise SMCDError(f"{where}: visible must list at least one range [first, last], got {ranges!r}: or leave it out")
    checked = []
    for item in ranges:
        if not isinstance(item, list) or len(item) != 2:
            raise SMCDError(f"{where}: visible range must be [first frame, last frame], got {item!r}")
        first = _whole(item[0], f"{where}: first frame of visible range {item}", low=0, high=frames - 1)
        last = _whole(item[1], f"{where}: last frame of visible range {item}", low=first, high=frames - 1)
        checked.append((first, last))
    return tuple(checked)


def _visible_frames(track: TrackObject, frames: int) -> np.ndarray:
    visible = np.full(frames, track.visible is None)
    for first, last in track.visible or ():
        visible[first : last + 1] = True
    return visible


def _check_folds(tracks: PixelTracks) -> None:
    folded = np.argwhere(tracks.present & ~sound_boxes(tracks.boxes))
    if len(folded) > 0:
        frame, index = folded[0]
        fault = box_fault(tracks.boxes[frame, index])
        where = tracks.where(index, frame)
        raise SMCDError(f"{where}: smooth interpolation folds the box ({fault}): add a keyframe or use linear")


def _size(value: Any, source: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise SMCDError(f"{source}: size must be [width, height], got {value!r}")
    width, height = (_number(side, f"{source}: size") for side in value)
    if width <= 0 or height <= 0:
        raise SMCDError(f"{source}: size must be positive, got {value!r}")
    return width, height


def _unit(size: tuple[float, float]) -> str:
    if size == (1, 1):
        return "x1,y1,x2,y2 in 0..1 of the picture"
    return f"x1,y1,x2,y2 in pixels of a {size[0]:g} x {size[1]:g} picture"


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SMCDError(f"{where}: expected an object in braces, got {value!r:.80}")
    return value


def _check_keys(item: dict[str, Any], where: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    for key in item:
        if key not in required + optional:
            raise SMCDError(f"{where}: unknown key {key!r}: the keys are {', '.join(required + optional)}")
    for key in required:
        if key not in item:
            raise SMCDError(f"{where}: key {key!r} is missing")


def _whole(value: Any, what: str, *, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SMCDError(f"{what} must be a whole number, got {value!r}")
    if not low <= value <= high:
        raise SMCDError(f"{what} is {value}, out of range {low} to {high}")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SMCDError(f"{what} must be a number, got {value!r}")
    # Written so that NaN fails as well; whole numbers in JSON have no upper limit.
    if not abs(value) <= MAX_COORDINATE:
        raise SMCDError(f"{what} must be a finite number below {MAX_COORDINATE:g}, got {value!r:.40}")
    return float(value)


def _short(value: float) -> float | int:
    """A whole number without `.0`."""
    return int(value) if float(value).is_integer() else float(value)
