"""Parameters of the sprite world, their validation, and the names of its splits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from data_pipeline.checks import require
from data_pipeline.sprites.atlas import SMALLEST_SIDE, sprite_classes
from data_pipeline.sprites.backgrounds import BACKGROUNDS
from data_pipeline.sprites.colors import COLORS
from data_pipeline.sprites.motion import MOTIONS, SMALLEST_SHARE
from data_pipeline.sprites.photographs import PHOTOGRAPHS

# Increase this when the same parameters give different clips; it is part of every fingerprint.
WORLD_VERSION = 1
# The numbers are part of the random counter of each clip and must not change.
SPLITS = {"train": 0, "val": 1, "test": 2}
# Scale of sprite sizes by the number of objects in a clip.
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

# Fields that were added after the first worlds; fingerprints contain them only if they differ from 0.
_ADDED = ("shadow_share", "empty_start_share", "other_start_share")


@dataclass(frozen=True)
class WorldConfig:
    """Parameters of the sprite world. The same parameters give the same clips, up to rounding (see `WORLD_VERSION`).

    Width, height and frames only change the sampling of a scene: the same index shows the same scene at 64 x 64 and at
    128 x 128, with 8 frames and with 16.

    Attributes:
        width: Width in pixels, 16 to 1024.
        height: Height in pixels, 16 to 1024; from half to twice the width.
        frames: Number of frames per clip, 1 to 256. A clip shows a whole motion; more frames mean smaller steps.
        min_objects: Smallest number of objects, at least 1.
        max_objects: Largest number of objects, at most 4; all numbers in between are equally likely.
        classes: Names of sprite classes, at least `max_objects` of them; empty for all.
        colors: Names of colors for classes with variable colors.
        motions: Pairs of name and weight, names of `motion.MOTIONS`.
        backgrounds: Names of `backgrounds.BACKGROUNDS` and `photographs.PHOTOGRAPHS`, equally likely; "photographs"
            selects all of the latter.
        min_size: Smallest size of a single sprite of constant size, 0.1 to 0.5. The size is the square root of the
            sprite's area relative to the picture's shorter side. Growing and shrinking sprites reach from 0.8 of
            `min_size` to 1.35 of `max_size`; with more objects, sprites are smaller, down to 0.75 with four.
        max_size: Largest size, `min_size` to 0.5.
        crossing_share: Share of clips with at least two objects in which the first two cross, 0 to 1.
        min_visible: Smallest visible share of an object's opacity, 0 to 1. An object that is less visible in a frame,
            because it leaves the picture or is covered, is masked out.
        shadow_share: Share of clips in which sprites cast shadows, 0 to 1.
        empty_start_share: Share of clips whose first frame shows the background alone, 0 to 1. Its objects are masked
            out in the first frame and are known from their labels only.
        other_start_share: Share of clips whose first frame shows sprites of other classes in the places of the
            objects, 0 to 1; together with `empty_start_share` at most 1. Boxes, mask and labels are those of the
            objects.
        seed: Seed of all random numbers, 0 to 2^63 - 1.

    Raises:
        SMCDError: A value is out of range.
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
    shadow_share: float = 0.0
    empty_start_share: float = 0.0
    other_start_share: float = 0.0
    seed: int = 0

    def __post_init__(self):
        # Lists from configs and JSON become tuples, so that equal parameters are equal objects.
        for name in ("classes", "colors", "backgrounds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if "photographs" in self.backgrounds:
            others = tuple(name for name in self.backgrounds if name != "photographs")
            object.__setattr__(self, "backgrounds", (*others, *PHOTOGRAPHS))
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
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and low <= value <= high, name, f"an integer from {low} to {high}", value)
        aspect_fits = 0.5 <= self.width / self.height <= 2
        require(aspect_fits, "width", f"from half to twice the height, {self.height}", self.width)
        shares = {
            "min_size": (0.1, 0.5),
            "max_size": (self.min_size, 0.5),
            "crossing_share": (0, 1),
            "min_visible": (0, 1),
            "shadow_share": (0, 1),
            "empty_start_share": (0, 1),
            "other_start_share": (0, 1 - self.empty_start_share),
        }
        for name, (low, high) in shares.items():
            value = getattr(self, name)
            require(low <= value <= high, name, f"from {low:g} to {high:g}", value)

    def _check_names(self) -> None:
        known = {"classes": sprite_classes(), "colors": COLORS, "backgrounds": (*BACKGROUNDS, *PHOTOGRAPHS)}
        for field, names in known.items():
            values = getattr(self, field)
            for name in values:
                require(name in names, field, f"among {', '.join(names)}", name)
            distinct = values and len(set(values)) == len(values)
            require(distinct, field, "at least one name, without repetition", values)
        for name, weight in self.motions:
            condition = f"pairs of one of {', '.join(MOTIONS)} and a weight of at least 0"
            require(name in MOTIONS and 0 <= weight < math.inf, "motions", condition, (name, weight))
        starts_inside = any(weight > 0 and MOTIONS[name].starts_inside for name, weight in self.motions)
        condition = "weighted to include a motion that starts inside the picture"
        require(starts_inside, "motions", condition, self.motions)
        number = len(self.classes)
        require(number >= self.max_objects, "max_objects", f"at most the {number} classes", self.max_objects)
        slimmest = min(min(sprite_classes()[name].aspect, 1 / sprite_classes()[name].aspect) for name in self.classes)
        smallest = SMALLEST_SHARE * CROWD_SHARES[self.max_objects] * self.min_size
        side = smallest * min(self.width, self.height) * math.sqrt(slimmest)
        condition = f"large enough for {SMALLEST_SIDE} pixels per sprite, not {side:.1f}"
        require(side >= SMALLEST_SIDE, "min_size", condition, self.min_size)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of objects, in a fixed order."""
        return tuple(
            f"{color} {name}" if color else name
            for name in self.classes
            for color in (self.colors if sprite_classes()[name].hue else ("",))
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameters as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def fingerprint(self) -> str:
        """Returns the sha256 of version and parameters in hexadecimal, which identifies the clips."""
        content = {"world_version": WORLD_VERSION, **self.to_dict()}
        for name in _ADDED:
            if not content[name]:
                del content[name]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
