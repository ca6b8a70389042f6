"""Coarse search of the sprite detector: scores of all places and sizes of one sprite in a frame.

Let r be the frame minus the known background, and d the change that the sprite at a place makes to the background: its
colour (multiplied by opacity) minus its opacity times the background. <r, d> and <d, d> over all places are
correlations of pictures with the sprite, computed as products of Fourier transforms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import fft
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from data_pipeline.sprites import Sprite

# Sizes to try, relative to the sprite's size in the first frame of the scene. Sizes above `LARGEST` (square root of the
# area as a share of the shorter side) are skipped: sprites of the sprite world stay below it.
SCALES = tuple(0.4 * 1.2**step for step in range(11))
LARGEST = 0.75
SMALLEST = 4.0  # minimum side in pixels
# Range of the contrast of a sprite: decoders fade small objects.
CONTRASTS = (0.4, 1.25)
# The centre may lie outside the picture by this share of the sprite; scenes mask out sprites further outside.
_BEYOND = 0.35
_PEAKS = 2  # number of candidates per size
# Minimum share of a sprite's power |d|^2 on free pixels: a smaller visible part under another sprite matches anything.
_LEAST = 0.03
_TINY = 1e-6


class Pose(NamedTuple):
    """Place of a sprite: its centre in pixels of the video, and its size relative to the first frame."""

    x: float
    y: float
    scale: float


class CoarseSearch:
    """Search for one sprite at whole pixels of pictures reduced by a whole factor.

    Args:
        background: Background of the scene, 0..1.
        sprite: Sprite to find.
        size: Width and height of the sprite at scale 1, in pixels of the background.
        blur: Standard deviation of the blur of background, frames and sprite, in pixels.
        factor: Factor by which pictures are reduced.
    """

    def __init__(
        self,
        background: Float32[np.ndarray, "h w 3"],
        sprite: Sprite,
        *,
        size: Float[np.ndarray, " 2"],
        blur: float,
        factor: int,
    ):
        self._factor, self._size = factor, size / factor
        self._background = _reduced(background, factor)
        picture = self._background.shape[:2]
        largest = LARGEST * min(picture) / float(np.sqrt(self._size.prod()))
        scales = [scale for scale in SCALES if min(self._size) * scale >= SMALLEST and scale <= largest]
        templates = [_template(sprite, self._size * scale, blur / factor) for scale in scales]
        # Padding for the largest template, so that correlations do not wrap around.
        reach = np.max([template.shape[:2] for template in templates], axis=0, initial=0)
        self._room = tuple(fft.next_fast_len(int(side), real=True) for side in reach + picture)
        self._tried = [
            (scale, template.shape[:2], *self._kernels(template))
            for scale, template in zip(scales, templates, strict=True)
        ]

    def places(
        self, difference: Float32[np.ndarray, "h w 3"], free: Float32[np.ndarray, "h w"], *, most: int
    ) -> list[Pose]:
        """Returns the places that explain most of a frame, best first, without near duplicates.

        Args:
            difference: Frame minus the background, r.
            free: Weight of each pixel, 0..1.
            most: Maximum number of places.
        """
        difference, free = _reduced(difference, self._factor), _reduced(free[..., None], self._factor)
        background = self._background
        for_shared = np.concatenate([difference, (difference * background).sum(-1, keepdims=True)], axis=-1)
        for_power = np.concatenate([np.ones_like(free), background, (background**2).sum(-1, keepdims=True)], axis=-1)
        for_shared, for_power = self._transform(for_shared * free), self._transform(for_power * free)
        found = []
        for scale, shape, kernel_shared, kernel_power in self._tried:
            shared = fft.irfft2((for_shared * kernel_shared).sum(0), self._room)
            power = fft.irfft2((for_power * kernel_power).sum(0), self._room)
            found += self._peaks(explained(shared, power), shape, scale)
        kept: list[Pose] = []
        for _, pose in sorted(found, key=lambda peak: -peak[0]):
            if len(kept) < most and not any(self._alike(pose, other) for other in kept):
                kept.append(pose)
        return [Pose(pose.x * self._factor, pose.y * self._factor, pose.scale) for pose in kept]

    def _kernels(self, template: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the Fourier transforms of the correlation kernels for <r, d> and <d, d>."""
        color, opacity = template[..., :3], template[..., 3:]
        for_shared = np.concatenate([color, -opacity], axis=-1)
        for_power = np.concatenate([(color**2).sum(-1, keepdims=True), -2 * color * opacity, opacity**2], axis=-1)
        return self._transform(for_shared).conj(), self._transform(for_power).conj()

    def _transform(self, layers: Float32[np.ndarray, "h w c"]) -> np.ndarray:
        return fft.rfft2(np.moveaxis(layers, -1, 0), self._room)

    def _peaks(self, gain: np.ndarray, shape: tuple[int, int], scale: float) -> list[tuple[float, Pose]]:
        """Returns the best places at one size, at a minimum distance from each other."""
        y, x = (_centers(room, length) for room, length in zip(self._room, shape, strict=True))
        (height, width), (beyond_x, beyond_y) = self._background.shape[:2], _BEYOND * self._size * scale
        inside_y, inside_x = (y > -beyond_y) & (y < height + beyond_y), (x > -beyond_x) & (x < width + beyond_x)
        gain = np.where(inside_y[:, None] & inside_x, gain, 0)
        peaks = []
        for _ in range(_PEAKS):
            row, column = np.unravel_index(gain.argmax(), gain.shape)
            if gain[row, column] > 0:
                peaks.append((float(gain[row, column]), Pose(float(x[column]), float(y[row]), scale)))
            near_y, near_x = np.abs(y - y[row]) < 0.3 * shape[0], np.abs(x - x[column]) < 0.3 * shape[1]
            gain[near_y[:, None] & near_x] = 0
        return peaks

    def _alike(self, one: Pose, other: Pose) -> bool:
        near = 0.25 * self._size * min(one.scale, other.scale)
        close = abs(one.x - other.x) < near[0] and abs(one.y - other.y) < near[1]
        return close and max(one.scale / other.scale, other.scale / one.scale) < 1.3


def compare_sprite(
    sprite: Sprite,
    box: tuple[float, float, float, float],
    difference: Float32[np.ndarray, "h w 3"],
    free: Float32[np.ndarray, "h w"],
    *,
    background: Float32[np.ndarray, "h w 3"],
    blur: float,
) -> tuple[float, float]:
    """Returns the part of |r|^2 that a sprite in a box explains, and the cosine of r and d around the box.

    Args:
        sprite: Sprite to compare with.
        box: Box of the sprite, xyxy in pixels.
        difference: Blurred frame minus the background, r.
        free: Weight of each pixel, 0..1.
        background: Blurred background, 0..1.
        blur: Standard deviation of the blur, in pixels.
    """
    height, width = free.shape
    patch = sprite.draw(box, width, height)
    if patch is None:
        return 0.0, -1.0
    margin = 2 * int(np.ceil(blur))
    rows, columns = patch.pixels.shape[:2]
    y1, x1 = max(patch.top - margin, 0), max(patch.left - margin, 0)
    y2, x2 = min(patch.top + rows + margin, height), min(patch.left + columns + margin, width)
    around = (slice(y1, y2), slice(x1, x2))
    drawn = rgba(patch.pixels, above=patch.top - y1, left=patch.left - x1, shape=(y2 - y1, x2 - x1))
    drawn = blurred(drawn, blur)
    added = drawn[..., :3] - drawn[..., 3:] * background[around]
    whole = float((added * added).sum())
    added *= free[around][..., None]
    seen = difference[around] * free[around][..., None]
    shared, power = float((added * seen).sum()), float((added * added).sum())
    if power < _LEAST * whole:
        return 0.0, -1.0
    score = shared / float(np.sqrt(power * float((seen * seen).sum()) + _TINY))
    return float(explained(shared, power)), score


def explained(shared: Float[np.ndarray, "*p"], power: Float[np.ndarray, "*p"]) -> Float[np.ndarray, "*p"]:
    """Returns max |r|^2 - |r - g d|^2 over contrasts g, from shared = <r, d> and power = <d, d>; may be negative."""
    contrast = np.clip(shared / np.maximum(power, _TINY), *CONTRASTS)
    return contrast * (2 * shared - contrast * power)


def blurred(pictures: Float32[np.ndarray, "*f h w c"], deviation: float) -> Float32[np.ndarray, "*f h w c"]:
    """Returns pictures blurred by a Gaussian of this standard deviation in pixels."""
    sides = (0,) * (pictures.ndim - 3) + (deviation, deviation, 0)
    return gaussian_filter(pictures, sides, truncate=3)


def rgba(drawn: UInt8[np.ndarray, "h w 4"], *, above: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    """Returns the drawn sprite on a transparent picture of this shape, float32 in 0..1, colour times opacity."""
    picture = np.zeros((*shape, 4), np.float32)
    picture[above : above + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return picture / 255


def _template(sprite: Sprite, size: Float[np.ndarray, " 2"], blur: float) -> Float32[np.ndarray, "h w 4"]:
    """Returns the sprite in the middle of a transparent picture with room for its blur."""
    width, height = (np.ceil(size).astype(int) + 2 * int(np.ceil(3 * blur))).tolist()
    low = (np.array([width, height]) - size) / 2
    patch = sprite.draw((*low.tolist(), *(low + size).tolist()), width, height)
    return blurred(rgba(patch.pixels, above=patch.top, left=patch.left, shape=(height, width)), blur)


def _centers(room: int, length: int) -> Float[np.ndarray, " r"]:
    """Returns the template's centre at each offset of a circular correlation; the last offsets are negative."""
    starts = np.arange(room)
    return np.where(starts > room - length, starts - room, starts) + length / 2


def _reduced(picture: Float32[np.ndarray, "h w c"], factor: int) -> Float32[np.ndarray, "h w c"]:
    """Returns means of blocks; incomplete blocks are padded by repeating the border."""
    if factor == 1:
        return picture
    height, width = (-(-side // factor) for side in picture.shape[:2])
    missing = ((0, height * factor - picture.shape[0]), (0, width * factor - picture.shape[1]), (0, 0))
    blocks = np.pad(picture, missing, mode="edge").reshape(height, factor, width, factor, -1)
    return blocks.mean(axis=(1, 3))
