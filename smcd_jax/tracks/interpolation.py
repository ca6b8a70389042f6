"""Interpolation of box coordinates over time: linear, monotone cubic (Fritsch and Carlson 1980) and hold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from smcd_jax.errors import SMCDError

INTERPOLATIONS = ("linear", "smooth", "hold")


class FrameTimes(NamedTuple):
    """Positions of new frames on the timeline of old frames.

    Attributes:
        lower: Old frame at or before each new one, int `[frames]`.
        upper: Old frame after `lower`, or `lower` itself at the end, int `[frames]`.
        fraction: Position between `lower` and `upper` in 0..1, float64 `[frames]`.
        nearest: Nearest old frame, the later one when halfway, int `[frames]`.
    """

    lower: np.ndarray
    upper: np.ndarray
    fraction: np.ndarray
    nearest: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """Position of each new frame in old frames, float64 `[frames]`."""
        return self.lower + self.fraction


def frame_times(old_frames: int, new_frames: int) -> FrameTimes:
    """Spreads `new_frames` evenly over `old_frames`: first on first, last on last. A single new frame is the first.

    Integer arithmetic places new frames that coincide with an old frame exactly on it.
    """
    steps = max(new_frames - 1, 1)
    numerator = np.arange(new_frames) * (old_frames - 1)
    lower, rest = numerator // steps, numerator % steps
    upper = np.minimum(lower + 1, old_frames - 1)
    return FrameTimes(lower, upper, rest / steps, np.where(2 * rest >= steps, upper, lower))


def interpolate(key_times: np.ndarray, key_values: np.ndarray, times: np.ndarray, kind: str = "linear") -> np.ndarray:
    """Returns values at `times`, interpolated between keys and constant before the first and after the last key.

    Args:
        key_times: Strictly increasing times, float `[keys]`, at least one.
        key_values: Values at these times, float `[keys, coordinates]`.
        times: Times to interpolate at, float `[frames]`, in the unit of `key_times`.
        kind: `linear`; `smooth`, a monotone cubic that stays within the range of the two keys around it; or `hold`,
            which keeps each key until the next.

    Returns:
        float64 `[frames, coordinates]`.

    Raises:
        SMCDError: `kind` is unknown.
    """
    if kind not in INTERPOLATIONS:
        raise SMCDError(
            f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {kind!r}",
            argument="interpolation",
            value=kind,
        )
    key_times = np.asarray(key_times, np.float64)
    key_values = np.asarray(key_values, np.float64)
    times = np.clip(np.asarray(times, np.float64), key_times[0], key_times[-1])
    before = np.searchsorted(key_times, times, side="right") - 1
    if kind == "hold" or len(key_times) == 1:
        return key_values[before]
    if kind == "linear":
        return np.stack([np.interp(times, key_times, column) for column in key_values.T], axis=1)
    from scipy.interpolate import PchipInterpolator  # half a second to import, and rarely needed

    # The reciprocal of a secant below 1e-308 overflows, which correctly makes the slope 0.
    with np.errstate(over="ignore"):
        values = PchipInterpolator(key_times, key_values)(times)
    # The interpolation is monotone in exact arithmetic; rounding may exceed the interval by an ulp.
    start, end = key_values[before], key_values[np.minimum(before + 1, len(key_times) - 1)]
    return np.clip(values, np.minimum(start, end), np.maximum(start, end))
