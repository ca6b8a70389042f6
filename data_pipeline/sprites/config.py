"""Owns the parameters of the sprite world, their checks, and the names of the world's splits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from data_pipeline.sprites.atlas import SMALLEST_SIDE, sprite_classes
from data_pipeline.sprites.backgrounds import BACKGROUNDS
from data_pipeline.sprites.colors import COLORS
from data_pipeline.sprites.motion import MOTIONS, SMALLEST_SHARE
from smcd_jax.errors import SMCDError

# Raised whenever the same parameters give other clips; part of every fingerprint.
WORLD_VERSION = 1
# The number of a split is part of the counter its clips are drawn from: never change one.
SPLITS = {"train": 0, "val": 1, "test": 2}
# Sizes in a clip of so many objects, as shares of those of one.
CROWD_SHARES = {1: 1.0, 2: 0.95, 3: 0.85, 4: 0.75}

DEFAULT_MOTIONS = (
    ("slide", 0.28),
    ("approach", 0.08),
    ("recede", 0.08),
    ("grow", 0.08),
    ("shrink", 0.06),
    ("enter", 0.08),
    ("leave", 0.10),
    ("pass", 0.06),
    ("bounce", 0.09),
    ("circle", 0.06),
    ("stay", 0.03),
)


@dataclass(frozen=True)
class WorldConfig:
    """What clips are like. The same parameters give the same clips for ever, up to rounding (see `WORLD_VERSION`).

    Width, height and frames only sample a scene more or less finely: the same index shows the same scene at 64 x 64 and
    at 128 x 128, with 8 frames and with 16.

    Attributes:
        width: pixels, 16 to 1024.
        height: pixels, 16 to 1024; at most twice the width, or half.
        frames: of a clip, 1 to 256. A clip shows a whole motion: more frames are smaller steps.
        min_objects: fewest objects, at least 1.
        max_objects: most objects, at most 4; each number from fewest to most is as likely.
        classes: names of sprite classes, at least `max_objects` of them; empty means all.
        colors: words of colours for the classes that take one.
        motions: (name, weight) pairs, names of `motion.MOTIONS`.
        backgrounds: names of `backgrounds.BACKGROUNDS`, each as likely.
        min_size: smallest size of a sprite alone that does not grow or shrink; a size is the square root of a sprite's
            area, as a share of the picture's shorter side. Growing and shrinking reach from 0.8 of the smallest to 1.35
            of the largest; in company sprites are smaller, down to 0.75 among four.
        max_size: the largest.
        crossing_share: share of the clips of two or more objects where the first two cross.
        min_visible: an object is masked out in a frame that shows less than this share of it, because it is out of the
            picture or under other sprites. Shares are of opacity.
        seed: of everything, 0 to 2^63 - 1.

    Raises:
        SMCDError: a value out of its range; says which.
    """

    width: int = 64
    height: int = 64
    frames: int = 8
    min_objects: int = 1
    max_objects: int = 4
    classes: tuple[str, ...] = ()
    colors: tuple[str, ...] = tuple(COLORS)
    motions: tuple[tuple[str, float], ...] = DEFAULT_MOTIONS
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    min_size: float = 0.26
    max_size: float = 0.44
    crossing_share: float = 0.35
    min_visible: float = 0.15
    seed: int = 0

    def __post_init__(self):
        # Lists, as configs and JSON give them, become tuples, so that equal parameters are equal objects.
        for name in ("classes", "colors", "backgrounds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "motions", tuple((name, float(weight)) for name, weight in self.motions))
        object.__setattr__(self, "classes", self.classes or tuple(sprite_classes()))
        self._check_numbers()
        self._check_names()

    def _check_numbers(self) -> None:
        ranges = {
            "width": (16, 1024),
            "height": (16, 1024),
            "frames": (1, 256),
            "min_objects": (1, 4),
            "max_objects": (self.min_objects, 4),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                _refuse(name, value, f"must be a whole number from {low} to {high}")
        if not 0.5 <= self.width / self.height <= 2:
            _refuse("width", self.width, f"must be from half to twice the height, {self.height}")
        shares = {
            "min_size": (0.1, 0.5),
            "max_size": (self.min_size, 0.5),
            "crossing_share": (0, 1),
            "min_visible": (0, 1),
        }
        for name, (low, high) in shares.items():
            if not low <= getattr(self, name) <= high:
                _refuse(name, getattr(self, name), f"must lie in {low:g}..{high:g}")

    def _check_names(self) -> None:
        known = {"classes": sprite_classes(), "colors": COLORS, "backgrounds": BACKGROUNDS}
        for field, names in known.items():
            values = getattr(self, field)
            for name in values:
                if name not in names:
                    _refuse(field, name, f"is not one of {', '.join(names)}")
            if not values or len(set(values)) < len(values):
                _refuse(field, values, "must name at least one, and each once")
        for name, weight in self.motions:
            if name not in MOTIONS or not 0 <= weight < math.inf:
                _refuse("motions", (name, weight), f"must be a weight of 0 or more for one of {', '.join(MOTIONS)}")
        if not any(weight > 0 and MOTIONS[name].starts_inside for name, weight in self.motions):
            _refuse("motions", self.motions, "must give weight to one that starts within the picture")
        if len(self.classes) < self.max_objects:
            _refuse("max_objects", self.max_objects, f"needs as many classes, not {len(self.classes)}")
        slimmest = min(min(sprite_classes()[name].aspect, 1 / sprite_classes()[name].aspect) for name in self.classes)
        smallest = SMALLEST_SHARE * CROWD_SHARES[self.max_objects] * self.min_size
        side = smallest * min(self.width, self.height) * math.sqrt(slimmest)
        if side < SMALLEST_SIDE:
            _refuse("min_size", self.min_size, f"makes sprites of {side:.1f} pixels, less than {SMALLEST_SIDE}")

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label an object can have, in a fixed order: to embed them all once."""
        return tuple(
            f"{color} {name}" if color else name
            for name in self.classes
            for color in (self.colors if sprite_classes()[name].hue else ("",))
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def fingerprint(self) -> str:
        """sha256 of the world's version and parameters, in hexadecimal: names what the clips are."""
        content = {"world_version": WORLD_VERSION, **self.to_dict()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refuse(name: str, value: object, why: str) -> None:
    raise SMCDError(f"sprite world: {name} = {value!r} {why}")
