"""Procedural backgrounds that look like photographs: landscapes, walls, and lights out of focus.

As in photographs, detail fades with its frequency: textures are sums of smooth noise (octaves) whose amplitude halves
as the frequency doubles. Coordinates are in units of the picture's shorter side, so that a picture is the same at every
resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from data_pipeline.sprites.colors import hsv_to_rgb
from data_pipeline.sprites.rng import ClipRng

_FINEST = 64  # number of cells of the finest noise along the shorter side
_VIGNETTE = 0.22  # largest darkening of the corners


class Canvas:
    """Coordinates of a picture's pixels and noise on them.

    Attributes:
        x: Horizontal coordinates `[1, w]`, in units of the shorter side.
        y: Vertical coordinates `[h, 1]`, pointing down.
        pixel: Size of a pixel.
    """

    def __init__(self, rng: ClipRng, *, width: int, height: int):
        shorter = min(width, height)
        self.x = ((np.arange(width, dtype=np.float32) + 0.5) / shorter)[None, :]
        self.y = ((np.arange(height, dtype=np.float32) + 0.5) / shorter)[:, None]
        self.pixel = 1 / shorter
        self._rng, self._size = rng, (width, height)

    @property
    def bottom(self) -> float:
        """Height of the picture."""
        return self._size[1] * self.pixel

    def noise(self, cells_x: float, cells_y: float | None = None, *, octaves: int = 4) -> Float32[np.ndarray, "h w"]:
        """Returns smooth noise of mean 0 and standard deviation 1.

        Args:
            cells_x: Cells of the coarsest octave across the shorter side, horizontally.
            cells_y: The same vertically; None for `cells_x`.
            octaves: Number of octaves; those with cells smaller than 1/64 of the shorter side are left out.
        """
        cells_y = cells_x if cells_y is None else cells_y
        width, height = self._size
        total = np.zeros((height, width), np.float32)
        for octave in range(octaves):
            across, down = (
                min(math.ceil(2**octave * cells * side * self.pixel) + 1, 2 * _FINEST)
                for cells, side in ((cells_x, width), (cells_y, height))
            )
            if octave and max(across, down) > 1.5 * _FINEST:
                break
            grid = Image.fromarray(self._rng.units(down, across).astype(np.float32))
            total += 2.0**-octave * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
        return (total - total.mean()) / max(float(total.std()), 1e-6)

    def below(self, line: Float32[np.ndarray, "*n"], *, blur: float = 1.0) -> Float32[np.ndarray, "h w 1"]:
        """Returns 1 below a horizontal line and 0 above it, with a ramp about `blur` pixels wide."""
        return (
            np.clip(0.5 + (self.y - line) / (blur * self.pixel), 0, 1).astype(np.float32)[..., None]
            + 0 * self.x[..., None]
        )

    def mix(
        self, first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, share: np.ndarray
    ) -> Float32[np.ndarray, "h w 3"]:
        """Returns first * (1 - share) + second * share; shares are clipped to 0..1."""
        share = np.clip(share, 0, 1).astype(np.float32)
        share = share if share.ndim == 3 else share[..., None]
        share = np.broadcast_to(share, (self.y.size, self.x.size, 1))
        return np.asarray(first, np.float32) * (1 - share) + np.asarray(second, np.float32) * share


def draw_photograph(kind: str, rng: ClipRng, *, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a background that looks like a photograph.

    Args:
        kind: Name of the subject, one of `PHOTOGRAPHS`.
        rng: Random number generator.
        width: Width in pixels.
        height: Height in pixels.
    """
    canvas = Canvas(rng, width=width, height=height)
    picture = PHOTOGRAPHS[kind](rng, canvas)
    # Lighting: from one side, with darker corners, and the camera's exposure and warmth.
    angle, slope = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.12)
    middle_x, middle_y = canvas.x.mean(), canvas.y.mean()
    light = 1 + slope * (math.cos(angle) * (canvas.x - middle_x) + math.sin(angle) * (canvas.y - middle_y))
    radius = ((canvas.x - middle_x) ** 2 + (canvas.y - middle_y) ** 2) / (middle_x**2 + middle_y**2)
    light = light * (1 - rng.uniform(0, _VIGNETTE) * radius) * rng.uniform(0.88, 1.06)
    warmth = rng.uniform(-0.04, 0.04)
    picture = picture * light[..., None] * np.array([1 + warmth, 1, 1 - warmth], np.float32)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _meadow(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    horizon = canvas.bottom * rng.uniform(0.32, 0.55)
    picture = _sky(rng, canvas, horizon)
    picture = _far_hills(rng, canvas, picture, horizon, hue=rng.uniform(90, 210))
    near, far = _color(rng, (75, 115), (0.55, 0.75), (0.34, 0.5)), _color(rng, (70, 105), (0.4, 0.6), (0.6, 0.74))
    depth = (canvas.y - horizon) / (canvas.bottom - horizon) + 0 * canvas.x
    grass = canvas.mix(far, near, depth)
    blades = canvas.noise(24, 6, octaves=2) * np.clip(0.25 + depth, 0, 1) + 0.7 * canvas.noise(3, 5)
    grass = grass * (1 + 0.085 * blades)[..., None]
    edge = horizon + 0.012 * canvas.noise(6, 1, octaves=3)[:1]
    return canvas.mix(picture, grass, canvas.below(edge, blur=1.5))


def _beach(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    horizon, shore = canvas.bottom * rng.uniform(0.25, 0.42), canvas.bottom * rng.uniform(0.58, 0.75)
    picture = _sky(rng, canvas, horizon)
    depth = (canvas.y - horizon) / (shore - horizon) + 0 * canvas.x
    deep, shallow = _color(rng, (195, 222), (0.55, 0.8), (0.4, 0.6)), _color(rng, (165, 195), (0.35, 0.55), (0.7, 0.82))
    sea = canvas.mix(deep, shallow, depth) * (1 + 0.09 * canvas.noise(3, 14, octaves=3))[..., None]
    picture = canvas.mix(picture, sea, canvas.below(np.float32(horizon)))
    line = shore + 0.02 * canvas.noise(3, 1, octaves=3)[:1] + rng.uniform(-0.12, 0.12) * (canvas.x - canvas.x.mean())
    sand = np.asarray(_color(rng, (32, 46), (0.25, 0.42), (0.78, 0.9))) * (1 + 0.05 * canvas.noise(8))[..., None]
    sand = sand * (0.82 + 0.18 * np.clip((canvas.y - line) / 0.12, 0, 1))[..., None]  # darker near the water
    picture = canvas.mix(picture, sand, canvas.below(line))
    foam = np.exp(-(((canvas.y - line + 0.012) / 0.016) ** 2))
    return canvas.mix(picture, (0.97, 0.98, 0.98), 0.85 * foam)


def _mountains(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    foot = canvas.bottom * rng.uniform(0.6, 0.8)
    picture = _sky(rng, canvas, foot)
    haze, rock = (
        np.asarray(_color(rng, (205, 235), (0.18, 0.3), (0.68, 0.8))),
        _color(rng, (215, 250), (0.1, 0.25), (0.3, 0.42)),
    )
    for depth, height in ((0.35, rng.uniform(0.34, 0.46)), (1.0, rng.uniform(0.16, 0.3))):
        ridge = foot - height + 0.075 * canvas.noise(3.5, 1, octaves=5)[:1]
        shade = 1 + 0.2 * canvas.noise(5, 4)
        stone = canvas.mix(haze, rock, np.full((1, 1), depth)) * shade[..., None]
        snow = canvas.below(ridge + 0.1 + 0.045 * canvas.noise(8, 6))
        face = canvas.mix(
            np.array([0.93, 0.95, 0.99]) * (0.85 + 0.15 * depth) * (0.93 + 0.09 * shade[..., None]), stone, snow
        )
        picture = canvas.mix(picture, face, canvas.below(ridge))
    trees = np.asarray(_color(rng, (110, 160), (0.35, 0.55), (0.2, 0.34))) * (1 + 0.16 * canvas.noise(14, 7))[..., None]
    return canvas.mix(picture, trees, canvas.below(foot + 0.025 * canvas.noise(20, 1, octaves=2)[:1]))


def _city(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    ground = canvas.bottom * rng.uniform(0.66, 0.8)
    picture = _sky(rng, canvas, ground)
    left = -rng.uniform(0, 0.2)
    while left < canvas.x[0, -1]:
        width, height = rng.uniform(0.16, 0.32), rng.uniform(0.25, 0.62)
        wall = np.asarray(_color(rng, (10, 240), (0.08, 0.32), (0.45, 0.8)))
        inside = np.clip(0.5 + (width / 2 - np.abs(canvas.x - left - width / 2)) / canvas.pixel, 0, 1)
        tower = canvas.below(np.float32(ground - height)) * inside[..., None]
        count = max(round(width / 0.075), 2)
        across, down = (canvas.x - left) / width * count, (canvas.y - ground + height) / 0.085
        panes = _bump(across, 0.3, canvas.pixel * count / width) * _bump(down, 0.3, canvas.pixel / 0.085)
        glass = np.array([0.35, 0.45, 0.56], np.float32) * rng.uniform(0.7, 1.3)
        front = canvas.mix(wall * (1 + 0.03 * canvas.noise(6))[..., None], glass, 0.8 * panes * (down > 0.35))
        picture = canvas.mix(picture, front, tower)
        left += width + (rng.uniform(0, 0.08) if rng.chance(0.4) else 0)
    road = np.asarray(_color(rng, (200, 260), (0.02, 0.08), (0.36, 0.5))) * (1 + 0.06 * canvas.noise(9))[..., None]
    road = canvas.mix(
        road, (0.74, 0.73, 0.7), np.clip(1 - np.abs(canvas.y - ground - 0.02) / 0.024, 0, 1) + 0 * canvas.x
    )
    return canvas.mix(picture, road, canvas.below(np.float32(ground)))


def _wood(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    upright = rng.chance(0.4)
    base = np.asarray(_color(rng, (22, 38), (0.35, 0.6), (0.5, 0.8)))
    count, shift = rng.below(3) + 3, rng.unit()
    across = ((canvas.x if upright else canvas.y) * count + shift) + 0 * (canvas.x + canvas.y)
    board = np.floor(across).astype(int)
    tones = 1 + 0.16 * (rng.units(count + 4) - 0.5)
    grain = canvas.noise(26, 2, octaves=2) if upright else canvas.noise(2, 26, octaves=2)
    rings = np.sin(
        2 * math.pi * (3 * across + 0.55 * canvas.noise(1.2 if upright else 0.9, 0.9 if upright else 1.2, octaves=2))
    )
    picture = base * (tones[np.minimum(board, len(tones) - 1)] * (1 + 0.05 * grain + 0.05 * rings))[..., None]
    seam = 1 - np.clip(np.minimum(across % 1, 1 - across % 1) / (1.6 * canvas.pixel * count), 0, 1)
    return canvas.mix(picture, base * 0.35, 0.8 * seam)


def _bricks(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    base = np.asarray(_color(rng, (4, 26), (0.35, 0.62), (0.5, 0.72)))
    rows = rng.below(3) + 5
    down = canvas.y * rows + rng.unit() + 0 * canvas.x
    row = np.floor(down).astype(int)
    across = canvas.x * rows / 2.2 + 0.5 * (row % 2) + rng.unit()
    column = np.floor(across).astype(int)
    table = rng.units(rows * 2 + 4, rows * 2 + 4)
    tone = table[row % len(table), column % len(table)] - 0.5
    bricks = base * (1 + 0.3 * tone + 0.06 * canvas.noise(14))[..., None]
    bricks = bricks + np.array([0.05, 0.0, -0.03]) * tone[..., None]
    gap = np.minimum(_edge_distance(down) / rows, _edge_distance(across) * 2.2 / rows)
    mortar = np.asarray(_color(rng, (25, 45), (0.04, 0.14), (0.68, 0.82)))
    return canvas.mix(bricks, mortar, 1 - np.clip((gap - 0.006) / canvas.pixel, 0, 1))


def _stone(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    first, second = _color(rng, (20, 260), (0.04, 0.18), (0.74, 0.9)), _color(rng, (20, 260), (0.05, 0.2), (0.45, 0.62))
    soft = canvas.noise(3, octaves=5)
    veins = np.exp(-np.abs(canvas.noise(2, octaves=3) + 0.4 * canvas.noise(7, octaves=3)) / 0.1)
    picture = canvas.mix(first, second, 0.4 + 0.16 * soft)
    return canvas.mix(picture, second if rng.chance(0.5) else (0.97, 0.96, 0.94), 0.6 * veins)


def _bokeh(rng: ClipRng, canvas: Canvas) -> np.ndarray:
    """Draws lights or leaves far behind the plane of focus, as discs over a soft background."""
    leaves = rng.chance(0.5)
    hue = rng.uniform(75, 150) if leaves else rng.uniform(0, 360)
    value = rng.uniform(0.38, 0.55) if leaves else rng.uniform(0.14, 0.26)
    dark = hsv_to_rgb(np.array(hue), np.array(0.5), np.array(value))
    bright = hsv_to_rgb(np.array((hue + 25) % 360), np.array(0.42), np.array(min(1.5 * value + 0.1, 1)))
    picture = canvas.mix(dark, bright, 0.5 + 0.3 * canvas.noise(2, octaves=2))
    for _ in range(rng.below(8) + 12):
        x, y = rng.uniform(0, float(canvas.x[0, -1])), rng.uniform(0, canvas.bottom)
        radius = rng.uniform(0.04, 0.12)
        spread = 35 if leaves else 90
        own = (hue + rng.uniform(-spread, spread)) % 360
        light = hsv_to_rgb(np.array(own), np.array(rng.uniform(0.2, 0.6)), np.array(rng.uniform(0.8, 1.0)))
        distance = np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2)
        disc = np.clip((radius - distance) / (1.6 * canvas.pixel) + 0.5, 0, 1) * (0.8 + 0.2 * distance / radius)
        picture = canvas.mix(picture, light, rng.uniform(0.25, 0.6) * disc)
    return picture


# Each function draws a picture [h, w, 3]; its values lie roughly in 0..1 and are clipped later.
PHOTOGRAPHS: dict[str, Callable[[ClipRng, Canvas], np.ndarray]] = {
    "meadow": _meadow,
    "beach": _beach,
    "mountains": _mountains,
    "city": _city,
    "wood": _wood,
    "bricks": _bricks,
    "stone": _stone,
    "bokeh": _bokeh,
}


def _sky(rng: ClipRng, canvas: Canvas, horizon: float) -> np.ndarray:
    """Draws a blue or a golden sky with clouds, over the whole picture."""
    if rng.chance(0.75):
        top, low = (
            _color(rng, (200, 220), (0.45, 0.68), (0.72, 0.92)),
            _color(rng, (195, 215), (0.1, 0.25), (0.9, 0.98)),
        )
    else:
        top, low = _color(rng, (225, 300), (0.25, 0.42), (0.55, 0.75)), _color(rng, (18, 42), (0.35, 0.6), (0.92, 1.0))
    height = np.clip(canvas.y / horizon, 0, 1) + 0 * canvas.x
    picture = canvas.mix(top, low, height)
    clouds = np.clip(0.55 * (canvas.noise(2, 4, octaves=5) - rng.uniform(0.1, 1.1)), 0, 0.85)
    return canvas.mix(picture, (1.0, 0.99, 0.98), clouds * (1 - 0.5 * height))


def _far_hills(rng: ClipRng, canvas: Canvas, picture: np.ndarray, horizon: float, *, hue: float) -> np.ndarray:
    for depth in (0.25, 0.6):
        ridge = horizon - rng.uniform(0.02, 0.13) * (1.3 - depth) + 0.03 * canvas.noise(2.5, 1, octaves=3)[:1]
        hill = hsv_to_rgb(np.array(hue), np.array(0.18 + 0.25 * depth), np.array(0.78 - 0.28 * depth))
        shaded = hill * (1 + 0.06 * canvas.noise(9, 7))[..., None]
        picture = canvas.mix(picture, shaded, canvas.below(ridge))
    return picture


def _color(
    rng: ClipRng, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    return hsv_to_rgb(*(np.array(rng.uniform(*bounds)) for bounds in (hue, saturation, value))).astype(np.float32)


def _edge_distance(place: np.ndarray) -> np.ndarray:
    """Returns the distance to the nearest whole number."""
    return np.abs(place - np.rint(place))


def _bump(place: np.ndarray, half: float, pixel: float) -> np.ndarray:
    """Returns 1 within distance `half` of the middle of each unit interval and 0 elsewhere, smoothed over a pixel."""
    return np.clip(0.5 + (half - np.abs(place % 1 - 0.5)) / pixel, 0, 1)
