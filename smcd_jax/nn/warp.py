"""Backward warping of pictures by fields of coordinates, and the two resizing methods of motion models.

A field contains, for each output pixel, the coordinates (x, y) in the source picture to read (a backward warp).
Coordinates run from -1 to 1 between the centers of the corner pixels: column j of w columns lies at 2 j / (w - 1) - 1.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smcd_jax.errors import SMCDError

Padding = Literal["zeros", "reflection"]


def corner_grid(height: int, width: int, dtype: jnp.dtype = jnp.float32) -> Float[Array, "h w 2"]:
    """Returns the identity field of a picture: (x, y) of every pixel, with the corners at -1 and 1."""
    columns, rows = (2 * np.arange(size) / max(size - 1, 1) - 1 for size in (width, height))
    return jnp.asarray(np.stack(np.meshgrid(columns, rows), axis=-1), dtype)


def grid_sample(
    image: Float[Array, "b h w c"],
    grid: Float[Array, "b *pixels 2"],
    *,
    padding: Padding = "zeros",
    align_corners: bool = True,
) -> Float[Array, "b *pixels c"]:
    """Returns the picture sampled bilinearly at the coordinates of a field, like PyTorch's function of the same name.

    Args:
        image: Pictures.
        grid: Coordinates (x, y), of a floating dtype of at least 32 bits.
        padding: Values outside the picture: zeros, or its reflection at the border.
        align_corners: Whether -1 and 1 are the centers of the corner pixels, as in `corner_grid`. False makes them the
            outer edges of the corner pixels, PyTorch's default: the identity field then moves a picture by up to half a
            pixel.

    Returns:
        Values of the dtype of the picture.
    """
    height, width = image.shape[1:3]
    axes = ((grid[..., 0], width), (grid[..., 1], height))
    x, y = (_pixels(at, size, padding=padding, align_corners=align_corners) for at, size in axes)
    left, top = jnp.floor(x), jnp.floor(y)
    total = jnp.zeros((), grid.dtype)
    for row, row_weight in ((top, top + 1 - y), (top + 1, y - top)):
        for column, column_weight in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weight = jnp.where(inside, row_weight * column_weight, 0)
            columns, rows = (_index(at, size) for at, size in ((column, width), (row, height)))
            total = total + weight[..., None] * _gathered(image, rows * width + columns).astype(grid.dtype)
    return total.astype(image.dtype)


def _pixels(at: Array, size: int, *, padding: Padding, align_corners: bool) -> Array:
    """Returns coordinates of one axis in pixels; reflected coordinates lie inside the picture."""
    pixels = (at + 1) / 2 * (size - 1) if align_corners else ((at + 1) * size - 1) / 2
    if padding == "zeros":
        return pixels
    first, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if span == 0:
        return jnp.zeros_like(pixels)
    distance = jnp.abs(pixels - first)
    flips = jnp.floor(distance / span)
    rest = distance - flips * span
    return jnp.clip(jnp.where(flips % 2 == 0, rest, span - rest) + first, 0, size - 1)


def _index(at: Array, size: int) -> Int[Array, ...]:
    return jnp.clip(at, 0, size - 1).astype(jnp.int32)


def _gathered(image: Float[Array, "b h w c"], index: Int[Array, b * pixels]) -> Float[Array, "b *pixels c"]:
    pixels = image.reshape(image.shape[0], -1, image.shape[-1])
    return jax.vmap(lambda one, at: one.at[at].get(mode="promise_in_bounds"))(pixels, index)


def resize_bilinear(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b hh ww c"]:
    """Returns maps or fields at another size, by bilinear interpolation of pixel centers, without antialiasing.

    The values of a field need no change, because its coordinates do not depend on the size.
    """
    if x.shape[1:3] == (height, width):
        return x
    shape = (x.shape[0], height, width, x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False, precision="highest")


def antialiased_downscale(x: Float[Array, "b h w c"], scale: float) -> Float[Array, "b hh ww c"]:
    """Returns pictures blurred by a Gaussian and reduced to every (1 / scale)-th pixel, starting with the first.

    Pixels outside the picture count as 0. The blur is a product with one matrix for each axis.

    Args:
        x: Pictures.
        scale: Scale, 0..1; 1 returns the pictures as they are.

    Raises:
        SMCDError: The scale is not in 0..1.
    """
    if not 0 < scale <= 1:
        raise SMCDError(f"scale must be in 0..1, got {scale}", argument="scale", value=scale)
    if scale == 1:
        return x
    rows, columns = (jnp.asarray(_blur_matrix(size, scale), x.dtype) for size in x.shape[1:3])
    blurred = jnp.einsum("ph,bhwc->bpwc", rows, x, precision="highest")
    return jnp.einsum("qw,bpwc->bpqc", columns, blurred, precision="highest")


def _blur_matrix(size: int, scale: float) -> Float[np.ndarray, "out size"]:
    kernel, step = gaussian_kernel(scale), int(1 / scale)
    offsets = np.arange(size)[None] - step * np.arange(math.ceil(size / step))[:, None] + len(kernel) // 2
    within = (offsets >= 0) & (offsets < len(kernel))
    return np.where(within, kernel[np.clip(offsets, 0, len(kernel) - 1)], 0.0)


def gaussian_kernel(scale: float) -> Float[np.ndarray, " k"]:
    """Returns the weights of `antialiased_downscale` along one axis, float64; their sum is 1."""
    sigma = (1 / scale - 1) / 2
    half = round(4 * sigma)
    weights = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()
