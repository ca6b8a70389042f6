"""Text files of trackers with a label per row: KITTI tracking (Geiger et al. 2012) and VATIC (Vondrick et al. 2013)."""

from __future__ import annotations

from pathlib import Path

from smcd_jax.errors import SMCDError
from smcd_jax.files.tables import Row, read_table
from smcd_jax.tracks.observations import Observation, frame_number, gather, whole_number
from smcd_jax.tracks.pixel_tracks import PixelTracks

KITTI_COLUMNS, VATIC_COLUMNS = (17, 18), 10
_IGNORED = "dontcare"


def read_kitti(path: Path) -> PixelTracks:
    """Returns the objects of a KITTI tracking file, in order of their ids; frames and pixels count from 0.

    A row is `frame id type truncated occluded alpha x1 y1 x2 y2`, followed by 7 or 8 numbers for the 3D box. Rows of
    type DontCare are left out.

    Raises:
        SMCDError: A row has another form, or no row is left.
    """
    rows = read_table(path).rows
    observations = []
    for row in rows:
        row.check_count(KITTI_COLUMNS)
        if row.fields[2].lower() != _IGNORED:
            identity = whole_number(row, 1, "id", low=0, advice="; track detections (id -1) first")
            observations.append(_observation(row, frame_number(row, 0), identity, first_side=6, label=row.fields[2]))
    notes = [f"{path}: read as KITTI tracking: x1,y1,x2,y2 in pixels from 0, frames from 0, one object per id"]
    if len(observations) < len(rows):
        notes.append(f"{path}: {len(rows) - len(observations)} of {len(rows)} rows are DontCare and are left out")
    return gather(_some(observations, path), path=str(path), notes=notes)


def read_vatic(path: Path) -> PixelTracks:
    """Returns the objects of a VATIC file, in order of their ids; frames and pixels count from 0.

    A row is `id x1 y1 x2 y2 frame lost occluded generated "label"`. Objects are absent where lost is 1.

    Raises:
        SMCDError: A row has another form, or no row is left.
    """
    observations, frames = [], 0
    for row in read_table(path).rows:
        row.check_count((VATIC_COLUMNS,))
        frame, identity = frame_number(row, 5), whole_number(row, 0, "id", low=0)
        frames = max(frames, frame + 1)
        if whole_number(row, 6, "lost", low=0, high=1) == 0:
            observations.append(_observation(row, frame, identity, first_side=1, label=row.fields[9]))
    note = f'{path}: read as VATIC: id x1 y1 x2 y2 frame lost occluded generated "label", frames from 0'
    return gather(_some(observations, path), path=str(path), notes=[note], frames=frames)


def is_vatic(row: Row) -> bool:
    """Returns whether a row has ten columns that end in a label."""
    return len(row.fields) == VATIC_COLUMNS and row.is_word(9) and row.is_number(8)


def is_kitti(row: Row) -> bool:
    """Returns whether a row has the columns of KITTI tracking."""
    return len(row.fields) in KITTI_COLUMNS and row.is_word(2)


def _observation(row: Row, frame: int, identity: int, *, first_side: int, label: str) -> Observation:
    box = tuple(row.number(index) for index in range(first_side, first_side + 4))
    return Observation(frame, identity, box, label, f"line {row.line}")


def _some(observations: list[Observation], path: Path) -> list[Observation]:
    if not observations:
        raise SMCDError(f"{path}: no row describes an object; check that this is the right file", path=path)
    return observations
