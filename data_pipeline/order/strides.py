"""Frame strides: which frames of a longer video make a training clip, and the resulting frame rate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class StridedWindow(NamedTuple):
    """Frames of a clip.

    Attributes:
        stride: Source frames from one frame of the clip to the next.
        last_start: Largest index of the first frame.
        fps: Frame rate of the clip, rounded down.
    """

    stride: int
    last_start: int
    fps: float


def strided_window(num_frames: int, video_fps: float, *, length: int, stride: int) -> StridedWindow:
    """Returns the window for a drawn stride, or for the largest stride that fits a shorter video (DynamiCrafter).

    Args:
        num_frames: Number of frames of the video, at least ``length``.
        video_fps: Frame rate of the video.
        length: Number of frames of the clip.
        stride: Drawn stride, at least 1.
    """
    if num_frames < (length - 1) * stride + 1:
        stride = num_frames // length
    return StridedWindow(stride, num_frames - (length - 1) * stride - 1, float(video_fps // stride))


def strided_frames(start: int, length: int, stride: int) -> Int64[np.ndarray, " length"]:
    """Returns the video's frame index for each frame of the clip."""
    return start + stride * np.arange(length)
