"""Overlapping windows in time, which let a network denoise videos longer than those it was trained on.

At every step the network's outputs for all windows are averaged where the windows overlap, and the sampler takes one
step of the whole video (MultiDiffusion, Bar-Tal et al. 2023, arXiv 2302.08113, along the time axis; Gen-L-Video, Wang
et al. 2023, arXiv 2305.18264).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32


class Windows(NamedTuple):
    """Windows of a video.

    Attributes:
        frames: Frames of each window, in 0..f-1.
        weights: Weight of each window's output at these frames. The weights of a frame sum to one.
    """

    frames: Int32[np.ndarray, "m k"]
    weights: Float32[np.ndarray, "m k"]


def make_windows(num_frames: int, *, window: int, overlap: int) -> Windows | None:
    """Returns the windows of a video, or None if one window holds all of it.

    The last window ends at the last frame, so it may overlap more. Weights fall linearly from the middle of a window to
    its ends.

    Args:
        num_frames: Number of frames f.
        window: Number of frames k per window, at least 1.
        overlap: Number of frames that neighbouring windows share, 0 to k-1.
    """
    if num_frames <= window:
        return None
    starts = np.append(np.arange(0, num_frames - window, window - overlap), num_frames - window)
    frames = starts[:, None] + np.arange(window)
    hat = np.broadcast_to(np.minimum(np.arange(window) + 1, window - np.arange(window)), frames.shape)
    total = np.zeros(num_frames)
    np.add.at(total, frames, hat)
    return Windows(frames.astype(np.int32), (hat / total[frames]).astype(np.float32))
