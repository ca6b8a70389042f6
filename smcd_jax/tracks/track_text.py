"""Tracks on the command line: `rocket: 300,125,345,405 -> 300,10,345,290`, one moving object without a file."""

from __future__ import annotations

import math

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import MAX_COORDINATE
from smcd_jax.tracks.box_tracks import BoxTracks, box_fault, check_frames
from smcd_jax.tracks.interpolation import interpolate
from smcd_jax.tracks.pixel_tracks import PixelTracks

FORM = '"label: x1,y1,x2,y2 -> x1,y1,x2,y2"'


def parse_track(text: str, *, image_size: tuple[int, int], frames: int) -> BoxTracks:
    """One object from its text: a label, a colon and key boxes joined by `->`.

    The key boxes are spread evenly over the frames, the first on the first and the last on the last, and the object
    moves linearly between them; one box alone holds still. The label may hold colons: the last one ends it.

    Args:
        text: `label: box [-> box ...]`, a box being `x1,y1,x2,y2` in pixels of the picture.
        image_size: (width, height) of that picture; (1, 1) for boxes in 0..1.
        frames: number of frames of the result.

    Raises:
        SMCDError: another form, a number that is none, a box without area or entirely outside the picture, or more
            boxes than frames. Names the box.
    """
    check_frames(frames)
    label, colon, path = text.rpartition(":")
    label = label.strip()
    if not colon or not label:
        raise SMCDError(f"track {text!r} has no label: write {FORM}")
    keys = np.array([_box(part, label, number) for number, part in enumerate(path.split("->"))])
    if len(keys) > frames:
        raise SMCDError(f"track {label!r} has {len(keys)} boxes for {frames} frames: give at most one for each frame")
    key_times = np.linspace(0, frames - 1, len(keys))
    tracks = PixelTracks(
        boxes=interpolate(key_times, keys, np.arange(frames))[:, None],
        present=np.ones((frames, 1), bool),
        labels=(label,),
        size=image_size,
        source="--track",
    )
    return tracks.to_box_tracks(image_size=image_size)


def _box(part: str, label: str, number: int) -> list[float]:
    where = f"track {label!r}, box {number}"
    fields = part.split(",")
    if len(fields) != 4:
        raise SMCDError(f"{where}: {part.strip()!r} is not four numbers x1,y1,x2,y2: write {FORM}")
    sides = [_side(field, where) for field in fields]
    fault = box_fault(np.array(sides))
    if fault:
        raise SMCDError(f"{where}: {fault}")
    return sides


def _side(field: str, where: str) -> float:
    try:
        value = float(field)
    except ValueError as error:
        raise SMCDError(f"{where}: {field.strip()!r} is not a number: write {FORM}") from error
    if not math.isfinite(value) or abs(value) > MAX_COORDINATE:
        raise SMCDError(f"{where}: {field.strip()!r} is not a finite number below {MAX_COORDINATE:g}")
    return value
