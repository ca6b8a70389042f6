"""MOTChallenge sequences (Milan et al. 2016): `gt.txt`, `seqinfo.ini` and, for other classes, `labels.txt`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_text
from smcd_jax.files.tables import Row, read_table
from smcd_jax.files.text_files import format_number, read_ini, read_text
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.observations import Observation, frame_number, gather, whole_number
from smcd_jax.tracks.pixel_tracks import (
    PixelTracks,
    are_fractions,
    to_pixels,
    whole_size,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from smcd_jax.tracks.track_file import MAX_FRAMES

BOXES, INFO, CLASSES, SECTION = "gt.txt", "seqinfo.ini", "labels.txt", "Sequence"
# Classes 1 to 13: Milan et al. 2016, table 3; the last is from MOT20.
MOT17_CLASSES = (
    "pedestrian",
    "person on vehicle",
    "car",
    "bicycle",
    "motorbike",
    "non motorized vehicle",
    "static person",
    "distractor",
    "occluder",
    "occluder on the ground",
    "occluder full",
    "reflection",
    "crowd",
)
# Zhu et al. 2021, "Detection and Tracking Meet Drones Challenge"; 0 marks regions without annotations.
VISDRONE_CLASSES = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
    "others",
)
_FRAME, _ID, _CONFIDENCE, _CLASS, _LAST = 0, 1, 6, 7, 8


def read_mot(path: Path, *, pixels_from: int | None = None) -> PixelTracks:
    """Returns the objects of a sequence folder (`gt/gt.txt` or `gt.txt`), or of the file itself, in order of their ids.

    A row is `frame,id,x,y,w,h,conf[,class[,visibility]]`, with frames and pixels from 1. Rows of ten columns, an older
    form that trackers write, have no class. Rows with conf 0 are left out, and a note counts them. The class is a name
    or a number; line n of `labels.txt` next to the file names class n, and without that file the numbers are classes of
    MOT17. Labels are None without a class. `seqinfo.ini` in the same folder or its parent gives the size and the number
    of frames; without it, the video ends at the last frame with a box. Frames count from 0 if a row has frame 0. Pixels
    count from 0 in files of CVAT, and boxes within 0..1 are fractions of the picture; notes say so.

    Args:
        path: File or folder.
        pixels_from: Number of the first pixel, 0 or 1; None for 0 in files of CVAT, else 1.

    Raises:
        SMCDError: A row has another form, an id is -1 (a detection) or occurs twice in a frame, a frame is after the
            end, or all rows have conf 0.
    """
    file = boxes_file(path)
    rows = _rows(file)
    considered = [row for row in rows if row.number(_CONFIDENCE) != 0]
    if not considered:
        raise SMCDError(
            f"{file}: all {len(rows)} rows have conf 0, so no object is left; check the column conf",
            argument="conf",
            path=file,
            value=0,
        )
    info_file, info = _sequence_info(file)
    numbers = [frame_number(row, _FRAME) for row in rows]
    first_frame = 0 if min(numbers) == 0 else 1
    frames = max(numbers) + 1 - first_frame
    stated = None
    if "seqlength" in info:
        stated = _info_number(info, "seqlength", info_file, low=frames)
    values = np.array([[row.number(index) for index in range(2, 6)] for row in considered])
    origin, note = _origin(file, considered, values, has_info=bool(info), pixels_from=pixels_from)
    notes = [f"{file}: read as MOTChallenge: x,y,width,height in {note}, frames from {first_frame}, one object per id"]
    if len(considered) < len(rows):
        notes.append(f"{file}: {len(rows) - len(considered)} of {len(rows)} rows have conf 0 and are left out")
    boxes = xywh_to_xyxy(values - [origin, origin, 0, 0])
    names, fault = _Names(file), None
    observations = []
    for row, box in zip(considered, boxes, strict=True):
        try:
            label = names.of(row)
        except SMCDError as error:
            fault, label = fault or error, row.number(_CLASS)
        place = f"line {row.line}"
        observations.append(Observation(int(row.number(_FRAME)), int(row.number(_ID)), tuple(box), label, place))
    tracks = gather(
        observations,
        path=str(file),
        first_frame=first_frame,
        frames=stated,
        size=_size(info, info_file),
        notes=notes,
    )
    return replace(tracks, label_fault=tracks.label_fault or fault)


def read_cvat_mot(path: Path) -> PixelTracks:
    """Like `read_mot`, for files whose pixel coordinates start at 0, as CVAT writes them."""
    return read_mot(path, pixels_from=0)


def read_visdrone(path: Path) -> PixelTracks:
    """Returns the objects of a VisDrone-VID file: `frame,id,x,y,w,h,score,category,truncation,occlusion`, from 0.

    Frames count from 1. Rows with score 0 or category 0 (regions without annotations) are left out.

    Raises:
        SMCDError: A row has another form, or no row is left.
    """
    rows = _rows(path, columns=(10,))
    observations = []
    for row in rows:
        category = whole_number(row, _CLASS, "category", low=0, high=len(VISDRONE_CLASSES))
        if category > 0 and row.number(_CONFIDENCE) != 0:
            box = xywh_to_xyxy(np.array([row.number(index) for index in range(2, 6)]))
            frame, identity = frame_number(row, _FRAME, low=1), int(row.number(_ID))
            label = VISDRONE_CLASSES[category - 1]
            observations.append(Observation(frame, identity, tuple(box), label, f"line {row.line}"))
    if not observations:
        raise SMCDError(
            f"{path}: all {len(rows)} rows have score or category 0; check the file",
            argument="conf",
            path=path,
            value=0,
        )
    notes = [f"{path}: read as VisDrone: x,y,width,height in pixels from 0, frames from 1, category in column 8"]
    if len(observations) < len(rows):
        notes.append(f"{path}: {len(rows) - len(observations)} of {len(rows)} rows have score or category 0, left out")
    return gather(observations, path=str(path), first_frame=1, notes=notes)


def is_visdrone(row: Row) -> bool:
    """Returns whether ten columns end in category, truncation and occlusion, not in -1 or a 3D position."""
    if len(row.fields) != 10 or not all(map(row.is_number, (_CONFIDENCE, _CLASS, 8, 9))):
        return False
    score, category, truncation, occlusion = (row.number(index) for index in (_CONFIDENCE, _CLASS, 8, 9))
    categories = range(len(VISDRONE_CLASSES) + 1)
    return score in (0, 1) and category in categories and truncation in (0, 1) and occlusion in (0, 1, 2)


def write_mot(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Writes `gt/gt.txt` and `seqinfo.ini` into the sequence folder `path`, or only the file if `path` ends in `.txt`.

    Ids count from 1 in the order of the objects, conf and visibility are 1, and boxes have at most 4 decimals
    (published files have whole numbers; readers accept both). If a label is not a class of MOT17, the names of the
    classes are written to `labels.txt` next to the file.

    Returns:
        Texts that say what the files lack: the prompt, and size and length if only the file is written.

    Raises:
        SMCDError: An object is absent from all frames, which the format cannot represent.
    """
    boxes = to_pixels(tracks, image_size, "mot")
    alone = path.suffix == ".txt"
    file = path if alone else path / "gt" / BOXES
    # An existing labels.txt would give the class numbers other names.
    own = file.with_name(CLASSES).is_file() or not set(tracks.labels) <= set(MOT17_CLASSES)
    classes = tuple(dict.fromkeys(tracks.labels)) if own else MOT17_CLASSES
    width, height = whole_size(image_size, "mot")
    for index in np.flatnonzero(~tracks.mask.any(axis=0)):
        raise SMCDError(
            f"object {index} {tracks.labels[index]!r} is absent from all frames, which {BOXES} cannot represent; "
            "remove it",
            argument="tracks",
            value=tracks.labels[index],
        )
    xywh = xyxy_to_xywh(boxes) + np.array([1, 1, 0, 0])
    lines = []
    for frame, index in np.argwhere(tracks.mask):
        sides = ",".join(format_number(side) for side in xywh[frame, index])
        lines.append(f"{frame + 1},{index + 1},{sides},1,{classes.index(tracks.labels[index]) + 1},1")
    write_text(file, "\n".join(lines) + "\n")
    if own:
        write_text(file.with_name(CLASSES), "\n".join(classes) + "\n")
    lost = [] if tracks.prompt is None else [f"MOTChallenge files hold no prompt; {tracks.prompt!r} is left out"]
    if alone:
        lost.append(f"{BOXES} holds neither size nor length; pass the size of the picture when reading it")
    else:
        info = [f"[{SECTION}]", f"name={path.name}", f"seqLength={tracks.num_frames}"]
        write_text(path / INFO, "\n".join([*info, f"imWidth={width}", f"imHeight={height}"]) + "\n")
    return tuple(lost)


def boxes_file(path: Path) -> Path:
    """Returns the `gt.txt` of a sequence folder, or `path` itself if it is a file."""
    if not path.is_dir():
        return path
    return path / BOXES if (path / BOXES).is_file() else path / "gt" / BOXES


def _rows(file: Path, columns: Sequence[int] = (7, 8, 9, 10)) -> list[Row]:
    """Returns the rows of a file, each with a frame, an id and four numbers."""
    rows = list(read_table(file).rows)
    if not rows:
        raise SMCDError(f"{file}: the file is empty; write one row per box", path=file)
    for row in rows:
        row.check_count([len(rows[0].fields)] if row is not rows[0] else columns)
        frame_number(row, _FRAME)
        whole_number(row, _ID, "id", low=0, advice="; track detections (id -1) first")
        row.number(_CONFIDENCE)
    return rows


def _origin(
    file: Path, rows: Sequence[Row], values: np.ndarray, *, has_info: bool, pixels_from: int | None
) -> tuple[int, str]:
    """Returns the number of the first pixel, and a description of the boxes' unit."""
    if are_fractions(xywh_to_xyxy(values)):
        return 0, "fractions of the picture"
    if pixels_from is None and len(rows[0].fields) in (8, 9) and not has_info and _is_by_cvat(file, rows):
        return 0, "pixels from 0 as in files of CVAT (--tracks_format mot reads them from 1)"
    origin = 1 if pixels_from is None else pixels_from
    return origin, f"pixels from {origin}"


def _is_by_cvat(file: Path, rows: Sequence[Row]) -> bool:
    """Returns whether CVAT wrote the file: class names, or labels.txt next to it and all numbers as Python's floats."""
    if any(row.is_word(_CLASS) for row in rows):
        return True
    floats = len(rows[0].fields) > _LAST and all("." in row.fields[index] for row in rows for index in (2, 3, _LAST))
    return floats and file.with_name(CLASSES).is_file()


class _Names:
    """Names of the classes of a file; `of` raises an error for a class without a name."""

    def __init__(self, file: Path):
        own = file.with_name(CLASSES)
        self._names = tuple(read_text(own).split("\n")) if own.is_file() else MOT17_CLASSES

    def of(self, row: Row) -> str | None:
        if len(row.fields) not in (8, 9):
            return None
        if row.is_word(_CLASS):
            return row.fields[_CLASS]
        number = row.number(_CLASS, missing=True)
        if number == -1 or math.isnan(number):
            return None
        if number != int(number) or not 1 <= number <= len(self._names) or not self._names[int(number) - 1].strip():
            raise SMCDError(
                f"{row.where}: class {number:g} has no name; write it on line {number:g} of {CLASSES} next to the "
                "file, or pass --label",
                argument="class",
                path=row.path,
                value=number,
            )
        return self._names[int(number) - 1].strip()


def _sequence_info(file: Path) -> tuple[Path, dict[str, str]]:
    for folder in (file.parent, file.parent.parent):
        if (folder / INFO).is_file():
            return folder / INFO, read_ini(folder / INFO, SECTION)
    return file.with_name(INFO), {}


def _size(info: dict[str, str], file: Path) -> tuple[int, int] | None:
    if "imwidth" not in info or "imheight" not in info:
        return None
    return _info_number(info, "imwidth", file), _info_number(info, "imheight", file)


def _info_number(info: dict[str, str], key: str, file: Path, *, low: int = 1) -> int:
    text = info[key].strip()
    if not text.isdecimal() or not low <= int(text) <= MAX_FRAMES:
        raise SMCDError(
            f"{file}: {key} must be a whole number from {low} to {MAX_FRAMES}, got {text!r}",
            argument=key,
            path=file,
            value=text,
        )
    return int(text)
