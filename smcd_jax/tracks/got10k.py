"""GOT-10k sequences (Huang et al. 2019): `groundtruth.txt` (x,y,w,h per frame), `absence.label`, `meta_info.ini`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_text
from smcd_jax.files.text_files import format_number, read_ini, read_numbers
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.pixel_tracks import PixelTracks, to_pixels, whole_size, xywh_to_xyxy, xyxy_to_xywh

BOXES, ABSENCE, META, SECTION = "groundtruth.txt", "absence.label", "meta_info.ini", "METAINFO"
_RESOLUTION = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_PROMPT = re.compile(r"A (?P<object>.+) that is (?P<motion>.+)\. ")


def read_got10k(path: Path) -> PixelTracks:
    """Returns the one object of a sequence folder, or of its `groundtruth.txt`; boxes are in pixels from 0.

    The object is present where `absence.label` is 0, and everywhere if that file is missing. `meta_info.ini` gives the
    label (object_class), the size (resolution) and the prompt; each is None if it is missing.

    Raises:
        SMCDError: A file violates its format, or `absence.label` has another number of lines than `groundtruth.txt`.
    """
    file = path / BOXES if path.is_dir() else path
    boxes = xywh_to_xyxy(np.array(read_numbers(file, (4,))))[:, None]
    meta_file = file.with_name(META)
    meta = read_ini(meta_file, SECTION) if meta_file.is_file() else {}
    return PixelTracks(
        boxes=boxes,
        present=_presence(file.with_name(ABSENCE), len(boxes))[:, None],
        labels=(meta.get("object_class") or None,),
        size=_resolution(meta["resolution"], meta_file) if "resolution" in meta else None,
        source=str(file),
        prompt=got10k_prompt(meta.get("object_class"), meta.get("motion_class")),
        notes=(f"{file}: read as GOT-10k: x,y,width,height in pixels from 0, one line per frame",),
        path=str(file),
    )


def got10k_prompt(object_class: str | None, motion_class: str | None) -> str | None:
    """Returns the caption used in training, which ends in a space; None if one of the two is missing."""
    if not object_class or not motion_class:
        return None
    return f"A {object_class} that is {motion_class}. "


def write_got10k(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Writes the three files of a sequence into the folder `path`; boxes in pixels with 4 decimals, as in GOT-10k.

    Returns:
        Texts that say what the files lack: a prompt of another form than `A {object} that is {motion}. `.

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


def _presence(path: Path, frames: int) -> np.ndarray:
    if not path.is_file():
        return np.ones(frames, bool)
    absent = np.array(read_numbers(path, (1,)))[:, 0]
    if len(absent) != frames:
        raise SMCDError(
            f"{path}: {BOXES} has {frames} lines; this file must have as many, got {len(absent)}",
            path=path,
            value=len(absent),
        )
    for line, value in enumerate(absent, 1):
        if value not in (0, 1):
            raise SMCDError(
                f"{path}: line {line} must be 0 (present) or 1 (absent), got {value:g}",
                argument=f"line {line}",
                path=path,
                value=value,
            )
    return absent == 0


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
