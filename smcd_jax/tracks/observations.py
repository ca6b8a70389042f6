"""Single boxes of identified objects in numbered frames, as most tools write them, gathered into PixelTracks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.tables import Row
from smcd_jax.tracks.pixel_tracks import PixelTracks, check_count
from smcd_jax.tracks.track_file import MAX_FRAMES


class Observation(NamedTuple):
    """One box of one object.

    Attributes:
        frame: Frame number as stated in the file.
        identity: Id of the object.
        box: Box x1, y1, x2, y2 in pixels from 0.
        label: Label, or a number that represents it; None if the file has none.
        place: Place in the file, such as `line 3`.
    """

    frame: int
    identity: Hashable
    box: tuple[float, float, float, float]
    label: str | float | None
    place: str


def gather(
    observations: Sequence[Observation],
    *,
    path: str,
    source: str | None = None,
    first_frame: int = 0,
    frames: int | None = None,
    size: tuple[float, float] | None = None,
    notes: Sequence[str] = (),
) -> PixelTracks:
    """Returns the objects in order of their ids; an object is absent from frames without a box of it.

    An object with two different labels gets none, and `label_fault` names both places; `--label` resolves this.

    Args:
        observations: Boxes, at least one.
        path: Name of the file.
        source: Place the boxes come from, for messages; the file by default.
        first_frame: Number of the first frame as the file counts, 0 or 1.
        frames: Number of frames; None for a file that does not state it and ends at the last box.
        size: (width, height) of the picture.
        notes: Remarks of the reader.

    Raises:
        SMCDError: An object has two boxes in a frame (`argument` is `id`), or there are too many boxes.
    """
    source = source or path
    last = max(item.frame for item in observations) - first_frame
    count = last + 1 if frames is None else frames
    identities = sorted({item.identity for item in observations}, key=lambda key: (isinstance(key, str), key))
    check_count(count, len(identities), source)
    position = {identity: index for index, identity in enumerate(identities)}
    boxes = np.zeros((count, len(identities), 4))
    present = np.zeros((count, len(identities)), bool)
    for item in observations:
        frame, index = item.frame - first_frame, position[item.identity]
        if present[frame, index]:
            raise SMCDError(
                f"{source}: id {item.identity} has two boxes in frame {item.frame}; keep one",
                argument="id",
                path=path,
                value=item.identity,
            )
        boxes[frame, index], present[frame, index] = item.box, True
    labels, fault = _labels(observations, identities, source=source, path=path)
    start = int(np.argmax(present.any(axis=1)))
    if start > 0:
        notes = (
            *notes,
            f"{source}: the first box is in frame {start + first_frame}; no object is present in the {start} frames "
            "before it",
        )
    return PixelTracks(
        boxes=boxes,
        present=present,
        labels=labels,
        size=size,
        source=source,
        notes=tuple(notes),
        path=path,
        length_stated=frames is not None,
        label_fault=fault,
    )


def frame_number(row: Row, index: int, *, low: int = 0) -> int:
    """Returns the number of a frame from a field of a table.

    Raises:
        SMCDError: It is not a whole number from `low` to `MAX_FRAMES`.
    """
    return whole_number(row, index, "frame", low=low, high=MAX_FRAMES)


def whole_number(row: Row, index: int, name: str, *, low: int, high: int = 10**9, advice: str = "") -> int:
    """Returns a whole number from a field of a table.

    Raises:
        SMCDError: It is not a whole number from `low` to `high`.
    """
    value = row.number(index)
    if value != int(value) or not low <= value <= high:
        raise row.error(f"{name} must be a whole number from {low} to {high}, got {value:g}{advice}", value)
    return int(value)


def _labels(
    observations: Sequence[Observation], identities: Sequence[Hashable], *, source: str, path: str
) -> tuple[tuple[str | None, ...], SMCDError | None]:
    first: dict[Hashable, Observation] = {}
    fault = None
    clashing = set()
    for item in observations:
        known = first.setdefault(item.identity, item)
        if known.label != item.label and item.identity not in clashing:
            clashing.add(item.identity)
            fault = fault or SMCDError(
                f"{source}: id {item.identity} must have one class, got {_name(known.label)} on {known.place} and "
                f"{_name(item.label)} on {item.place}; correct one, or pass --label for both",
                argument="class",
                path=path,
                value=item.label,
            )
    labels = tuple(None if identity in clashing else first[identity].label for identity in identities)
    return tuple(label if isinstance(label, str) else None for label in labels), fault


def _name(label: str | float | None) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)
