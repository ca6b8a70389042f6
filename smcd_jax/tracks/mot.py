"""MOTChallenge sequences (Milan et al. 2016): `gt.txt`, `seqinfo.ini` and, for other classes, `labels.txt`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_text
from smcd_jax.files.text_files import format_number, read_ini, read_numbers, read_text
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.pixel_tracks import PixelTracks, to_pixels, whole_size, xywh_to_xyxy, xyxy_to_xywh
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
_FRAME, _ID, _CONFIDENCE, _CLASS = 0, 1, 6, 7


def read_mot(path: Path) -> PixelTracks:
    """Returns the objects of a sequence folder (`gt/gt.txt` or `gt.txt`), or of the file itself, in order of their ids.

    A row is `frame,id,x,y,w,h,conf[,class[,visibility]]`, with frames and pixels from 1. Rows of ten columns, an older
    form that trackers write, have no class. Rows with conf 0 are left out, and a note counts them. Labels come from
    `labels.txt` next to the file (line n names class n), or else from the classes of MOT17; they are None without a
    class. `seqinfo.ini` in the same folder or its parent gives the size and the number of frames; without it, the video
    ends at the last frame with a box.

    Raises:
        SMCDError: A row has another form, an id is -1 (a detection), occurs twice in a frame or has two classes, a
            class has no name, a frame is after the end, or all rows have conf 0.
    """
    file = boxes_file(path)
    rows = read_numbers(file, (7, 8, 9, 10))
    for line, row in enumerate(rows, 1):
        _check_row(row, file, f"line {line}")
    considered = [row for row in rows if row[_CONFIDENCE] != 0]
    if not considered:
        raise SMCDError(
            f"{file}: all {len(rows)} rows have conf 0, so no object is left; check the column conf",
            argument="conf",
            path=file,
            value=0,
        )
    info_file, info = _sequence_info(file)
    frames = int(max(row[_FRAME] for row in rows))
    if "seqlength" in info:
        frames = _info_number(info, "seqlength", info_file, low=frames)
    ids = sorted({int(row[_ID]) for row in considered})
    boxes, present = _fill(considered, ids, frames, file=file)
    notes = [f"{file}: read as MOTChallenge: x,y,width,height in pixels from 1, frames from 1, one object per id"]
    if len(considered) < len(rows):
        notes.append(f"{file}: {len(rows) - len(considered)} of {len(rows)} rows have conf 0 and are left out")
    return PixelTracks(
        boxes=boxes,
        present=present,
        labels=_labels(considered, ids, file),
        size=_size(info, info_file),
        source=str(file),
        notes=tuple(notes),
        path=str(file),
    )


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


def _check_row(row: tuple[float, ...], file: Path, line: str) -> None:
    frame, identity = row[_FRAME], row[_ID]
    if frame != int(frame) or not 1 <= frame <= MAX_FRAMES:
        raise SMCDError(
            f"{file}: {line}: frame must be a whole number from 1 to {MAX_FRAMES}, got {frame:g}",
            argument=line,
            path=file,
            value=frame,
        )
    if identity != int(identity) or identity < 0:
        raise SMCDError(
            f"{file}: {line}: id must be a whole number from 0, got {identity:g}; track detections (id -1) first",
            argument=line,
            path=file,
            value=identity,
        )


def _fill(rows: list[tuple[float, ...]], ids: list[int], frames: int, *, file: Path) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.zeros((frames, len(ids), 4))
    present = np.zeros((frames, len(ids)), bool)
    position = {identity: index for index, identity in enumerate(ids)}
    for row in rows:
        frame, index = int(row[_FRAME]) - 1, position[int(row[_ID])]
        if present[frame, index]:
            raise SMCDError(
                f"{file}: id {int(row[_ID])} has two boxes in frame {frame + 1}; keep one",
                argument="id",
                path=file,
                value=int(row[_ID]),
            )
        boxes[frame, index] = xywh_to_xyxy(np.array(row[2:6]) - [1, 1, 0, 0])
        present[frame, index] = True
    return boxes, present


def _labels(rows: list[tuple[float, ...]], ids: list[int], file: Path) -> tuple[str | None, ...]:
    if len(rows[0]) not in (8, 9):
        return (None,) * len(ids)
    own = file.with_name(CLASSES)
    names = tuple(read_text(own).split("\n")) if own.is_file() else MOT17_CLASSES
    classes: dict[int, float] = {}
    for row in rows:
        identity, number = int(row[_ID]), row[_CLASS]
        if classes.setdefault(identity, number) != number:
            raise SMCDError(
                f"{file}: id {identity} must have one class, got {classes[identity]:g} and {number:g}",
                argument="class",
                path=file,
                value=number,
            )
    return tuple(_class_name(classes[identity], names, file) for identity in ids)


def _class_name(number: float, names: tuple[str, ...], file: Path) -> str | None:
    if number == -1:
        return None
    if number != int(number) or not 1 <= number <= len(names) or not names[int(number) - 1].strip():
        raise SMCDError(
            f"{file}: class {number:g} has no name; write it on line {number:g} of {CLASSES} next to the file",
            argument="class",
            path=file,
            value=number,
        )
    return names[int(number) - 1].strip()


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
