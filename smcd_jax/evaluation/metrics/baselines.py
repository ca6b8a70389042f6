"""Baseline videos made from the first frame without a model: the frame repeated, and object crops moved along boxes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.media.cut_and_move import move_boxes


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
    """Moves the crop of each object's first box along its boxes over a filled background, as `move_boxes` does.

    An object that is absent from the first frame has no crop and never appears. Frame 0 is the first frame unchanged.

    Args:
        first_frame: Picture, RGB.
        boxes: Boxes, xyxy in 0..1 of the picture; parts outside are not drawn.
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
    video = move_boxes(first_frame, boxes[:, mask[0]], mask[:, mask[0]])
    video[0] = first_frame
    return video


def _check_picture(picture: np.ndarray) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
        raise SMCDError(
            f"first_frame must be uint8 of shape [h, w, 3], got {picture.dtype} of shape {list(picture.shape)}",
            argument="first_frame",
            value=picture.shape,
        )
