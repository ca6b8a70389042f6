"""Weights from a portable hash of their PyTorch names, for golden cases whose weights would be too large to store."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

CHUNK = 1 << 16  # values hashed at a time; two such buffers fit in a core's cache


class Spread(NamedTuple):
    """Distribution of a tensor's values: centre + radius * u, with u uniform in [-1, 1)."""

    centre: float
    radius: float


Rule = Callable[[str, Sequence[int]], Spread]


def unet_rule(name: str, shape: Sequence[int]) -> Spread:
    """Returns the spread: gates near 0.6, norm scales near 1, biases near 0, kernels of variance 1 / fan-in."""
    if not shape:
        return Spread(0.6, 0.3)
    if len(shape) == 1:
        return Spread(1.0 if name.endswith(".weight") else 0.0, 0.1)
    return Spread(0.0, math.sqrt(3 / math.prod(shape[1:])))


def i3d_rule(name: str, shape: Sequence[int]) -> Spread:
    """Like `unet_rule`, but with running variances near 1 and, because of ReLU, kernels of variance 2 / fan-in."""
    if len(shape) == 1 and name.endswith(".running_var"):
        return Spread(1.0, 0.3)
    if len(shape) > 1:
        return Spread(0.0, math.sqrt(6 / math.prod(shape[1:])))
    return unet_rule(name, shape)


def formula_weights(
    prefix: str,
    shapes: Mapping[str, Sequence[int]],
    rule: Rule = unet_rule,
    *,
    buffers: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields one name and float32 tensor at a time, so that only the tensors that the caller keeps use memory.

    Args:
        prefix: Prefix of the name before hashing, such as "unet.".
        shapes: Shapes by PyTorch name.
        rule: Function that returns centre and radius of each tensor.
        buffers: C-contiguous float32 arrays to write into, by name; missing ones are allocated.
    """
    for name, shape in shapes.items():
        given = (buffers or {}).get(name)
        values = np.empty(shape, np.float32) if given is None else given
        if values.shape != tuple(shape) or values.dtype != np.float32 or not values.flags.c_contiguous:
            raise ValueError(
                f"buffer of {name} is {values.dtype} {values.shape}, not C-contiguous float32 {tuple(shape)}"
            )
        fill_uniform(prefix + name, values.reshape(-1))
        spread = rule(name, shape)
        values *= np.float32(spread.radius)
        if spread.centre:
            values += np.float32(spread.centre)
        yield name, values


def fill_uniform(name: str, values: np.ndarray) -> None:
    """Fills a flat float32 array with u in [-1, 1): a hash (murmur3's finaliser) of the index plus the name's seed."""
    seed = (zlib.crc32(name.encode()) * 0x9E3779B9) & 0xFFFFFFFF
    index = np.arange(min(CHUNK, values.size), dtype=np.uint32)
    hashed, shifted = np.empty_like(index), np.empty_like(index)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        h, s = hashed[: part.size], shifted[: part.size]
        np.add(index[: part.size], np.uint32((seed + start) & 0xFFFFFFFF), out=h)  # wraps mod 2^32, like the products
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            h ^= np.right_shift(h, np.uint32(shift), out=s)
            h *= np.uint32(factor)
        h ^= np.right_shift(h, np.uint32(16), out=s)
        part[:] = np.right_shift(h, np.uint32(8), out=s)  # 24 bits: exact in float32
        part *= np.float32(2**-23)
        part -= np.float32(1)
