"""Parameters of the world of winds, and their validation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from data_pipeline.checks import require
from data_pipeline.sprites.config import SPLITS

__all__ = ["SPLITS", "WORLD_VERSION", "WindConfig"]

# Part of every fingerprint; increase it when a change of the code changes the clips.
WORLD_VERSION = 1


@dataclass(frozen=True)
class WindConfig:
    """Parameters of the world of winds. The same parameters give the same clips, up to rounding.

    Width and height only change the sampling of a scene; lengths in a scene are fractions of the picture's side.

    Attributes:
        width: Width in pixels, 16 to 1024.
        height: Height in pixels, 16 to 1024.
        frames: Number of frames per clip, 2 to 256.
        min_regions: Smallest number of moving regions, at least 1.
        max_regions: Largest number of moving regions, at most 6.
        sway: Largest deflection of the top of a plant, as a share of the picture's side, 0 to 0.3.
        drift: Largest distance that a cloud moves per frame, as a share of the picture's side, 0 to 0.1.
        growth: Largest change of the logarithm of a balloon's size over 8 frames, 0 to 1.
        min_period: Shortest period of the wind in frames, at least 2.
        max_period: Longest period of the wind in frames.
        seed: Seed of all random numbers, 0 to 2^63 - 1.

    Raises:
        SMCDError: A value is out of range.
    """

    width: int = 64
    height: int = 64
    frames: int = 9
    min_regions: int = 2
    max_regions: int = 3
    sway: float = 0.11
    drift: float = 0.018
    growth: float = 0.3
    min_period: float = 7.0
    max_period: float = 12.0
    seed: int = 0

    def __post_init__(self):
        ranges = {
            "width": (16, 1024),
            "height": (16, 1024),
            "frames": (2, 256),
            "min_regions": (1, 6),
            "max_regions": (self.min_regions, 6),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and low <= value <= high, name, f"an integer from {low} to {high}", value)
        shares = {"sway": (0, 0.3), "drift": (0, 0.1), "growth": (0, 1), "min_period": (2, 1000)}
        for name, (low, high) in {**shares, "max_period": (self.min_period, 1000)}.items():
            value = getattr(self, name)
            require(low <= value <= high, name, f"from {low:g} to {high:g}", value)

    def to_dict(self) -> dict[str, Any]:
        """Returns the parameters as JSON values."""
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """Returns the sha256 of version and parameters in hexadecimal, which identifies the clips."""
        content = {"world_version": WORLD_VERSION, **self.to_dict()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
