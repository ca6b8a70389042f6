"""Motion of sprites: smooth random paths of center and size, one function per kind of motion.

Centers are in 0..1 of the picture, y pointing down. A size is the square root of a sprite's area relative to the
picture's shorter side. A path spans the whole clip, and frames sample it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from data_pipeline.sprites.rng import ClipRng

# Limits of growing and shrinking, relative to the smallest and largest size of the config.
SMALLEST_SHARE, LARGEST_SHARE = 0.8, 1.35
# Distance traveled by sprites that move across the picture, in 0..1 of it.
MIN_TRAVEL, MAX_TRAVEL = 0.34, 0.62
# Largest distance from center to side of a sprite that travels inside the picture, in 0..1; twice this plus
# `MIN_TRAVEL` spans the whole picture.
_FIT = 0.33

# Times at which paths are compared and checked, independent of the number of frames.
PLANNED = np.linspace(0, 1, 17)

_SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_HEADINGS = (
    "to the right",
    "up and to the right",
    "up",
    "up and to the left",
    "to the left",
    "down and to the left",
    "down",
    "down and to the right",
)


class Path(NamedTuple):
    """Path of a sprite.

    Attributes:
        centers: Centers `[T, 2]`, x and y in 0..1 of the picture.
        sizes: Sizes `[T]`.
        phrase: Description of the motion that follows the label: "moves to the right".
    """

    centers: Float64[np.ndarray, "t 2"]
    sizes: Float64[np.ndarray, " t"]
    phrase: str


@dataclass(frozen=True, eq=False)
class Setting:
    """Constraints of a path.

    Attributes:
        times: Times `[T]` in 0..1: `PLANNED`, followed by those of the frames.
        reach: Distance from center to side of a sprite of size 1, x and y in 0..1 of the picture.
        min_size: Smallest size of a sprite of constant size.
        max_size: Largest size of a sprite of constant size.
    """

    times: Float64[np.ndarray, " t"]
    reach: Float64[np.ndarray, " 2"]
    min_size: float
    max_size: float

    def size(self, rng: ClipRng, *, fit: float = 0.45) -> float:
        """Draws a size at which no side is further than `fit` from the center."""
        return self.fitted(rng.uniform(self.min_size, self.max_size), fit=fit)

    def fitted(self, size: float, *, fit: float) -> float:
        """Limits a size to the bounds of growing, with no side further than `fit` from the center."""
        largest = min(self.max_size * LARGEST_SHARE, fit / float(self.reach.max()))
        return max(min(size, largest), self.min_size * SMALLEST_SHARE)


def _slide(setting: Setting, rng: ClipRng) -> Path:
    size = setting.size(rng, fit=_FIT)
    centers, phrase = _travel(setting, rng, (size, size))
    return Path(centers, np.full(len(centers), size), f"moves {phrase}")


def _approach(setting: Setting, rng: ClipRng) -> Path:
    small = setting.size(rng, fit=_FIT / 1.3)
    large = setting.fitted(small * rng.uniform(1.35, 1.75), fit=_FIT)
    centers, phrase = _travel(setting, rng, (small, large))
    return Path(centers, _growing(setting, small, large), f"grows and moves {phrase}")


def _recede(setting: Setting, rng: ClipRng) -> Path:
    large = setting.fitted(setting.size(rng) * 1.25, fit=_FIT)
    small = setting.fitted(large / rng.uniform(1.35, 1.75), fit=_FIT)
    centers, phrase = _travel(setting, rng, (large, small))
    return Path(centers, _growing(setting, large, small), f"shrinks and moves {phrase}")


def _grow(setting: Setting, rng: ClipRng) -> Path:
    large = setting.fitted(setting.max_size * rng.uniform(0.95, LARGEST_SHARE), fit=0.45)
    small = setting.fitted(large / rng.uniform(1.8, 2.6), fit=0.45)
    center = _inside(rng, large * setting.reach)
    drift = np.array([rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05)])
    # The drift vanishes at the end, where the sprite is large and needs the room.
    return Path(center + np.outer(setting.times - 1, drift), _growing(setting, small, large), "grows")


def _shrink(setting: Setting, rng: ClipRng) -> Path:
    return _grow(_backwards(setting), rng)._replace(phrase="shrinks")


def _enter(setting: Setting, rng: ClipRng) -> Path:
    path, side = _come_in(setting, rng)
    return path._replace(phrase=f"enters from the {side}")


def _leave(setting: Setting, rng: ClipRng) -> Path:
    path, side = _come_in(_backwards(setting), rng)
    return path._replace(phrase=f"leaves {'to' if side in ('left', 'right') else 'at'} the {side}")


def _pass(setting: Setting, rng: ClipRng) -> Path:
    start, end = rng.weighted(
        ((("left", "right"), 0.4), (("right", "left"), 0.4), (("top", "bottom"), 0.1), (("bottom", "top"), 0.1))
    )
    size = setting.size(rng, fit=_FIT)
    half = size * setting.reach
    way = np.array(_SIDES[end], np.float64)
    axis = np.abs(way)
    # A fifth of the sprite is visible in the first and last frames.
    far = axis * (0.5 + 0.6 * half) * way
    lane = (1 - axis) * _inside(rng, half)
    drift = (1 - axis) * rng.uniform(-0.1, 0.1)
    ends = (axis * 0.5 + lane - far, np.clip(axis * 0.5 + lane + far + drift, -1, 2))
    ends = tuple(np.where(axis > 0, point, np.clip(point, half, 1 - half)) for point in ends)
    centers = _between(*ends, _eased(setting.times, rng.uniform(-0.3, 0.3)))
    return Path(centers, np.full(len(centers), size), f"passes from {start} to {end}")


def _bounce(setting: Setting, rng: ClipRng) -> Path:
    size = setting.size(rng, fit=0.28)
    half = size * setting.reach
    travel = rng.pick((-1, 0, 1)) * rng.uniform(0.3, 0.5)
    travel = float(np.clip(travel, 2 * half[0] - 1, 1 - 2 * half[0]))
    height = min(rng.uniform(0.24, 0.42), 1 - 2 * half[1])
    x = rng.uniform(half[0] + max(0.0, -travel), 1 - half[0] - max(0.0, travel))
    ground = rng.uniform(half[1] + height, 1 - half[1])
    hops = np.abs(np.sin(math.pi * rng.pick((1, 2)) * setting.times))
    centers = np.stack([x + travel * setting.times, ground - height * hops], axis=1)
    way = "" if travel == 0 else f" to the {'right' if travel > 0 else 'left'}"
    return Path(centers, np.full(len(centers), size), f"bounces{way}")


def _circle(setting: Setting, rng: ClipRng) -> Path:
    size = setting.size(rng, fit=0.3)
    half = size * setting.reach
    radius = np.minimum(rng.uniform(0.15, 0.25), 0.5 - half)
    middle = _inside(rng, half + radius)
    turn = rng.pick((-1, 1)) * rng.uniform(0.75, 1.0)
    angle = 2 * math.pi * (rng.unit() + turn * setting.times)
    centers = middle + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Path(centers, np.full(len(centers), size), "moves in a circle")


def _swing(setting: Setting, rng: ClipRng) -> Path:
    size = setting.size(rng, fit=_FIT)
    there_and_back = replace(setting, times=0.5 - 0.5 * np.cos(2 * math.pi * setting.times))
    centers, phrase = _travel(there_and_back, rng, (size, size))
    return Path(centers, np.full(len(centers), size), f"swings {phrase} and back")


def _stay(setting: Setting, rng: ClipRng) -> Path:
    size = setting.size(rng)
    center = _inside(rng, size * setting.reach)
    return Path(np.tile(center, (len(setting.times), 1)), np.full(len(setting.times), size), "stays still")


class Motion(NamedTuple):
    """A kind of motion.

    Attributes:
        draw: Function that draws a path.
        starts_inside: Whether the first frame shows the sprite, completely or for the most part.
    """

    draw: Callable[[Setting, ClipRng], Path]
    starts_inside: bool = True


MOTIONS: dict[str, Motion] = {
    "slide": Motion(_slide),
    "approach": Motion(_approach),
    "recede": Motion(_recede),
    "grow": Motion(_grow),
    "shrink": Motion(_shrink),
    "enter": Motion(_enter, starts_inside=False),
    "leave": Motion(_leave),
    "pass": Motion(_pass, starts_inside=False),
    "bounce": Motion(_bounce),
    "circle": Motion(_circle),
    "swing": Motion(_swing),
    "stay": Motion(_stay),
}


def draw_crossing(first: Setting, second: Setting, rng: ClipRng) -> tuple[Path, Path]:
    """Draws two paths in opposite directions that meet half way."""
    heading = rng.weighted((((0, 4), 0.5), ((2, 6), 0.14), ((1, 3, 5, 7), 0.36)))
    angle = (rng.pick(heading) + rng.uniform(-0.2, 0.2)) * math.pi / 4
    way = np.array([math.cos(angle), -math.sin(angle)])
    aside = np.array([way[1], -way[0]]) * rng.uniform(-0.08, 0.08)
    middle = np.array([rng.uniform(0.42, 0.58), rng.uniform(0.42, 0.58)])
    eased = _eased(first.times, rng.uniform(-0.3, 0.3))
    paths = []
    for setting, sign in ((first, 1), (second, -1)):
        size = setting.size(rng, fit=_FIT)
        half = size * setting.reach
        distance = sign * rng.uniform(0.5, 0.66) * way / 2
        ends = [np.clip(middle + sign * aside + side * distance, half, 1 - half) for side in (-1, 1)]
        centers = _between(*ends, eased)
        paths.append(Path(centers, np.full(len(centers), size), f"moves {_heading(ends[1] - ends[0])}"))
    return paths[0], paths[1]


def _travel(setting: Setting, rng: ClipRng, sizes: tuple[float, float]) -> tuple[np.ndarray, str]:
    """Draws centers on a slightly bent path inside the picture; also returns its direction as text."""
    halves = [size * setting.reach for size in sizes]
    angle = (rng.below(8) + rng.uniform(-0.25, 0.25)) * math.pi / 4
    way = np.array([math.cos(angle), -math.sin(angle)]) * rng.uniform(MIN_TRAVEL, MAX_TRAVEL)
    room = 1 - halves[0] - halves[1]
    way = np.clip(way, -room, room)
    low = np.maximum(halves[0], halves[1] - way)
    high = np.minimum(1 - halves[0], 1 - halves[1] - way)
    start = low + (high - low) * (rng.unit(), rng.unit())
    eased = _eased(setting.times, rng.uniform(-0.5, 0.5))
    straight = _between(start, start + way, eased)
    bent = straight + np.outer(np.sin(math.pi * eased), (-way[1], way[0])) * rng.uniform(-0.25, 0.25)
    edge = np.maximum(*halves) + 0.004  # allowance for the bend between two planned times
    inside = bool(((bent >= edge) & (bent <= 1 - edge))[: len(PLANNED)].all())
    return (bent if inside else straight), _heading(way)


def _come_in(setting: Setting, rng: ClipRng) -> tuple[Path, str]:
    """Draws a path from just outside a side to well inside the picture; also returns the name of the side."""
    side = rng.weighted((("left", 0.32), ("right", 0.32), ("top", 0.18), ("bottom", 0.18)))
    size = setting.size(rng, fit=0.4)
    half = size * setting.reach
    outwards = np.array(_SIDES[side], np.float64)
    axis = np.abs(outwards)
    lane = (1 - axis) * _inside(rng, half)
    drift = (1 - axis) * rng.uniform(-0.15, 0.15)
    outside = axis * 0.5 + lane + outwards * (0.5 + half * rng.uniform(1.0, 1.3))
    depth = np.maximum(rng.uniform(0.42, 0.68), half)
    within = np.clip(axis * 0.5 + lane + drift + outwards * (0.5 - depth), half, 1 - half)
    centers = _between(outside, within, _eased(setting.times, rng.uniform(-0.4, 0.4)))
    return Path(centers, np.full(len(centers), size), ""), side


def _eased(times: np.ndarray, ease: float) -> np.ndarray:
    """Warps times in 0..1: positive `ease` is slow at both ends, negative slow in the middle; |ease| is below 1."""
    return times - ease * np.sin(2 * math.pi * times) / (2 * math.pi)


def _between(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    return start + np.outer(times, end - start)


def _growing(setting: Setting, first: float, last: float) -> np.ndarray:
    """Returns sizes that change by a constant factor per frame."""
    return first * (last / first) ** setting.times


def _inside(rng: ClipRng, half: np.ndarray) -> np.ndarray:
    """Draws a center at least `half` from each side; the middle of the picture if there is no room."""
    half = np.minimum(half, 0.5)
    return half + (1 - 2 * half) * (rng.unit(), rng.unit())


def _heading(way: np.ndarray) -> str:
    """Returns the nearest of eight directions as text."""
    return _HEADINGS[round(math.atan2(-way[1], way[0]) / (math.pi / 4)) % 8]


def _backwards(setting: Setting) -> Setting:
    return replace(setting, times=1 - setting.times)
