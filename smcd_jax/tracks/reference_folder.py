"""Input folder of the published code: `img.png`, `bbox.txt` (x1,y1,x2,y2 per frame), `prompt.txt`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_text
from smcd_jax.files.tables import read_numbers
from smcd_jax.files.text_files import format_number, read_text
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.pixel_tracks import PixelTracks, to_pixels

BOXES, PICTURE, PROMPT = "bbox.txt", "img.png", "prompt.txt"
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF tag, and its first value that swaps width and height
OTHER_ORDER = "got10k"  # format whose lines are x,y,width,height


def read_reference_folder(path: Path) -> PixelTracks:
    """Returns the single object of `bbox.txt`, or of its folder, without a label; absent where the line is NaN.

    The size is that of `img.png` and the prompt that of `prompt.txt` in the same folder; each is None if its file is
    missing.

    Raises:
        SMCDError: `bbox.txt` is missing, a line is not four numbers, or the picture cannot be read.
    """
    file = path / BOXES if path.is_dir() else path
    rows = np.array(read_numbers(file, (4,), missing=True))
    boxes, present = rows[:, None], ~np.isnan(rows).any(axis=1, keepdims=True)
    prompt = file.with_name(PROMPT)
    return PixelTracks(
        boxes=np.where(present[..., None], boxes, 0.0),
        present=present,
        labels=(None,),
        size=_picture_size(file.with_name(PICTURE)),
        source=str(file),
        prompt=read_text(prompt).strip("\r\n") or None if prompt.is_file() else None,
        notes=(
            f"{file}: read as a reference folder: x1,y1,x2,y2 in pixels of {PICTURE}, one line per frame",
            *_order_notes(file, rows),
        ),
        path=str(file),
        hint=f"if the lines are x,y,width,height, pass --tracks_format {OTHER_ORDER}",
    )


def write_reference_folder(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Writes `bbox.txt` (pixels, at most 4 decimals) and `prompt.txt` into the folder `path`.

    Returns:
        Texts that say what the folder lacks: the label, and the picture, which the user copies there.

    Raises:
        SMCDError: There are several objects, or the object is absent from a frame; the format can hold neither.
    """
    boxes = to_pixels(tracks, image_size, "reference")
    if tracks.num_objects > 1:
        raise SMCDError(
            f"a reference folder holds one object, got {tracks.num_objects}; save as smcd-tracks",
            argument="tracks",
            value=tracks.num_objects,
        )
    if not tracks.mask.all():
        frame = int(np.flatnonzero(~tracks.mask[:, 0])[0])
        raise SMCDError(
            f"object 0 {tracks.labels[0]!r} is absent from frame {frame}, which a reference folder cannot represent; "
            "save as smcd-tracks",
            argument="tracks",
            value=frame,
        )
    lines = [",".join(format_number(side) for side in box) for box in boxes[:, 0]]
    write_text(path / BOXES, "\n".join(lines) + "\n")
    lost = [f"{BOXES} holds no label; pass --label {tracks.labels[0]!r} when reading it"]
    if tracks.prompt is not None:
        write_text(path / PROMPT, tracks.prompt + "\n")
    elif (path / PROMPT).is_file():
        lost.append(f"the existing {PROMPT} is kept: the tracks have no prompt")
    if not (path / PICTURE).is_file():
        lost.append(f"{PICTURE} is not written; copy the picture of {image_size[0]} x {image_size[1]} next to {BOXES}")
    return tuple(lost)


def _order_notes(file: Path, rows: np.ndarray) -> list[str]:
    """Returns a note if the last two numbers hardly change while the first two do, as in x,y,width,height."""
    shown = rows[~np.isnan(rows).any(axis=1)]
    if len(shown) < 3 or not (shown[:, :2] < shown[:, 2:]).all():
        return []
    moved, changed = np.ptp(shown[:, :2], axis=0).max(), np.ptp(shown[:, 2:], axis=0).max()
    if moved < 10 * changed or moved < 0.1 * shown.max():
        return []
    return [
        f"{file}: the first two numbers of a line change and the last two do not, as of x,y,width,height; if they are "
        f"that, pass --tracks_format {OTHER_ORDER}"
    ]


def _picture_size(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None
    from PIL import Image

    try:
        with path.open("rb") as file:
            start = file.read(24)
        if start[12:16] == b"IHDR":  # a PNG: reads only its header, as other chunks may be damaged
            return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
        with Image.open(path) as picture:
            width, height = picture.size
            turned = picture.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
            return (height, width) if turned else (width, height)
    except Exception as error:  # Pillow raises many types for damaged files
        raise SMCDError(f"{path}: cannot read the picture: {error}", path=path) from error
