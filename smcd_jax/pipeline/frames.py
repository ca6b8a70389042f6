"""Postprocessing of decoded frames: replacement of the first frame, and output types."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped, UInt8

OutputType = Literal["np", "uint8", "pil", "latent", "motion"]


def replace_first_frame(
    videos: UInt8[np.ndarray, "b f h w 3"], pictures: Shaped[np.ndarray, "b h w 3"]
) -> tuple[UInt8[np.ndarray, "b f h w 3"], str]:
    """Returns the videos with the pictures as first frames, and a note about the jump that this causes."""
    videos = videos.copy()
    videos[:, 0] = np.rint(pictures)
    steps = np.abs(np.diff(videos.astype(np.float32), axis=1)).mean(axis=(0, 2, 3, 4))
    note = f"from the picture to the second frame, pixels change by {steps[0]:.1f} of 255 on average"
    return videos, f"{note}; between later frames by {steps[1:].mean():.1f}" if len(steps) > 1 else note


def as_output(frames: UInt8[np.ndarray, "b f h w 3"], output_type: OutputType) -> Any:
    """Returns the frames as an output type (`VideoOutput.frames`)."""
    if output_type == "np":
        return frames.astype(np.float32) / 255
    if output_type == "pil":
        from PIL import Image

        return [[Image.fromarray(frame) for frame in video] for video in frames]
    return frames
