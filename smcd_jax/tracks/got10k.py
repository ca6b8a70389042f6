"""Sequences of one object with x,y,w,h per frame: GOT-10k (Huang et al. 2019), LaSOT, UAV123, OTB and VOT."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_text
from smcd_jax.files.tables import read_numbers, read_table
from smcd_jax.files.text_files import format_number, read_ini, read_text
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.pixel_tracks import (
    PixelTracks,
    are_fractions,
    format_frames,
    to_pixels,
    whole_size,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

BOXES, ABSENCE, META, SECTION = "groundtruth.txt", "absence.label", "meta_info.ini", "METAINFO"
OTB_BOXES = "groundtruth_rect.txt"
LASOT_ABSENCE, LASOT_PROMPT = ("out_of_view.txt", "full_occlusion.txt"), "nlp.txt"
_LASOT_NAME = re.compile(r"(.*\D)-\d+")
_RESOLUTION = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_PROMPT = re.compile(r"A (?P<object>.+) that is (?P<motion>.+)\. ")


def read_got10k(path: Path, *, pixels_from: int | None = None) -> PixelTracks:
    """Returns the single object of a sequence folder, or of its `groundtruth.txt`; boxes are in pixels from 0.

    The object is absent where `absence.label` (GOT-10k), `out_of_view.txt` or `full_occlusion.txt` (LaSOT) is 1, where
    the line is NaN (UAV123), and, if there is no `absence.label`, where width and height are 0 or less. `meta_info.ini`
    gives the label (object_class), the size (resolution) and the prompt. `nlp.txt` (LaSOT) gives a prompt too, and the
    name of a LaSOT folder, such as `lion-5`, a label. Each is None if it is missing. Eight numbers per line are the
    corners of a polygon (VOT); its bounding box is read, and a note says so.

    Args:
        path: File, or folder with `groundtruth.txt` or `groundtruth_rect.txt` (OTB).
        pixels_from: Number of the first pixel, 0 or 1; None for 1 if the file is named as in OTB, else 0.

    Raises:
        SMCDError: A file violates its format, or a file of absent frames has another number of lines than the boxes.
    """
    file = _boxes_file(path) if path.is_dir() else path
    rows = np.array(read_numbers(file, (4, 8), missing=True))
    notes = []
    if rows.shape[1] == 8:
        corners = rows.reshape(len(rows), 4, 2)
        low, high = corners.min(axis=1), corners.max(axis=1)
        rows = np.concatenate([low, high - low], axis=1)
        notes.append(f"{file}: 8 numbers per line are read as the corners of a polygon; its bounding box is used")
    if pixels_from is None:
        pixels_from = int(file.name.startswith(OTB_BOXES.removesuffix(".txt")))
    boxes = xywh_to_xyxy(rows - [pixels_from, pixels_from, 0, 0] if not are_fractions(xywh_to_xyxy(rows)) else rows)
    present, absent_notes = _presence(file, rows)
    meta_file = file.with_name(META)
    meta = read_ini(meta_file, SECTION) if meta_file.is_file() else {}
    label, prompt = meta.get("object_class") or None, got10k_prompt(meta.get("object_class"), meta.get("motion_class"))
    if any(file.with_name(name).is_file() for name in LASOT_ABSENCE):
        match = _LASOT_NAME.fullmatch(file.absolute().parent.name)
        label = label or (match and match[1])
    if prompt is None and file.with_name(LASOT_PROMPT).is_file():
        prompt = " ".join(read_text(file.with_name(LASOT_PROMPT)).split()) or None
    size = _resolution(meta["resolution"], meta_file) if "resolution" in meta else None
    read_as = f"{file}: read as GOT-10k: x,y,width,height in pixels from {pixels_from}, one line per frame"
    return PixelTracks(
        boxes=np.where(present[:, None, None], boxes[:, None], 0.0),
        present=present[:, None],
        labels=(label,),
        size=size,
        source=str(file),
        prompt=prompt,
        notes=(read_as, *notes, *absent_notes, *_order_notes(file, rows, present, size)),
        path=str(file),
        hint="if the lines are x1,y1,x2,y2, pass --tracks_format reference",
    )


def read_otb(path: Path) -> PixelTracks:
    """Like `read_got10k`, for files whose pixels count from 1, as in OTB and MATLAB."""
    return read_got10k(path, pixels_from=1)


def got10k_prompt(object_class: str | None, motion_class: str | None) -> str | None:
    """Returns the caption used in training, which ends in a space; None if one of the two is missing."""
    if not object_class or not motion_class:
        return None
    return f"A {object_class} that is {motion_class}. "


def write_got10k(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Writes the three files of a sequence into the folder `path`; boxes in pixels with 4 decimals, as in GOT-10k.

    Returns:
        Texts that say what the files lack: a prompt that does not have the form `A {object} that is {motion}. `.

    Raises:
        SMCDError: There are several objects, which the format cannot hold.
    """
    boxes = to_pixels(tracks, image_size, "got10k")
    width, height = whole_size(image_size, "got10k")
    if tracks.num_objects > 1:
        raise SMCDError(
            f"a GOT-10k sequence holds one object, got {tracks.num_objects}; save as smcd-tracks",
            argument="tracks",
            value=tracks.num_objects,
        )
    rows = [",".join(format_number(side) for side in box) for box in xyxy_to_xywh(boxes[:, 0])]
    write_text(path / BOXES, "\n".join(rows) + "\n")
    write_text(path / ABSENCE, "\n".join(str(int(not shown)) for shown in tracks.mask[:, 0]) + "\n")
    match = _PROMPT.fullmatch(tracks.prompt or "")
    carried = match is not None and match["object"] == tracks.labels[0]
    meta = [f"[{SECTION}]", f"object_class: {tracks.labels[0]}"]
    if carried:
        meta.append(f"motion_class: {match['motion']}")
    meta.append(f"resolution: ({width}, {height})")
    write_text(path / META, "\n".join(meta) + "\n")
    if tracks.prompt is None or carried:
        return ()
    return (
        "GOT-10k files hold only prompts of the form 'A {object} that is {motion}. '; "
        f"{tracks.prompt!r} is left out",
    )


def _boxes_file(folder: Path) -> Path:
    """Returns the file of boxes in a folder.

    Raises:
        SMCDError: The folder holds the boxes of several objects.
    """
    if (folder / BOXES).is_file():
        return folder / BOXES
    found = sorted(folder.glob("groundtruth_rect*.txt"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise SMCDError(f"{folder}: holds several objects; name one of {names}", argument="file", path=folder)
    return found[0] if found else folder / BOXES


def _presence(file: Path, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns in which frames the object is present, bool `[frames]`, and notes on the files that determine this."""
    present, notes = np.ones(len(rows), bool), []
    labelled = file.with_name(ABSENCE).is_file()
    for name in (ABSENCE, *LASOT_ABSENCE):
        if file.with_name(name).is_file():
            absent = _flags(file.with_name(name), len(rows), boxes=file.name)
            present &= ~absent
            if name != ABSENCE and absent.any():
                notes.append(f"{file}: absent in frames {format_frames(np.flatnonzero(absent))}, as {name} says")
    valueless = np.isnan(rows).any(axis=1)
    if not labelled:
        valueless |= (rows[:, 2:] <= 0).all(axis=1)
    if (present & valueless).any():
        frames = format_frames(np.flatnonzero(present & valueless))
        notes.append(f"{file}: absent in frames {frames}, whose lines hold no box")
    return present & ~valueless, notes


def _flags(path: Path, frames: int, *, boxes: str) -> np.ndarray:
    """Returns the marks of a file, 0 or 1 per line or all on one line, as bool `[frames]`."""
    table = [[row.number(index) for index in range(len(row.fields))] for row in read_table(path).rows]
    marks = table[0] if len(table) == 1 else [mark for row in table for mark in row]
    if len(marks) != frames:
        raise SMCDError(
            f"{path}: must have {frames} marks, one per line of {boxes}, got {len(marks)}",
            path=path,
            value=len(marks),
        )
    for line, value in enumerate(marks, 1):
        if value not in (0, 1):
            raise SMCDError(
                f"{path}: line {line} must be 0 (present) or 1 (absent), got {value:g}",
                argument=f"line {line}",
                path=path,
                value=value,
            )
    return np.array(marks) == 1


def _order_notes(file: Path, rows: np.ndarray, present: np.ndarray, size: tuple[int, int] | None) -> list[str]:
    """Returns a note if the lines fit the picture as x1,y1,x2,y2 but extend far beyond it as x,y,width,height."""
    shown = rows[present]
    if size is None or len(shown) == 0:
        return []
    inside = (shown[:, :2] < shown[:, 2:]).all() and (shown[:, 2:] <= np.array(size) + 1).all()
    beyond = (shown[:, :2] + shown[:, 2:] > 1.1 * np.array(size)).any(axis=1).mean()
    if not inside or beyond < 0.5:
        return []
    return [
        f"{file}: most boxes leave the picture as x,y,width,height and fit it as x1,y1,x2,y2; if they are that, pass "
        "--tracks_format reference"
    ]


def _resolution(text: str, path: Path) -> tuple[int, int]:
    match = _RESOLUTION.fullmatch(text.strip())
    if match is None:
        raise SMCDError(
            f"{path}: resolution must have the form (1920, 1080), got {text!r}",
            argument="resolution",
            path=path,
            value=text,
        )
    return int(match[1]), int(match[2])
