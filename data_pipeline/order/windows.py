"""Windows: consecutive frames of a clip used as an example, and the rule for clips that are too short."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Int64, UInt64

from data_pipeline.checks import require
from data_pipeline.order.permutation import below

# Rule for clips with fewer frames than a window: leave them out, or repeat the last frame (picture, boxes and mask) to
# the end of the window. Repeated frames teach a model to stop moving, so leaving out is the default.
ShortClips = Literal["leave_out", "hold"]


def eligible_clips(
    num_frames: Int64[np.ndarray, " n"], length: int, short_clips: ShortClips
) -> Int64[np.ndarray, " m"]:
    """Returns the indices of the clips that may be drawn, in order.

    Args:
        num_frames: Number of frames per clip; 0 for an unusable clip.
        length: Number of frames per window, at least 1.
        short_clips: Rule for shorter clips.

    Raises:
        SMCDError: The rule is unknown, or the length is below 1.
    """
    rules = get_args(ShortClips)
    require(short_clips in rules, "short_clips", " or ".join(rules), short_clips)
    require(length >= 1, "frames", "at least 1", length)
    return np.flatnonzero(np.asarray(num_frames) >= (length if short_clips == "leave_out" else 1))


def window_start(
    bits: UInt64[np.ndarray, " n"], num_frames: Int64[np.ndarray, " n"], length: int
) -> Int64[np.ndarray, " n"]:
    """Returns the first frame of a window, uniform over the clip; 0 if the clip is shorter than the window."""
    return below(bits, np.maximum(num_frames - length, 0) + 1)


def window_frames(start: int, length: int, num_frames: int) -> Int64[np.ndarray, " length"]:
    """Returns the clip's frame index for each frame of the window; the last frame is repeated past the clip's end."""
    return np.minimum(start + np.arange(length), num_frames - 1)
