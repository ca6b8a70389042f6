"""Owns windows: the run of consecutive frames that training sees of a clip, and which clips are long enough for one."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64, UInt64

from data_pipeline.order.permutation import below
from smcd_jax.errors import SMCDError

# What becomes of a clip with fewer frames than a window: it is left out of the order, or its last frame is held
# (picture, boxes and mask) to the window's end. A held frame teaches a model to stop, so leaving out is the default.
ShortClips = Literal["leave_out", "hold"]


def eligible_clips(
    num_frames: Int64[np.ndarray, " n"], length: int, short_clips: ShortClips
) -> Int64[np.ndarray, " m"]:
    """Which clips of a data set may be drawn, in order.

    Args:
        num_frames: of each clip; 0 for one that is known to be unusable.
        length: frames in a window, at least 1.
        short_clips: the rule for clips with fewer.

    Raises:
        SMCDError: an unknown rule, or a length below 1.
    """
    if short_clips not in get_args(ShortClips):
        raise SMCDError(f"short_clips is {short_clips!r}; use {' or '.join(get_args(ShortClips))}")
    if length < 1:
        raise SMCDError(f"a window of {length} frames is none; use 1 or more")
    return np.flatnonzero(np.asarray(num_frames) >= (length if short_clips == "leave_out" else 1))


def window_start(
    bits: UInt64[np.ndarray, " n"], num_frames: Int64[np.ndarray, " n"], length: int
) -> Int64[np.ndarray, " n"]:
    """First frame of a window, every place in the clip equally likely; 0 for a clip that is shorter."""
    return below(bits, np.maximum(num_frames - length, 0) + 1)


def window_frames(start: int, length: int, num_frames: int) -> Int64[np.ndarray, " length"]:
    """The clip's frame at each frame of the window; past the clip's end its last frame, again and again."""
    return np.minimum(start + np.arange(length), num_frames - 1)
