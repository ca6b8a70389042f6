"""Amount of motion inside and outside the boxes, by optical flow; it reveals videos that hardly move.

Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003, implemented by OpenCV.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.trackers.opencv import check_frames, load_cv2, repeatable

# Frames are first resized to this shorter side, so that the method's window covers the same share of every picture.
SHORTER_SIDE = 128
NAME = f"farneback@{SHORTER_SIDE}"


class Motion(NamedTuple):
    """Mean optical-flow magnitude between neighbouring frames, in shorter sides of the picture per frame.

    Attributes:
        inside: Mean over pixels inside a box of the earlier frame; NaN without such pixels.
        outside: Mean over pixels outside the boxes of both frames, because background that an object uncovers has no
            defined flow; NaN without such pixels.
    """

    inside: float
    outside: float


def motion_magnitude(
    frames: UInt8[np.ndarray, "f h w 3"], boxes: Float[np.ndarray, "f n 4"], mask: Shaped[np.ndarray, "f n"]
) -> Motion:
    """Measures the motion of a video; 0 and 0 for a still one. Background inside a box counts as inside.

    Args:
        frames: RGB frames, at least two.
        boxes: Boxes, xyxy in 0..1 of the picture.
        mask: 1 or true where the object is present.

    Raises:
        SMCDError: There are fewer than two frames, the shapes do not match, or OpenCV is not installed.
    """
    check_frames(frames)
    boxes, mask = np.asarray(boxes), np.asarray(mask, bool)
    if len(frames) < 2 or boxes.shape != (*mask.shape, 4) or len(mask) != len(frames):
        raise SMCDError(
            f"motion: at least 2 frames with boxes [frames, objects, 4] and mask [frames, objects] are needed, got "
            f"{len(frames)} frames, boxes {list(boxes.shape)} and mask {list(mask.shape)}",
            argument="frames" if len(frames) < 2 else "boxes",
            value=len(frames) if len(frames) < 2 else boxes.shape,
        )
    flow = _flow_magnitude(frames)
    covered = np.stack([_covered(boxes[frame][mask[frame]], flow.shape[1:]) for frame in range(len(frames))])
    return Motion(_mean(flow[covered[:-1]]), _mean(flow[~(covered[:-1] | covered[1:])]))


def _flow_magnitude(frames: np.ndarray) -> Float[np.ndarray, "f-1 h w"]:
    """Returns the magnitude of the flow, in shorter sides per frame."""
    cv2 = load_cv2("optical flow", "calcOpticalFlowFarneback")
    height, width = frames.shape[1:3]
    shorter = min(height, width)
    size = (round(width * SHORTER_SIDE / shorter), round(height * SHORTER_SIDE / shorter))
    interpolation = cv2.INTER_AREA if shorter > SHORTER_SIDE else cv2.INTER_CUBIC
    # Five pyramid levels of half the size, a window of 15 pixels, three iterations; polynomials over 5 pixels.
    settings = {"pyr_scale": 0.5, "levels": 5, "winsize": 15, "iterations": 3, "poly_n": 5, "poly_sigma": 1.2}
    with repeatable(cv2):
        grey = [
            cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size, interpolation=interpolation) for frame in frames
        ]
        flows = [
            cv2.calcOpticalFlowFarneback(first, second, None, flags=0, **settings)
            for first, second in itertools.pairwise(grey)
        ]
    return np.linalg.norm(np.stack(flows), axis=-1) / SHORTER_SIDE


def _covered(boxes: Float[np.ndarray, "n 4"], shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Returns the mask of the pixels whose centre is inside a box."""
    y, x = ((np.arange(side) + 0.5) / side for side in shape)
    x1, y1, x2, y2 = np.asarray(boxes)[..., None].swapaxes(0, 1)
    rows, columns = (y1 <= y) & (y < y2), (x1 <= x) & (x < x2)
    return (rows[:, :, None] & columns[:, None]).any(axis=0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean(dtype=np.float64)) if values.size else float("nan")
