"""Hole filling without a model: smooth colours, and texture cloned from another part of the picture."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage, signal

_SWEEPS = 24  # number of diffusion sweeps per level
_SEARCH_SIDE = 96  # longer side in pixels of the picture in which a texture source is searched for
_RING = 2  # width of the ring around a hole that must match the source, in pixels of that picture
_INSIDE_WEIGHT = 0.15  # weight of the estimated colours inside the hole; the ring has weight 1
_MARGIN = 8  # pixels kept around a hole while it is filled


def fill_holes(picture: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture with every hole filled from its surroundings; other pixels are unchanged.

    Each connected hole is filled with the part of the picture whose surroundings fit best, and the difference at the
    edge is spread smoothly over the hole, as in seamless cloning (Pérez et al., "Poisson Image Editing", 2003). Where
    no part of the picture is large enough, the surroundings are mirrored into the hole as far as they reach.

    Args:
        picture: Picture, RGB.
        hole: True where pixels are replaced. If it covers the whole picture, the fill is the mean colour.
    """
    if not hole.any():
        return picture.copy()
    values = picture.astype(np.float32)
    smooth = diffuse(values, hole)
    places, _ = ndimage.label(hole)
    filled = _mirrored(values, hole)
    for index, (rows, columns) in enumerate(ndimage.find_objects(places), 1):
        part = places == index
        shift = _best_shift(smooth, hole, part)
        if shift is None:
            continue
        rows, columns = (
            slice(max(0, side.start - _MARGIN), min(extent, side.stop + _MARGIN))
            for side, extent in zip((rows, columns), hole.shape, strict=True)
        )
        source = _shifted(smooth, rows, columns, shift)
        difference = values[rows, columns] - source
        cloned = source + diffuse(difference, hole[rows, columns])
        inside = part[rows, columns]
        filled[rows, columns][inside] = cloned[inside]
    result = np.clip(np.rint(filled), 0, 255).astype(np.uint8)
    return np.where(hole[..., None], result, picture)


def diffuse(values: Float32[np.ndarray, "h w c"], hole: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w c"]:
    """Returns the values with holes filled as heat would spread into them: approximately harmonic, from coarse to fine.

    Args:
        values: Values; those in the hole are ignored.
        hole: True where values are unknown. If none are known, the result is zero.
    """
    if not hole.any():
        return values
    if hole.all():
        return np.zeros_like(values)
    height, width = hole.shape
    if min(height, width) == 1 or max(height, width) <= 4:
        return np.where(hole[..., None], values[~hole].mean(axis=0), values)
    known = (~hole).astype(np.float32)[..., None]
    weight = _halved(known)
    coarse = _halved(values * known) / np.maximum(weight, 1e-6)
    coarse = diffuse(coarse, weight[..., 0] == 0)
    guess = _doubled(coarse, height, width)
    return _relaxed(np.where(hole[..., None], guess, values), hole)


def _mirrored(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fills holes with the mirror image of their surroundings at the nearest edge, and smoothly beyond it."""
    if hole.all():
        return diffuse(values, hole)
    nearest = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    source = 2 * nearest - np.indices(hole.shape)
    inside = np.all((source >= 0) & (source < np.array(hole.shape)[:, None, None]), axis=0)
    source = np.where(inside, source, nearest)
    missing = hole & (~inside | hole[tuple(source)])
    return diffuse(values[tuple(source)], missing)


def _halved(values: np.ndarray) -> np.ndarray:
    """Returns means over 2 x 2 pixels; for odd sizes the last row or column is repeated."""
    height, width, _ = values.shape
    values = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) / np.float32(4)


def _doubled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = ((np.arange(side, dtype=np.float32) - 0.5) / 2 for side in (height, width))
    return _interpolated(_interpolated(values, rows, axis=0), columns, axis=1)


def _interpolated(values: np.ndarray, at: np.ndarray, *, axis: int) -> np.ndarray:
    at = np.clip(at, 0, values.shape[axis] - 1)
    lower = np.floor(at).astype(int)
    upper = np.minimum(lower + 1, values.shape[axis] - 1)
    weight = np.expand_dims((at - lower).astype(np.float32), tuple(i for i in range(values.ndim) if i != axis))
    return (1 - weight) * np.take(values, lower, axis) + weight * np.take(values, upper, axis)


def _relaxed(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Runs Jacobi sweeps of Laplace's equation in the hole; the derivative across the border of the picture is zero."""
    rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    box = (slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2))
    part, mask = values[box].copy(), hole[box][..., None]
    for _ in range(_SWEEPS):
        around = np.pad(part, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / np.float32(4)
        part = np.where(mask, mean, part)
    result = values.copy()
    result[box] = part
    return result


def _best_shift(smooth: np.ndarray, hole: np.ndarray, part: np.ndarray) -> tuple[int, int] | None:
    """Returns rows and columns from the hole ``part`` to the source whose surroundings fit best, or None."""
    factor = max(1, -(-max(hole.shape) // _SEARCH_SIDE))
    colors = _reduced(smooth, factor)
    blocked, own = (_reduced(mask[..., None].astype(np.float32), factor)[..., 0] > 0 for mask in (hole, part))
    around = ndimage.binary_dilation(own, iterations=_RING)
    rows, columns = ndimage.find_objects(around.astype(int))[0]
    window = around[rows, columns].astype(np.float32)
    weight = np.where(blocked, _INSIDE_WEIGHT, 1).astype(np.float32)[rows, columns] * window
    target = colors[rows, columns]
    cost = (weight[..., None] * target**2).sum() + np.zeros(
        [extent - side + 1 for extent, side in zip(own.shape, window.shape, strict=True)]
    )
    for channel in range(3):
        cost += _correlated(colors[..., channel] ** 2, weight)
        cost -= 2 * _correlated(colors[..., channel], weight * target[..., channel])
    usable = _correlated(blocked.astype(np.float32), own[rows, columns].astype(np.float32)) < 0.5
    if not usable.any():
        return None
    row, column = np.unravel_index(np.where(usable, cost, np.inf).argmin(), cost.shape)
    return int(row - rows.start) * factor, int(column - columns.start) * factor


def _correlated(values: np.ndarray, window: np.ndarray) -> np.ndarray:
    return signal.correlate(values, window, mode="valid", method="fft")


def _reduced(values: np.ndarray, factor: int) -> np.ndarray:
    height, width, channels = values.shape
    pad = ((0, -height % factor), (0, -width % factor), (0, 0))
    values = np.pad(values, pad, mode="edge")
    return values.reshape(values.shape[0] // factor, factor, -1, factor, channels).mean(axis=(1, 3))


def _shifted(values: np.ndarray, rows: slice, columns: slice, shift: tuple[int, int]) -> np.ndarray:
    """Returns the values at ``rows`` and ``columns`` moved by ``shift``, clamped to the border of the picture."""
    indices = [
        np.clip(np.arange(side.start, side.stop) + by, 0, extent - 1)
        for side, by, extent in zip((rows, columns), shift, values.shape[:2], strict=True)
    ]
    return values[np.ix_(*indices)]
