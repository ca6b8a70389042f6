"""Baseline videos made from the first frame without a model: the frame repeated, and object crops moved along boxes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from smcd_jax.errors import SMCDError


def still_first_frame(first_frame: UInt8[np.ndarray, "h w 3"], frames: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Repeats the first frame; the grounding of this video is the overlap of every box with the first one.

    Args:
        first_frame: Picture, RGB.
        frames: Number of frames, at least 1.

    Raises:
        SMCDError: `frames` is less than 1, or the picture is not uint8 RGB.
    """
    _check_picture(first_frame)
    if frames < 1:
        raise SMCDError(f"frames must be at least 1, got {frames}", argument="frames", value=frames)
    return np.repeat(first_frame[None], frames, axis=0)


def slid_crop(
    first_frame: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "f n 4"],
    mask: Shaped[np.ndarray, "f n"],
) -> UInt8[np.ndarray, "f h w 3"]:
    """Moves the crop of each object's first box along its boxes, resized to them, later objects on top.

    The place where an object was in the first frame is filled smoothly from the colours around it, so that the video
    shows the object once. An object that is absent from the first frame has no crop and never appears. Frame 0 is the
    first frame unchanged.

    Args:
        first_frame: Picture, RGB.
        boxes: Boxes, xyxy in 0..1 of the picture; parts outside are not drawn. Sides are rounded to whole pixels, at
            least one.
        mask: 1 or true where the object is present.

    Raises:
        SMCDError: The shapes do not match, or the picture is not uint8 RGB.
    """
    _check_picture(first_frame)
    boxes, mask = np.asarray(boxes), np.asarray(mask, bool)
    if mask.ndim != 2 or boxes.shape != (*mask.shape, 4) or len(mask) == 0:
        raise SMCDError(
            "boxes and mask must have the shapes [frames, objects, 4] and [frames, objects], got "
            f"{list(boxes.shape)} and {list(mask.shape)}",
            argument="boxes",
            value=boxes.shape,
        )
    height, width = first_frame.shape[:2]
    pixels = np.clip(boxes, 0, 1) * [width, height, width, height]
    items = np.flatnonzero(mask[0]).tolist()
    crops = {item: Image.fromarray(first_frame).crop(_whole(pixels[0, item])) for item in items}
    background = first_frame.copy()
    for item in items:
        _fill(background, _whole(pixels[0, item]))
    video = np.repeat(background[None], len(mask), axis=0)
    video[0] = first_frame
    for frame in range(1, len(mask)):
        for item in items:
            if mask[frame, item]:
                _paste(video[frame], crops[item], _whole(pixels[frame, item]))
    return video


def _whole(box: np.ndarray) -> tuple[int, int, int, int]:
    """Box in whole pixels, xyxy, with sides of at least one pixel; within the picture if the box is."""
    low, high = np.floor(box[:2] + 0.5), np.floor(box[2:] + 0.5)
    low = np.where(high > low, low, np.floor(box[:2]))
    x1, y1, x2, y2 = np.concatenate([low, np.maximum(high, low + 1)]).astype(int).tolist()
    return x1, y1, x2, y2


def _paste(picture: UInt8[np.ndarray, "h w 3"], crop: Image.Image, box: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = box
    region = picture[y1:y2, x1:x2]  # smaller than the box where it reaches beyond the picture
    resized = np.asarray(crop.resize((x2 - x1, y2 - y1), Image.Resampling.BICUBIC))
    region[...] = resized[: region.shape[0], : region.shape[1]]


def _fill(picture: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]) -> None:
    """Fills the box with the pixels along its four sides, weighted by 1 / distance; sides at the border are skipped."""
    x1, y1, x2, y2 = box
    height, width = picture.shape[:2]
    columns, rows = np.arange(x1, x2), np.arange(y1, y2)
    total, weights = np.zeros((len(rows), len(columns), 3)), np.zeros((len(rows), len(columns), 1))
    for inside, colors, distance in (
        (x1 > 0, picture[y1:y2, max(x1 - 1, 0)][:, None], (columns - x1 + 1)[None, :]),
        (x2 < width, picture[y1:y2, min(x2, width - 1)][:, None], (x2 - columns)[None, :]),
        (y1 > 0, picture[max(y1 - 1, 0), x1:x2][None], (rows - y1 + 1)[:, None]),
        (y2 < height, picture[min(y2, height - 1), x1:x2][None], (y2 - rows)[:, None]),
    ):
        if inside:
            weight = 1 / distance[..., None]
            total += weight * colors
            weights += weight
    if weights.any():
        picture[y1:y2, x1:x2] = np.rint(total / weights).astype(np.uint8)


def _check_picture(picture: np.ndarray) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        raise SMCDError(
            f"first_frame must be uint8 of shape [h, w, 3], got {picture.dtype} of shape {list(picture.shape)}",
            argument="first_frame",
            value=picture.shape,
        )
