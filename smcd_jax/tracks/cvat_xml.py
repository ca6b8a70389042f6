"""CVAT's XML ("CVAT for video 1.1"): tracks of boxes at keyframes, between which CVAT moves them linearly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import parse_number, read_text
from smcd_jax.tracks.interpolation import interpolate
from smcd_jax.tracks.pixel_tracks import PixelTracks, check_count
from smcd_jax.tracks.track_file import MAX_FRAMES

_OTHER_SHAPES = ("polygon", "polyline", "points", "mask", "ellipse")
_SIDES = ("xtl", "ytl", "xbr", "ybr")


def read_cvat_xml(path: Path) -> PixelTracks:
    """Returns the tracks of boxes in order of the file; frames and pixels count from 0.

    A track is absent from a box with `outside="1"` until its next box, and before its first one. Size and number of
    frames come from the `meta` of the file; without it, the size is None and the video ends at the last box. Tracks of
    other shapes are left out, and a note counts them.

    Raises:
        SMCDError: The file is not CVAT's XML for video, or has no track of boxes.
    """
    root = _parse(path)
    if root.find("track") is None and root.find("image") is not None:
        raise SMCDError(
            f"{path}: CVAT's XML for images holds no tracks; export the task as 'CVAT for video 1.1' or 'MOT 1.1'",
            argument="format",
            path=path,
        )
    tracks = [(track, track.findall("box")) for track in root.iter("track")]
    shapes = sum(track.find(kind) is not None for track, _ in tracks for kind in _OTHER_SHAPES)
    tracks = [(track, boxes) for track, boxes in tracks if boxes]
    if not tracks:
        raise SMCDError(
            f"{path}: no track of boxes ({shapes} of other shapes); export tracks of rectangles",
            path=path,
            value=shapes,
        )
    start = int(_meta(root, "start_frame", path) or 0)
    keys = [_keys(track, boxes, path, start=start) for track, boxes in tracks]
    last = int(max(times[-1] for times, _, _ in keys)) + 1
    stated = _meta(root, "size", path)
    frames = last if stated is None else max(last, int(stated))
    check_count(frames, len(keys), str(path))
    boxes = np.zeros((frames, len(keys), 4))
    present = np.zeros((frames, len(keys)), bool)
    for index, (times, sides, outside) in enumerate(keys):
        boxes[:, index] = interpolate(times, sides, np.arange(frames))
        latest = np.searchsorted(times, np.arange(frames), side="right") - 1
        present[:, index] = (latest >= 0) & ~outside[np.maximum(latest, 0)]
    notes = [f"{path}: read as CVAT's XML for video: corners in pixels from 0, linear between keyframes, frames from 0"]
    if shapes:
        notes.append(f"{path}: {shapes} tracks of other shapes than boxes are left out")
    turned = sum(float(box.get("rotation") or 0) != 0 for _, boxes in tracks for box in boxes if _is_number(box))
    if turned:
        notes.append(f"{path}: {turned} boxes are rotated; they are read as drawn before the rotation")
    width, height = (_meta(root, f"original_size/{side}", path) for side in ("width", "height"))
    return PixelTracks(
        boxes=boxes,
        present=present,
        labels=tuple(" ".join((track.get("label") or "").split()) or None for track, _ in tracks),
        size=None if width is None or height is None else (width, height),
        source=str(path),
        notes=tuple(notes),
        path=str(path),
        length_stated=stated is not None,
    )


def _parse(path: Path) -> ElementTree.Element:
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # nested entities could fill the memory
        raise SMCDError(f"{path}: XML that declares entities cannot be read; export the file again", path=path)
    try:
        # Without the XML declaration, which may state the encoding of the file before it was decoded.
        root = ElementTree.fromstring(text.partition("?>")[2] if text.lstrip().startswith("<?xml") else text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise SMCDError(f"{path}: not XML: {error}", path=path) from error
    if root.tag != "annotations":
        raise SMCDError(
            f"{path}: XML with root <{root.tag[:40]}> cannot be read; only 'CVAT for video 1.1' can",
            argument="format",
            path=path,
            value=root.tag,
        )
    return root


def _meta(root: ElementTree.Element, key: str, path: Path) -> float | None:
    """Returns a number from the `meta` of a task, job or project; None if it is missing."""
    for kind in ("task", "job"):
        found = root.find(f"meta/{kind}/{key}")
        if found is not None and (found.text or "").strip():
            value = parse_number(found.text, f"{path}: meta {key}:", argument=key, path=path)
            limit = MAX_FRAMES if key != "start_frame" else 10**9
            if value < 0 or value > limit:
                raise SMCDError(f"{path}: meta {key} must be at most {limit}, got {value:g}", argument=key, path=path)
            return value
    return None


def _keys(
    track: ElementTree.Element, boxes: list[ElementTree.Element], path: Path, *, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns frames `[k]`, corners `[k, 4]` and whether the object is outside `[k]`, in order of the frames."""
    where = f"{path}: track {track.get('id') or '?'}"
    keys: dict[int, tuple[list[float], bool]] = {}
    for box in boxes:
        frame = _attribute(box, "frame", where, path) - start
        if frame != int(frame) or not 0 <= frame < MAX_FRAMES:
            raise SMCDError(
                f"{where}: frame must be a whole number from 0 to {MAX_FRAMES - 1}, got {frame:g}",
                argument="frame",
                path=path,
                value=frame,
            )
        if int(frame) in keys:
            raise SMCDError(
                f"{where}: two boxes in frame {frame:g}; keep one", argument="frame", path=path, value=frame
            )
        keys[int(frame)] = ([_attribute(box, side, where, path) for side in _SIDES], box.get("outside") == "1")
    times = sorted(keys)
    sides = np.array([keys[time][0] for time in times], np.float64)
    return np.array(times), sides, np.array([keys[time][1] for time in times])


def _attribute(box: ElementTree.Element, name: str, where: str, path: Path) -> float:
    fields: dict[str, Any] = {"argument": name, "path": path}
    if box.get(name) is None:
        raise SMCDError(f"{where}: a box has no {name}; export the file again", **fields)
    return parse_number(box.get(name), f"{where}: {name}", **fields)


def _is_number(box: ElementTree.Element) -> bool:
    try:
        return math.isfinite(float(box.get("rotation") or 0))
    except ValueError:
        return False
