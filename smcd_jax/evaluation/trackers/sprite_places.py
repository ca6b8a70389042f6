"""Owns the coarse search of the sprite detector: every place and size of one sprite in a frame, judged at once.

With r the frame minus the known background and d what the sprite would add to the background at a place, <r, d> and
<d, d> over all places are correlations of pictures with the sprite, and so products of Fourier transforms: d is its
colour (multiplied by opacity) minus its opacity times the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from scipy import fft
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from data_pipeline.sprites import Sprite

# Sizes that are tried, relative to the sprite's in the first frame of the scene, as far as the sprite then measures
# `LARGEST` at most, square root of its area as a share of the shorter side: sprites of the sprite world stay within.
SCALES = tuple(0.4 * 1.2**step for step in range(11))
LARGEST = 0.75
SMALLEST = 4.0  # pixels of a side
# How much fainter or stronger than drawn a sprite may be: decoders fade small things.
CONTRASTS = (0.4, 1.25)
# The centre may lie outside of the picture by this share of the sprite; beyond, scenes mask it out.
_BEYOND = 0.35
_PEAKS = 2  # places considered of each size
_TINY = 1e-6


class Pose(NamedTuple):
    """Where a sprite is: its centre in pixels of the video, and its size relative to the first frame's."""

    x: float
    y: float
    scale: float


class CoarseSearch:
    """Looks for one sprite at whole pixels of pictures reduced by a whole factor.

    Args:
        background: of the scene, 0..1.
        sprite: what to look for.
        size: its width and height at scale 1, pixels of the background.
        blur: of background and frames, standard deviation in pixels; the sprite is blurred likewise.
        factor: by which pictures are reduced.
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
        # Room for the largest beside the picture, so that nothing wraps around.
        reach = np.max([template.shape[:2] for template in templates], axis=0, initial=0)
        self._room = tuple(fft.next_fast_len(int(side), real=True) for side in reach + picture)
        self._tried = [
            (scale, template.shape[:2], *self._kernels(template))
            for scale, template in zip(scales, templates, strict=True)
        ]

    def places(
        self, difference: Float32[np.ndarray, "h w 3"], free: Float32[np.ndarray, "h w"], *, most: int
    ) -> list[Pose]:
        """The places that explain most of a frame, best first, at most so many, none too like a better one.

        Args:
            difference: r, the frame minus the background.
            free: how far each pixel counts, 0..1.
            most: number of places.
        """
        difference, free = _reduced(difference, self._factor), _reduced(free[..., None], self._factor)
        behind = self._background
        for_shared = np.concatenate([difference, (difference * behind).sum(-1, keepdims=True)], axis=-1)
        for_power = np.concatenate([np.ones_like(free), behind, (behind**2).sum(-1, keepdims=True)], axis=-1)
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
        """What the pictures are multiplied with to correlate, for <r, d> and for <d, d>."""
        color, opacity = template[..., :3], template[..., 3:]
        for_shared = np.concatenate([color, -opacity], axis=-1)
        for_power = np.concatenate([(color**2).sum(-1, keepdims=True), -2 * color * opacity, opacity**2], axis=-1)
        return self._transform(for_shared).conj(), self._transform(for_power).conj()

    def _transform(self, layers: Float32[np.ndarray, "h w c"]) -> np.ndarray:
        return fft.rfft2(np.moveaxis(layers, -1, 0), self._room)

    def _peaks(self, gain: np.ndarray, shape: tuple[int, int], scale: float) -> list[tuple[float, Pose]]:
        """The best places at one size, apart from each other."""
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


def explained(shared: Float[np.ndarray, "*p"], power: Float[np.ndarray, "*p"]) -> Float[np.ndarray, "*p"]:
    """Max over contrasts g of |r|^2 - |r - g d|^2, of shared = <r, d> and power = <d, d>; may be below 0."""
    contrast = np.clip(shared / np.maximum(power, _TINY), *CONTRASTS)
    return contrast * (2 * shared - contrast * power)


def blurred(pictures: Float32[np.ndarray, "*f h w c"], deviation: float) -> Float32[np.ndarray, "*f h w c"]:
    """Each picture under a Gaussian of this standard deviation, pixels."""
    sides = (0,) * (pictures.ndim - 3) + (deviation, deviation, 0)
    return gaussian_filter(pictures, sides, truncate=3)


def rgba(drawn: UInt8[np.ndarray, "h w 4"], *, above: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    """A drawn sprite on a transparent picture of this shape, float32 0..1, colour multiplied by opacity."""
    picture = np.zeros((*shape, 4), np.float32)
    picture[above : above + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return picture / 255


def _template(sprite: Sprite, size: Float[np.ndarray, " 2"], blur: float) -> Float32[np.ndarray, "h w 4"]:
    """The sprite in the middle of a transparent picture that has room for its blur."""
    width, height = (np.ceil(size).astype(int) + 2 * int(np.ceil(3 * blur))).tolist()
    low = (np.array([width, height]) - size) / 2
    patch = sprite.draw((*low.tolist(), *(low + size).tolist()), width, height)
    return blurred(rgba(patch.pixels, above=patch.top, left=patch.left, shape=(height, width)), blur)


def _centers(room: int, length: int) -> Float[np.ndarray, " r"]:
    """Centre of a template of this length at each place of a correlation, the last of which lie before the picture."""
    starts = np.arange(room)
    return np.where(starts > room - length, starts - room, starts) + length / 2


def _reduced(picture: Float32[np.ndarray, "h w c"], factor: int) -> Float32[np.ndarray, "h w c"]:
    """Mean of blocks; what is missing of the last ones repeats the border."""
    if factor == 1:
        return picture
    height, width = (-(-side // factor) for side in picture.shape[:2])
    missing = ((0, height * factor - picture.shape[0]), (0, width * factor - picture.shape[1]), (0, 0))
    blocks = np.pad(picture, missing, mode="edge").reshape(height, factor, width, factor, -1)
    return blocks.mean(axis=(1, 3))
