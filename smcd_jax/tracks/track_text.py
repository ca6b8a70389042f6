"""Tracks as text on the command line: `rocket: 300,125,345,405 -> 300,10,345,290`."""

from __future__ import annotations

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import parse_number
from smcd_jax.tracks.box_tracks import BoxTracks, box_fault, check_frames
from smcd_jax.tracks.interpolation import interpolate
from smcd_jax.tracks.pixel_tracks import PixelTracks

SYNTAX = '"label: x1,y1,x2,y2 -> x1,y1,x2,y2"'


def parse_track(text: str, *, image_size: tuple[int, int], frames: int) -> BoxTracks:
    """Returns the tracks of one object written as a label, a colon and boxes joined by `->`.

    The boxes are spread evenly over the frames, the first on the first and the last on the last; the object moves
    linearly between them. A single box stays still. The label may contain colons: the last one ends it.

    Args:
        text: `label: box [-> box ...]`, each box as `x1,y1,x2,y2` in pixels of the picture.
        image_size: (width, height) of the picture in pixels; (1, 1) for boxes in 0..1.
        frames: Number of frames of the result.

    Raises:
        SMCDError: The text has another form, a number is not finite, a box has no area or lies entirely outside the
            picture, or there are more boxes than frames. `argument` is `track`; `value` is the part at fault.
    """
    check_frames(frames)
    label, colon, path = text.rpartition(":")
    label = label.strip()
    if not colon or not label:
        raise SMCDError(f"track {text!r} has no label; write {SYNTAX}", argument="track", value=text)
    keys = np.array([_box(part, f"track {label!r}, box {number}:") for number, part in enumerate(path.split("->"))])
    if len(keys) > frames:
        raise SMCDError(
            f"track {label!r} must have at most one box per frame, got {len(keys)} boxes for {frames} frames",
            argument="track",
            value=len(keys),
        )
    key_times = np.linspace(0, frames - 1, len(keys))
    tracks = PixelTracks(
        boxes=interpolate(key_times, keys, np.arange(frames))[:, None],
        present=np.ones((frames, 1), bool),
        labels=(label,),
        size=image_size,
        source="--track",
        argument="track",
    )
    return tracks.to_box_tracks(image_size=image_size)


def _box(text: str, where: str) -> list[float]:
    fields = text.split(",")
    if len(fields) != 4:
        raise SMCDError(
            f"{where} {text.strip()!r} is not four numbers x1,y1,x2,y2; write {SYNTAX}",
            argument="track",
            value=text.strip(),
        )
    box = [parse_number(field, where, argument="track") for field in fields]
    if fault := box_fault(box):
        raise SMCDError(f"{where} {fault}", argument="track", value=box)
    return box
