"""Scenes of the world of winds: textured regions over a background, and the backward motion of each.

Every region has its own texture in the coordinates of the first frame. Its motion is given backward: where a
point of frame t was in frame 0. Plants sway about their foot, all in the wind of the scene; balloons grow or shrink;
clouds drift along the wind. Coordinates are x, y in 0..1 of the picture, y downwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from data_pipeline.sprites.colors import hsv_to_rgb
from data_pipeline.sprites.config import SPLITS
from data_pipeline.sprites.rng import ClipRng
from data_pipeline.winds.config import WindConfig

Kind = Literal["plant", "balloon", "cloud"]
# Random streams. Changing one changes every clip.
_BACKGROUND, _WIND, _REGIONS, _TEXTURES = 0, 1, 2, 3
_KINDS: tuple[tuple[Kind, float], ...] = (("plant", 0.5), ("balloon", 0.25), ("cloud", 0.25))
# Hue range in degrees, saturation range and value range for each kind of region.
_COLORS = {
    "background": ((190.0, 400.0), (0.12, 0.35), (0.5, 0.92)),
    "plant": ((75.0, 155.0), (0.45, 0.85), (0.35, 0.7)),
    "balloon": ((-20.0, 45.0), (0.65, 0.95), (0.75, 0.98)),
    "cloud": ((195.0, 225.0), (0.02, 0.2), (0.88, 1.0)),
}
# Cells of the two octaves of a texture per side of the picture: about 13 and 5 pixels at 64 x 64.
_OCTAVES = ((5, 0.6), (13, 0.4))
_MARGIN = 0.25  # margin of a texture around the picture, as a fraction of the side
_PLANNED = 8  # number of frames to which `WindConfig.growth` refers

Points = Float[np.ndarray, "*k 2"]


@dataclass(frozen=True, eq=False)
class Wind:
    """The wind of a scene.

    Attributes:
        direction: 1 to the right, -1 to the left.
        strength: Share of the largest deflection, 0..1.
        period: Period in frames.
        phase: Phase at frame 0, in radians.
    """

    direction: int
    strength: float
    period: float
    phase: float

    def swing(self, frame: float, delay: float) -> float:
        """Returns the deflection at a frame minus that at frame 0, in -2..2; ``delay`` is a phase in radians."""
        angle = self.phase - delay
        return self.strength * (math.sin(2 * math.pi * frame / self.period + angle) - math.sin(angle))


@dataclass(frozen=True, eq=False)
class Layer:
    """A moving region.

    Attributes:
        kind: Kind of the region, which determines its motion.
        center: Center in frame 0; for a plant, the center of its crown.
        radii: Half width and half height.
        lobes: Number, depth and phase of the waves along the outline.
        speed: Largest deflection, logarithm of growth per frame, or distance per frame.
        wind: Wind of the scene.
        texture: Texture of the region, which covers the range of `texture_at`.
    """

    kind: Kind
    center: tuple[float, float]
    radii: tuple[float, float]
    lobes: tuple[int, float, float]
    speed: float
    wind: Wind
    texture: Float[np.ndarray, "n n 3"]

    @property
    def foot(self) -> float:
        """Coordinate y of the foot of a plant, which does not move."""
        return self.center[1] + 1.35 * self.radii[1]

    def origin(self, points: Points, frame: float) -> Points:
        """Returns the positions in frame 0 of points of a frame; the frame may be fractional."""
        if self.kind == "plant":
            lift = np.clip((self.foot - points[..., 1]) / (2.35 * self.radii[1]), 0, 1.3) ** 1.5
            shift = self.speed * self.wind.swing(frame, 3.0 * self.center[0] * self.wind.direction) * lift
            return np.stack([points[..., 0] - shift, points[..., 1]], axis=-1)
        if self.kind == "balloon":
            center = np.asarray(self.center)
            return center + (points - center) * math.exp(-self.speed * frame)
        return points - np.asarray([self.speed * self.wind.direction * frame, 0.0])

    def inside(self, origins: Points) -> Float[np.ndarray, "*k"]:
        """Returns the signed distance from the outline at points of frame 0, positive inside."""
        offset = (origins - np.asarray(self.center)) / np.asarray(self.radii)
        count, depth, phase = self.lobes
        radius = np.hypot(offset[..., 0], offset[..., 1])
        edge = 1 + depth * np.sin(count * np.arctan2(offset[..., 1], offset[..., 0]) + phase)
        distance = (edge - radius) * min(self.radii)
        if self.kind != "plant":
            return distance
        away = np.abs(origins[..., 0] - self.center[0]) - 0.18 * self.radii[0]
        stem = np.minimum(-away, np.minimum(origins[..., 1] - self.center[1], self.foot - origins[..., 1]))
        return np.maximum(distance, stem)


@dataclass(frozen=True, eq=False)
class Scene:
    """Complete description of a clip. Later layers are in front of earlier ones; the background does not move.

    Attributes:
        caption: Description of the motion.
        background: Texture behind the layers, which covers the range of `texture_at`.
        layers: Moving regions.
        num_frames: Number of frames.
    """

    caption: str
    background: Float[np.ndarray, "n n 3"]
    layers: tuple[Layer, ...]
    num_frames: int

    @property
    def labels(self) -> tuple[str, ...]:
        """Kind of each layer."""
        return tuple(layer.kind for layer in self.layers)


def draw_scene(config: WindConfig, split: str, index: int) -> Scene:
    """Draws the scene of one clip, a pure function of the arguments.

    Args:
        config: Parameters of the world.
        split: Name of the split.
        index: Index of the clip in the split.
    """
    background_rng, wind_rng, region_rng, texture_rng = (
        ClipRng(config.seed, split=SPLITS[split], index=index, stream=stream)
        for stream in (_BACKGROUND, _WIND, _REGIONS, _TEXTURES)
    )
    wind = Wind(
        direction=wind_rng.pick((-1, 1)),
        strength=wind_rng.uniform(0.4, 1.0),
        period=wind_rng.uniform(config.min_period, config.max_period),
        phase=wind_rng.uniform(0, 2 * math.pi),
    )
    count = config.min_regions + region_rng.below(config.max_regions - config.min_regions + 1)
    layers = []
    for _ in range(count):
        layers.append(_draw_layer(config, wind, region_rng, texture_rng, others=layers))
    return Scene(
        caption=_caption(layers, wind),
        background=_texture("background", background_rng, config),
        layers=tuple(layers),
        num_frames=config.frames,
    )


def _draw_layer(config: WindConfig, wind: Wind, rng: ClipRng, texture_rng: ClipRng, *, others: list[Layer]) -> Layer:
    kind = rng.weighted(_KINDS)
    tries = [_placed(kind, rng) for _ in range(6)]
    center, radii = max(tries, key=lambda placed: _gap(placed, others))
    speeds = {
        "plant": config.sway * rng.uniform(0.7, 1.0),
        "balloon": config.growth / _PLANNED * rng.uniform(0.5, 1.0) * rng.pick((-1, 1)),
        "cloud": config.drift * rng.uniform(0.5, 1.0) * wind.strength,
    }
    lobes = (3 + rng.below(4), 0.0 if kind == "balloon" else rng.uniform(0.05, 0.15), rng.uniform(0, 2 * math.pi))
    return Layer(kind, center, radii, lobes, speeds[kind], wind, _texture(kind, texture_rng, config))


def _placed(kind: Kind, rng: ClipRng) -> tuple[tuple[float, float], tuple[float, float]]:
    """Draws the center and the radii of a region."""
    if kind == "plant":
        radii = rng.uniform(0.11, 0.17), rng.uniform(0.18, 0.26)
        return (rng.uniform(0.18, 0.82), rng.uniform(0.42, 0.62)), radii
    if kind == "balloon":
        radius = rng.uniform(0.12, 0.19)
        return (rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.75)), (radius, radius)
    return (rng.uniform(0.2, 0.8), rng.uniform(0.15, 0.35)), (rng.uniform(0.18, 0.26), rng.uniform(0.09, 0.13))


def _gap(placed: tuple[tuple[float, float], tuple[float, float]], others: list[Layer]) -> float:
    """Returns the smallest distance to the other layers, in units of the radii."""
    (x, y), (width, height) = placed
    gaps = [
        math.hypot((x - o.center[0]) / (width + o.radii[0]), (y - o.center[1]) / (height + o.radii[1])) for o in others
    ]
    return min(gaps, default=math.inf)


def _caption(layers: list[Layer], wind: Wind) -> str:
    side = "right" if wind.direction > 0 else "left"
    phrases = {"plant": "sways in the wind", "cloud": f"drifts to the {side}"}
    parts = []
    for layer in layers:
        grows = "grows" if layer.speed > 0 else "shrinks"
        parts.append(f"a {layer.kind} {phrases.get(layer.kind, grows)}")
    return " and ".join(dict.fromkeys(parts))


def _texture(what: str, rng: ClipRng, config: WindConfig) -> Float[np.ndarray, "n n 3"]:
    """Draws a picture in 0..1 of two colors mixed by smooth noise, with a margin around the unit square."""
    hues, saturations, values = _COLORS[what]
    first, second = (rng.uniform(*hues) for _ in range(2))
    saturation = np.array([rng.uniform(*saturations) for _ in range(2)])
    bright = rng.uniform(*values)
    value = np.array([bright, bright * rng.uniform(0.45, 0.65)])
    palette = hsv_to_rgb(np.array([first, second]) % 360, saturation, value)
    side = round(max(config.width, config.height) * (1 + 2 * _MARGIN))
    mixed = np.zeros((side, side))
    for cells, weight in _OCTAVES:
        count = math.ceil(cells * (1 + 2 * _MARGIN)) + 1
        grid = np.array([rng.unit() for _ in range(count * count)]).reshape(count, count)
        at = np.linspace(0, (count - 1.001), side)
        mixed += weight * _smooth(grid, at)
    share = np.clip(0.5 + 1.6 * (mixed - 0.5), 0, 1)[..., None]
    return (palette[0] * share + palette[1] * (1 - share)).astype(np.float32)


def _smooth(grid: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolates a grid along both axes with smoothstep weights."""
    low = at.astype(int)
    part = at - low
    part = part * part * (3 - 2 * part)
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def texture_at(texture: Float[np.ndarray, "n n 3"], points: Points) -> Float[np.ndarray, "*k 3"]:
    """Returns the colors of a texture at points, by bilinear interpolation; points may lie up to 0.25 outside 0..1."""
    side = len(texture)
    place = np.clip((points + _MARGIN) / (1 + 2 * _MARGIN) * side - 0.5, 0, side - 1.001)
    low = place.astype(np.int64)
    part = (place - low).astype(np.float32)
    x, y = part[..., :1], part[..., 1:]
    flat, index = texture.reshape(-1, 3), low[..., 1] * side + low[..., 0]
    above = flat[index] * (1 - x) + flat[index + 1] * x
    below = flat[index + side] * (1 - x) + flat[index + side + 1] * x
    return above * (1 - y) + below * y
