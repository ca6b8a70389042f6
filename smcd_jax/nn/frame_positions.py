"""Frame positions in temporal attention: rotary embedding, and T5's learned relative position bias."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32


def rotate_by_frame(x: Float[Array, "b f *axes d"], width: int) -> Float[Array, "b f *axes d"]:
    """Returns queries or keys, rotated by the index of their frame (Su et al. 2021, arXiv 2104.09864).

    Channels 2i and 2i + 1 of frame n are rotated by the angle n 10000^(-2i / width).

    Args:
        x: Queries or keys, one vector per frame and head.
        width: Number of channels that are rotated, even and at most d; the others are kept.
    """
    frames = x.shape[1]
    frequencies = 1 / np.power(np.float32(10000), np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    angles = np.arange(frames, dtype=np.float32)[:, None] * frequencies
    angles = angles.reshape(1, frames, *(1,) * (x.ndim - 3), width // 2)
    pairs = x[..., :width].astype(jnp.float32).reshape(*x.shape[:-1], width // 2, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    cos, sin = np.cos(angles), np.sin(angles)
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    turned = turned.reshape(*x.shape[:-1], width).astype(x.dtype)
    return jnp.concatenate([turned, x[..., width:]], axis=-1)


def relative_buckets(frames: int, *, num_buckets: int = 32, max_distance: int = 32) -> Int32[np.ndarray, "f f"]:
    """Returns the bucket of each pair of frames (query i, key j) (Raffel et al. 2019, arXiv 1910.10683, section 2.1).

    Half of the buckets are for keys before the query, half for later ones. In each half, the first buckets hold one
    distance each; the others grow with the logarithm of the distance.

    Args:
        frames: Number of frames.
        num_buckets: Number of buckets, a multiple of 4.
        max_distance: Distance from which on all pairs share the last bucket.
    """
    index = np.arange(frames)
    before = index[:, None] - index
    half = num_buckets // 2
    exact = half // 2
    distance = np.abs(before)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return (bucket + half * (before < 0)).astype(np.int32)


def relative_bias(
    table: Float[Array, "buckets heads"], frames: int, *, max_distance: int = 32
) -> Float[Array, "1 heads f f"]:
    """Returns the bias of each head and pair of frames in float32, for `smcd_jax.nn.attention.attend_frames`.

    Args:
        table: Learned bias of each bucket and head.
        frames: Number of frames.
        max_distance: Distance from which on all pairs share the last bucket.
    """
    buckets = relative_buckets(frames, num_buckets=table.shape[0], max_distance=max_distance)
    return table.astype(jnp.float32)[buckets].transpose(2, 0, 1)[None]
