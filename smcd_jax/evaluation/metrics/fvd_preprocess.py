"""Preprocessing of videos for I3D: at least ten frames, resized by the shorter side, centre crop, in -1..1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.nn.i3d import PICTURE_SIDE

HELD_FRAMES = 10  # shorter videos are padded to this length; I3D needs 9, the networks of published results 10
FVD_RESIZE = f"shorter side to {PICTURE_SIDE} (bilinear, not antialiased), centre crop, -1..1"


def held(video: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "tt h w 3"]:
    """Pads a video to 10 frames by repeating its last frame; longer videos are returned unchanged."""
    missing = max(0, HELD_FRAMES - len(video))
    return np.concatenate([video, np.repeat(video[-1:], missing, axis=0)])


def length_rule(frames: int) -> tuple[str, str]:
    """Returns the rule for videos of this length: its part of the metric's name ("hold10") and a description."""
    if frames < HELD_FRAMES:
        return f"hold{HELD_FRAMES}", f"all {frames} frames, the last one repeated up to {HELD_FRAMES}"
    return f"{frames}frames", f"all {frames} frames"


def fvd_frames(frames: UInt8[Array, "*b t h w 3"]) -> Float32[Array, "*b t 224 224 3"]:
    """Converts frames or whole videos of any size to inputs of `smcd_jax.nn.i3d.I3D`.

    The shorter side becomes 224 pixels; the longer side keeps the aspect ratio, rounded up. Resizing is bilinear with
    half-pixel centres and without antialiasing, as for published distances.

    Raises:
        SMCDError: The frames are not uint8 of shape [..., height, width, 3].
    """
    if frames.dtype != jnp.uint8 or frames.ndim < 3 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise SMCDError(
            f"FVD: frames must be uint8 of shape [..., height, width, 3], got {frames.dtype} of shape "
            f"{list(frames.shape)}",
            argument="frames",
            value=frames.shape,
        )
    return _resize_and_crop(jnp.asarray(frames))


@jax.jit
def _resize_and_crop(frames: UInt8[Array, "*b h w 3"]) -> Float32[Array, "*b 224 224 3"]:
    *batch, height, width, channels = frames.shape
    short = min(height, width)
    # Integer ceiling: a float quotient could be rounded above an exact integer.
    height, width = (-(-side * PICTURE_SIDE // short) for side in (height, width))
    unit = frames.astype(jnp.float32) / 255
    resized = jax.image.resize(unit, (*batch, height, width, channels), "bilinear", antialias=False)
    top, left = (height - PICTURE_SIDE) // 2, (width - PICTURE_SIDE) // 2
    return resized[..., top : top + PICTURE_SIDE, left : left + PICTURE_SIDE, :] * 2 - 1
