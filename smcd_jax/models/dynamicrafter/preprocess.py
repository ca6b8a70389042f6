"""Preprocessing for the image tower: blur (kornia's antialias), bicubic resizing and normalisation.

Both the blur and the resize are linear along each axis, so together they are one matrix per axis, made in float64.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from smcd_jax.media import to_model_range

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
CUBIC = -0.75  # PyTorch's coefficient of the bicubic kernel


def whole_picture(picture: UInt8[np.ndarray, "h w 3"], size: int) -> Float32[np.ndarray, "s s 3"]:
    """Resizes a picture to the size of the image tower, -1..1, on the host; `preprocess` normalises it."""
    rows, columns = (resize_matrix(side, size) for side in picture.shape[:2])
    resized = np.einsum("sh,hwc,tw->stc", rows, to_model_range(picture).astype(np.float64), columns, optimize=True)
    return resized.astype(np.float32)


def preprocess(pictures: Float[Array, "b h w 3"], size: int) -> Float[Array, "b s s 3"]:
    """Resizes and normalises pictures in -1..1 for the image tower; the aspect ratio is not kept."""
    height, width = pictures.shape[1:3]
    rows, columns = (jnp.asarray(resize_matrix(side, size), jnp.float32) for side in (height, width))
    x = jnp.einsum("sh,bhwc->bswc", rows, pictures, precision="highest")
    x = jnp.einsum("tw,bswc->bstc", columns, x, precision="highest")
    return ((x + 1) / 2 - jnp.asarray(MEAN)) / jnp.asarray(DEVIATION)


@functools.cache
def resize_matrix(source: int, target: int) -> Float[np.ndarray, "t s"]:
    """Returns the matrix of blur and bicubic resize of one axis, with align_corners; it blurs only when shrinking."""
    position = np.arange(target) * (source - 1) / max(target - 1, 1)
    first = np.floor(position).astype(int)
    fraction = position - first
    resize = np.zeros((target, source))
    for offset in (-1, 0, 1, 2):
        column = np.clip(first + offset, 0, source - 1)
        np.add.at(resize, (np.arange(target), column), _cubic(np.abs(fraction - offset)))
    return resize @ _blur_matrix(source, source / target) if source > target else resize


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * CUBIC - 4 * CUBIC
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _blur_matrix(size: int, factor: float) -> np.ndarray:
    """Returns the matrix of a Gaussian blur of one axis with reflected borders."""
    sigma = max((factor - 1) / 2, 0.001)
    length = int(max(4 * sigma, 3))
    length += 1 - length % 2
    offsets = np.arange(length) - length // 2
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    blur = np.zeros((size, size))
    for offset, weight in zip(offsets, kernel, strict=True):
        column = np.abs(np.arange(size) + offset)
        column = np.where(column >= size, 2 * (size - 1) - column, column)
        np.add.at(blur, (np.arange(size), column), weight)
    return blur
