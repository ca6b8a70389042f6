"""MOTChallenge sequences (Milan et al. 2016): `gt.txt`, `seqinfo.ini` and, for classes of one's own, `labels.txt`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import format_number, read_ini, read_numbers, read_text, write_text
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.pixel_tracks import PixelTracks, to_pixels, whole_size, xywh_to_xyxy, xyxy_to_xywh
from smcd_jax.tracks.track_file import MAX_FRAMES

BOXES, INFO, CLASSES, SECTION = "gt.txt", "seqinfo.ini", "labels.txt", "Sequence"
# Class 1 is the first; Milan et al. 2016, table 3, and 13 of MOT20.
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
    """Read a sequence folder (`gt/gt.txt` or `gt.txt` in it), or the file itself: one object per id, in order of id.

    A row is `frame,id,x,y,w,h,conf[,class[,visibility]]`, frames and pixels from 1; ten columns are the older form and
    that of trackers, without a class. Rows with conf 0 are to be ignored: they are left out and counted in the notes.
    Labels come from `labels.txt` beside the file (line n is class n), else from the classes of MOT17; None without a
    class. `seqinfo.ini` beside the file or in the folder above gives size and number of frames; without it the last
    frame with a box ends the video.

    Raises:
        SMCDError: a row not of that form, an id without identity (-1), the same id twice in a frame or with two
            classes, a class without a name, a frame after the end, or no row to consider.
    """
    file = boxes_file(path)
    rows = read_numbers(file, (7, 8, 9, 10))
    for line, row in enumerate(rows, 1):
        _check_row(row, f"{file}: line {line}")
    considered = [row for row in rows if row[_CONFIDENCE] != 0]
    if not considered:
        raise SMCDError(f"{file}: all {len(rows)} rows have conf 0 (to be ignored): no object is left")
    info_file, info = _sequence_info(file)
    frames = int(max(row[_FRAME] for row in rows))
    if "seqlength" in info:
        frames = _info_number(info, "seqlength", info_file, last_frame=frames)
    ids = sorted({int(row[_ID]) for row in considered})
    boxes, present = _fill(considered, ids, frames, file=file)
    notes = [f"{file}: read as MOTChallenge: x,y,width,height in pixels from 1, frames from 1, one object per id"]
    if len(considered) < len(rows):
        notes.append(f"{file}: {len(rows) - len(considered)} of {len(rows)} rows have conf 0 (to be ignored), left out")
    return PixelTracks(
        boxes=boxes,
        present=present,
        labels=_labels(considered, ids, file),
        size=_size(info, info_file),
        source=str(file),
        notes=tuple(notes),
    )


def write_mot(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Write `gt/gt.txt` and `seqinfo.ini` into the sequence folder `path`, or the file alone where it ends in `.txt`.

    Ids count from 1 in the order of the objects, conf and visibility are 1, boxes have at most 4 decimals (published
    files have whole numbers, readers take both). Labels that MOT17 does not know go into `labels.txt` beside it.

    Returns:
        What the format could not carry, in words: the prompt, and size and length where only `gt.txt` is written.

    Raises:
        SMCDError: an object is in no frame, which the format cannot say.
    """
    boxes = to_pixels(tracks, image_size, "mot")
    alone = path.suffix == ".txt"
    file = path if alone else path / "gt" / BOXES
    # A labels.txt that is already there would give our class numbers other names.
    own = file.with_name(CLASSES).is_file() or not set(tracks.labels) <= set(MOT17_CLASSES)
    classes = tuple(dict.fromkeys(tracks.labels)) if own else MOT17_CLASSES
    width, height = whole_size(image_size, "mot")
    for index in np.flatnonzero(~tracks.mask.any(axis=0)):
        raise SMCDError(f"object {index} {tracks.labels[index]!r} is in no frame, which {BOXES} cannot say: drop it")
    xywh = xyxy_to_xywh(boxes) + np.array([1, 1, 0, 0])
    lines = []
    for frame, index in np.argwhere(tracks.mask):
        sides = ",".join(format_number(side) for side in xywh[frame, index])
        lines.append(f"{frame + 1},{index + 1},{sides},1,{classes.index(tracks.labels[index]) + 1},1")
    write_text(file, "\n".join(lines) + "\n")
    if own:
        write_text(file.with_name(CLASSES), "\n".join(classes) + "\n")
    lost = [] if tracks.prompt is None else [f"MOTChallenge holds no prompt: {tracks.prompt!r} is left out"]
    if alone:
        lost.append(f"{BOXES} holds neither size nor length: pass image_size when reading it")
    else:
        info = [f"[{SECTION}]", f"name={path.name}", f"seqLength={tracks.num_frames}"]
        write_text(path / INFO, "\n".join([*info, f"imWidth={width}", f"imHeight={height}"]) + "\n")
    return tuple(lost)


def boxes_file(path: Path) -> Path:
    """The `gt.txt` of a sequence folder, or `path` itself where it is no folder."""
    if not path.is_dir():
        return path
    return path / BOXES if (path / BOXES).is_file() else path / "gt" / BOXES


def _check_row(row: tuple[float, ...], where: str) -> None:
    frame, identity = row[_FRAME], row[_ID]
    if frame != int(frame) or not 1 <= frame <= MAX_FRAMES:
        raise SMCDError(f"{where}: frame {frame:g} is not a whole number from 1 to {MAX_FRAMES}")
    if identity != int(identity) or identity < 0:
        raise SMCDError(f"{where}: id {identity:g} is no identity: detections (id -1) must be tracked first")


def _fill(rows: list[tuple[float, ...]], ids: list[int], frames: int, *, file: Path) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.zeros((frames, len(ids), 4))
    present = np.zeros((frames, len(ids)), bool)
    position = {identity: index for index, identity in enumerate(ids)}
    for row in rows:
        frame, index = int(row[_FRAME]) - 1, position[int(row[_ID])]
        if present[frame, index]:
            raise SMCDError(f"{file}: id {int(row[_ID])} has two boxes in frame {frame + 1}: keep one")
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
            raise SMCDError(f"{file}: id {identity} has classes {classes[identity]:g} and {number:g}: it needs one")
    return tuple(_class_name(classes[identity], names, f"{file}: id {identity}") for identity in ids)


def _class_name(number: float, names: tuple[str, ...], where: str) -> str | None:
    if number == -1:
        return None
    if number != int(number) or not 1 <= number <= len(names) or not names[int(number) - 1].strip():
        raise SMCDError(f"{where}: class {number:g} has no name: name it on that line of {CLASSES} beside the file")
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


def _info_number(info: dict[str, str], key: str, file: Path, *, last_frame: int = 1) -> int:
    text = info[key].strip()
    if not text.isdecimal() or not last_frame <= int(text) <= MAX_FRAMES:
        raise SMCDError(f"{file}: {key} {text!r} is not a whole number from {last_frame} to {MAX_FRAMES}")
    return int(text)
