"""Owns how sprites move: smooth random paths of centre and size, one function per kind of motion.

Centres are in 0..1 of the picture, y downwards; a size is the square root of a sprite's area, as a share of the
picture's shorter side. A path begins with the first frame and ends with the last; the frames in between only sample it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from data_pipeline.sprites.rng import Draws

# How far growing and shrinking go beyond the smallest and the largest size of the config.
SMALLEST_SHARE, LARGEST_SHARE = 0.8, 1.35
# How far a sprite travels that goes somewhere, in 0..1 of the picture.
MIN_TRAVEL, MAX_TRAVEL = 0.34, 0.62
# A sprite that travels within the picture measures at most this, from centre to side, in 0..1: two of it and
# `MIN_TRAVEL` are a whole picture.
_FIT = 0.33

# Times at which paths are compared and checked, whatever the frames are, so that more frames show the same path.
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
    """Where a sprite is, and what to say of it.

    Attributes:
        centers: `[T, 2]`, x and y in 0..1 of the picture.
        sizes: `[T]`.
        phrase: what the sprite does, as it follows its name: "moves to the right".
    """

    centers: Float64[np.ndarray, "t 2"]
    sizes: Float64[np.ndarray, " t"]
    phrase: str


@dataclass(frozen=True, eq=False)
class Setting:
    """What a path is drawn for.

    Attributes:
        times: `[T]`, 0..1: first `PLANNED`, then those of the frames.
        reach: from centre to side of a sprite of size 1, x and y in 0..1 of the picture.
        min_size: of a sprite that keeps its size.
        max_size: of a sprite that keeps its size.
    """

    times: Float64[np.ndarray, " t"]
    reach: Float64[np.ndarray, " 2"]
    min_size: float
    max_size: float

    def size(self, draws: Draws, *, fit: float = 0.45) -> float:
        """A size at which no side is further than `fit` from the centre."""
        return self.fitted(draws.uniform(self.min_size, self.max_size), fit=fit)

    def fitted(self, size: float, *, fit: float) -> float:
        """The size, or what fits: within the bounds of growing, and no side further than `fit` from the centre."""
        largest = min(self.max_size * LARGEST_SHARE, fit / float(self.reach.max()))
        return max(min(size, largest), self.min_size * SMALLEST_SHARE)


def _slide(setting: Setting, draws: Draws) -> Path:
    size = setting.size(draws, fit=_FIT)
    centers, phrase = _travel(setting, draws, (size, size))
    return Path(centers, np.full(len(centers), size), f"moves {phrase}")


def _approach(setting: Setting, draws: Draws) -> Path:
    small = setting.size(draws, fit=_FIT / 1.3)
    large = setting.fitted(small * draws.uniform(1.35, 1.75), fit=_FIT)
    centers, phrase = _travel(setting, draws, (small, large))
    return Path(centers, _growing(setting, small, large), f"grows and moves {phrase}")


def _recede(setting: Setting, draws: Draws) -> Path:
    large = setting.fitted(setting.size(draws) * 1.25, fit=_FIT)
    small = setting.fitted(large / draws.uniform(1.35, 1.75), fit=_FIT)
    centers, phrase = _travel(setting, draws, (large, small))
    return Path(centers, _growing(setting, large, small), f"shrinks and moves {phrase}")


def _grow(setting: Setting, draws: Draws) -> Path:
    large = setting.fitted(setting.max_size * draws.uniform(0.95, LARGEST_SHARE), fit=0.45)
    small = setting.fitted(large / draws.uniform(1.8, 2.6), fit=0.45)
    center = _inside(draws, large * setting.reach)
    drift = np.array([draws.uniform(-0.05, 0.05), draws.uniform(-0.05, 0.05)])
    # Drift away from the start: where the sprite is large again it stands where there is room.
    return Path(center + np.outer(setting.times - 1, drift), _growing(setting, small, large), "grows")


def _shrink(setting: Setting, draws: Draws) -> Path:
    return _grow(_backwards(setting), draws)._replace(phrase="shrinks")


def _enter(setting: Setting, draws: Draws) -> Path:
    path, side = _come_in(setting, draws)
    return path._replace(phrase=f"enters from the {side}")


def _leave(setting: Setting, draws: Draws) -> Path:
    path, side = _come_in(_backwards(setting), draws)
    return path._replace(phrase=f"leaves {'to' if side in ('left', 'right') else 'at'} the {side}")


def _pass(setting: Setting, draws: Draws) -> Path:
    start, end = draws.weighted(
        ((("left", "right"), 0.4), (("right", "left"), 0.4), (("top", "bottom"), 0.1), (("bottom", "top"), 0.1))
    )
    size = setting.size(draws, fit=_FIT)
    half = size * setting.reach
    way = np.array(_SIDES[end], np.float64)
    axis = np.abs(way)
    # A fifth of it shows in the first frame and in the last.
    far = axis * (0.5 + 0.6 * half) * way
    lane = (1 - axis) * _inside(draws, half)
    drift = (1 - axis) * draws.uniform(-0.1, 0.1)
    ends = (axis * 0.5 + lane - far, np.clip(axis * 0.5 + lane + far + drift, -1, 2))
    ends = tuple(np.where(axis > 0, point, np.clip(point, half, 1 - half)) for point in ends)
    centers = _between(*ends, _eased(setting.times, draws.uniform(-0.3, 0.3)))
    return Path(centers, np.full(len(centers), size), f"passes from {start} to {end}")


def _bounce(setting: Setting, draws: Draws) -> Path:
    size = setting.size(draws, fit=0.28)
    half = size * setting.reach
    travel = draws.pick((-1, 0, 1)) * draws.uniform(0.3, 0.5)
    travel = float(np.clip(travel, 2 * half[0] - 1, 1 - 2 * half[0]))
    height = min(draws.uniform(0.24, 0.42), 1 - 2 * half[1])
    x = draws.uniform(half[0] + max(0.0, -travel), 1 - half[0] - max(0.0, travel))
    ground = draws.uniform(half[1] + height, 1 - half[1])
    hops = np.abs(np.sin(math.pi * draws.pick((1, 2)) * setting.times))
    centers = np.stack([x + travel * setting.times, ground - height * hops], axis=1)
    way = "" if travel == 0 else f" to the {'right' if travel > 0 else 'left'}"
    return Path(centers, np.full(len(centers), size), f"bounces{way}")


def _circle(setting: Setting, draws: Draws) -> Path:
    size = setting.size(draws, fit=0.3)
    half = size * setting.reach
    radius = np.minimum(draws.uniform(0.15, 0.25), 0.5 - half)
    middle = _inside(draws, half + radius)
    turn = draws.pick((-1, 1)) * draws.uniform(0.75, 1.0)
    angle = 2 * math.pi * (draws.unit() + turn * setting.times)
    centers = middle + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Path(centers, np.full(len(centers), size), "moves in a circle")


def _stay(setting: Setting, draws: Draws) -> Path:
    size = setting.size(draws)
    center = _inside(draws, size * setting.reach)
    return Path(np.tile(center, (len(setting.times), 1)), np.full(len(setting.times), size), "stays still")


class Motion(NamedTuple):
    """A kind of motion: how its paths are drawn, and whether the first frame shows the whole sprite or most of it."""

    draw: Callable[[Setting, Draws], Path]
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
    "stay": Motion(_stay),
}


def draw_crossing(first: Setting, second: Setting, draws: Draws) -> tuple[Path, Path]:
    """Two paths against each other that meet half way: from one side to the other, and back."""
    heading = draws.weighted((((0, 4), 0.5), ((2, 6), 0.14), ((1, 3, 5, 7), 0.36)))
    angle = (draws.pick(heading) + draws.uniform(-0.2, 0.2)) * math.pi / 4
    way = np.array([math.cos(angle), -math.sin(angle)])
    aside = np.array([way[1], -way[0]]) * draws.uniform(-0.08, 0.08)
    middle = np.array([draws.uniform(0.42, 0.58), draws.uniform(0.42, 0.58)])
    eased = _eased(first.times, draws.uniform(-0.3, 0.3))
    paths = []
    for setting, sign in ((first, 1), (second, -1)):
        size = setting.size(draws, fit=_FIT)
        half = size * setting.reach
        distance = sign * draws.uniform(0.5, 0.66) * way / 2
        ends = [np.clip(middle + sign * aside + side * distance, half, 1 - half) for side in (-1, 1)]
        centers = _between(*ends, eased)
        paths.append(Path(centers, np.full(len(centers), size), f"moves {_heading(ends[1] - ends[0])}"))
    return paths[0], paths[1]


def _travel(setting: Setting, draws: Draws, sizes: tuple[float, float]) -> tuple[np.ndarray, str]:
    """Centres on a slightly bent way across the picture, inside it all the time, and where it leads, in words."""
    halves = [size * setting.reach for size in sizes]
    angle = (draws.below(8) + draws.uniform(-0.25, 0.25)) * math.pi / 4
    way = np.array([math.cos(angle), -math.sin(angle)]) * draws.uniform(MIN_TRAVEL, MAX_TRAVEL)
    room = 1 - halves[0] - halves[1]
    way = np.clip(way, -room, room)
    low = np.maximum(halves[0], halves[1] - way)
    high = np.minimum(1 - halves[0], 1 - halves[1] - way)
    start = low + (high - low) * (draws.unit(), draws.unit())
    eased = _eased(setting.times, draws.uniform(-0.5, 0.5))
    straight = _between(start, start + way, eased)
    bent = straight + np.outer(np.sin(math.pi * eased), (-way[1], way[0])) * draws.uniform(-0.25, 0.25)
    edge = np.maximum(*halves) + 0.004  # what a bend may gain between two of the planned times
    inside = bool(((bent >= edge) & (bent <= 1 - edge))[: len(PLANNED)].all())
    return (bent if inside else straight), _heading(way)


def _come_in(setting: Setting, draws: Draws) -> tuple[Path, str]:
    """From just outside of a side to well within the picture, without a phrase, and the name of the side."""
    side = draws.weighted((("left", 0.32), ("right", 0.32), ("top", 0.18), ("bottom", 0.18)))
    size = setting.size(draws, fit=0.4)
    half = size * setting.reach
    outwards = np.array(_SIDES[side], np.float64)
    axis = np.abs(outwards)
    lane = (1 - axis) * _inside(draws, half)
    drift = (1 - axis) * draws.uniform(-0.15, 0.15)
    outside = axis * 0.5 + lane + outwards * (0.5 + half * draws.uniform(1.0, 1.3))
    depth = np.maximum(draws.uniform(0.42, 0.68), half)
    within = np.clip(axis * 0.5 + lane + drift + outwards * (0.5 - depth), half, 1 - half)
    centers = _between(outside, within, _eased(setting.times, draws.uniform(-0.4, 0.4)))
    return Path(centers, np.full(len(centers), size), ""), side


def _eased(times: np.ndarray, ease: float) -> np.ndarray:
    """Times from 0 to 1 at uneven speed: positive is slow at both ends, negative slow in the middle; |ease| below 1."""
    return times - ease * np.sin(2 * math.pi * times) / (2 * math.pi)


def _between(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    return start + np.outer(times, end - start)


def _growing(setting: Setting, first: float, last: float) -> np.ndarray:
    """Sizes that change by the same factor from frame to frame."""
    return first * (last / first) ** setting.times


def _inside(draws: Draws, half: np.ndarray) -> np.ndarray:
    """A centre whose surroundings, `half` to each side, lie in the picture; the middle where they do not fit."""
    half = np.minimum(half, 0.5)
    return half + (1 - 2 * half) * (draws.unit(), draws.unit())


def _heading(way: np.ndarray) -> str:
    """The nearest of eight directions, in words."""
    return _HEADINGS[round(math.atan2(-way[1], way[0]) / (math.pi / 4)) % 8]


def _backwards(setting: Setting) -> Setting:
    return replace(setting, times=1 - setting.times)
