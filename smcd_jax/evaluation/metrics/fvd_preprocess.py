"""Videos as the I3D network takes them: held to ten frames, resized by the shorter side, centre crop, in -1..1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.nn.i3d import PICTURE_SIDE

HELD_FRAMES = 10  # what a shorter video is held to; I3D itself takes 9, the networks that figures are published with 10
FVD_RESIZE = f"shorter side to {PICTURE_SIDE} (bilinear, not antialiased), centre crop, -1..1"


def held(video: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "tt h w 3"]:
    """The one rule for short videos: the last frame is repeated up to 10 frames. Longer ones stay as they are."""
    missing = max(0, HELD_FRAMES - len(video))
    return np.concatenate([video, np.repeat(video[-1:], missing, axis=0)])


def length_rule(frames: int) -> tuple[str, str]:
    """How videos of so many frames are read: for a measure's name ("hold10", "16frames"), and in words."""
    if frames < HELD_FRAMES:
        return f"hold{HELD_FRAMES}", f"all {frames} frames, the last one repeated up to {HELD_FRAMES}"
    return f"{frames}frames", f"all {frames} frames"


def fvd_frames(frames: UInt8[Array, "*b t h w 3"]) -> Float32[Array, "*b t 224 224 3"]:
    """Frames or whole videos of any size as input of `smcd_jax.nn.i3d.I3D`.

    The shorter side becomes 224 pixels and the longer one keeps the aspect, rounded up. Bilinear with half-pixel
    centres and, although that aliases where it shrinks, not antialiased: published distances are measured so.

    Raises:
        SMCDError: not uint8, or not [..., height, width, 3].
    """
    if frames.dtype != jnp.uint8 or frames.ndim < 3 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise SMCDError(
            f"FVD: frames are {frames.dtype} of shape {tuple(frames.shape)}; give uint8 of [..., height, width, 3]"
        )
    return _resize_and_crop(jnp.asarray(frames))


@jax.jit
def _resize_and_crop(frames: UInt8[Array, "*b h w 3"]) -> Float32[Array, "*b 224 224 3"]:
    *batch, height, width, channels = frames.shape
    short = min(height, width)
    # rounded up in whole numbers: as floats, a quotient that is whole could come out a hair above
    height, width = (-(-side * PICTURE_SIDE // short) for side in (height, width))
    unit = frames.astype(jnp.float32) / 255
    resized = jax.image.resize(unit, (*batch, height, width, channels), "bilinear", antialias=False)
    top, left = (height - PICTURE_SIDE) // 2, (width - PICTURE_SIDE) // 2
    return resized[..., top : top + PICTURE_SIDE, left : left + PICTURE_SIDE, :] * 2 - 1
