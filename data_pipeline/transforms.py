"""Owns what is done to an example on its way from record to batch: decoding, resizing, cropping, choosing objects."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL import Image

from data_pipeline.order.permutation import fold, uniform
from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError

# An object of which a crop leaves less than this share in view is absent: its label no longer says what is to be seen.
MIN_VISIBLE = 0.25

# What Pillow raises on damaged jpeg and png data.
_DECODER_ERRORS = (OSError, EOFError, SyntaxError, ValueError, IndexError, Image.DecompressionBombError)
_SCALE, _X, _Y = 1, 2, 3  # what a number drawn for a crop is used for


class Crop(NamedTuple):
    """A part of the picture, in 0..1 of it."""

    x1: float
    y1: float
    x2: float
    y2: float


WHOLE = Crop(0.0, 0.0, 1.0, 1.0)


def random_crop(key: np.uint64, keep: float) -> Crop:
    """A crop with the picture's aspect that keeps at least the share ``keep`` of its area.

    The share kept is uniform in keep..1 and the place is uniform. There is no flip: captions and tracks say left and
    right.

    Args:
        key: random bits; the crop is a pure function of them.
        keep: 0 < keep <= 1; with 1 the whole picture is kept.

    Raises:
        SMCDError: ``keep`` is out of range.
    """
    if not 0 < keep <= 1:
        raise SMCDError(f"crop_keep is {keep}; use a share of the picture above 0 and up to 1")
    if keep == 1:
        return WHOLE
    scale, x, y = uniform(fold(key, np.array([_SCALE, _X, _Y]))).tolist()
    side = float(np.sqrt(keep + (1 - keep) * scale))
    left, top = x * (1 - side), y * (1 - side)
    return Crop(left, top, min(left + side, 1.0), min(top + side, 1.0))


def decode_frame(
    frame: bytes, *, height: int, width: int, crop: Crop = WHOLE, where: str = "a frame"
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a jpeg or png picture, crops it, and resizes it without keeping the aspect.

    The resizing is that of `smcd_jax.media.resize_picture`: bilinear, antialiased. A jpeg picture of twice the needed
    size or more is decoded at 1/2, 1/4 or 1/8 of its size first, never below what is needed: that takes half the time
    and is 47 to 50 dB from resizing it in one go.

    Raises:
        BadClip: the picture is damaged or cut short; ``where`` names it.
    """
    needed = math.ceil(width / (crop.x2 - crop.x1)), math.ceil(height / (crop.y2 - crop.y1))
    try:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", needed)
            colours = image.convert("RGB")
    except _DECODER_ERRORS as error:
        raise BadClip(f"{where} cannot be decoded: {error}", kind="unreadable frame") from error
    if crop != WHOLE or colours.size != (width, height):
        box = tuple(side * size for side, size in zip(crop, colours.size * 2, strict=True))
        colours = colours.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(colours)


def crop_boxes(
    boxes: Float32[np.ndarray, "f n 4"], mask: Bool[np.ndarray, "f n"], crop: Crop
) -> tuple[Float32[np.ndarray, "f n 4"], Bool[np.ndarray, "f n"]]:
    """Boxes in 0..1 of the crop, clipped to it; an object of which less than `MIN_VISIBLE` is in view is absent."""
    if crop == WHOLE:
        return boxes, mask
    origin, side = np.array(crop[:2] * 2, np.float32), np.float32(crop.x2 - crop.x1)
    moved = (boxes - origin) / side
    clipped = np.clip(moved, 0, 1)
    mask = mask & (_areas(clipped) >= MIN_VISIBLE * _areas(moved))
    return np.where(mask[..., None], clipped, np.float32(0)), mask


def choose_objects(
    boxes: Float32[np.ndarray, "f n 4"], mask: Bool[np.ndarray, "f n"], limit: int
) -> tuple[Int64[np.ndarray, " k"], int]:
    """Which objects of a window a model that takes ``limit`` of them gets to see, in the order of the record.

    Those never present in the window are left out, for an absent box carries no information. If more than ``limit``
    remain, those present in most frames are kept; of equals the larger in sum, then the first in the record.

    Returns:
        Their indices, at most ``limit``, and how many that are present were dropped.
    """
    present = mask.sum(axis=0)
    areas = (_areas(boxes) * mask).sum(axis=0)
    ranked = np.lexsort((np.arange(len(present)), -areas, -present))
    seen = int((present > 0).sum())
    return np.sort(ranked[: min(limit, seen)]), max(seen - limit, 0)


def _areas(boxes: Float32[np.ndarray, "*n 4"]) -> Float32[np.ndarray, "*n"]:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
