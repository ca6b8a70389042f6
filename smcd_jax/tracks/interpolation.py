"""Interpolation of box coordinates over time: linear, monotone cubic (Fritsch and Carlson 1980) and hold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from smcd_jax.errors import SMCDError

INTERPOLATIONS = ("linear", "smooth", "hold")


class FrameTimes(NamedTuple):
    """Where each new frame falls between the old ones.

    Attributes:
        lower: int `[frames]`, the old frame at or before the new one.
        upper: int `[frames]`, the old frame after it (`lower` itself at the end).
        fraction: float64 `[frames]` in 0..1, how far from `lower` to `upper`.
        nearest: int `[frames]`, the closer of the two; half way counts as the later one.
    """

    lower: np.ndarray
    upper: np.ndarray
    fraction: np.ndarray
    nearest: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """Position of each new frame on the old time line, float64 `[frames]`."""
        return self.lower + self.fraction


def frame_times(frames_from: int, frames_to: int) -> FrameTimes:
    """Spread `frames_to` frames evenly over `frames_from` frames, first on first and last on last.

    Integer arithmetic keeps frames that fall on an old frame exactly there. One frame alone is the first.
    """
    steps = max(frames_to - 1, 1)
    numerator = np.arange(frames_to) * (frames_from - 1)
    lower, rest = numerator // steps, numerator % steps
    upper = np.minimum(lower + 1, frames_from - 1)
    return FrameTimes(lower, upper, rest / steps, np.where(2 * rest >= steps, upper, lower))


def interpolate(key_times: np.ndarray, key_values: np.ndarray, times: np.ndarray, kind: str = "linear") -> np.ndarray:
    """Values at `times` from values at `key_times`; before the first and after the last key they hold still.

    Args:
        key_times: float `[keys]`, strictly increasing, at least one.
        key_values: float `[keys, coordinates]`.
        times: float `[frames]`, in the unit of `key_times`.
        kind: `linear`; `smooth`, a monotone cubic that never leaves the range of the two keys around it; or `hold`,
            which keeps each key until the next.

    Returns:
        float64 `[frames, coordinates]`.

    Raises:
        SMCDError: `kind` is none of the three.
    """
    key_times = np.asarray(key_times, np.float64)
    key_values = np.asarray(key_values, np.float64)
    times = np.clip(np.asarray(times, np.float64), key_times[0], key_times[-1])
    if kind == "linear":
        columns = [np.interp(times, key_times, column) for column in key_values.T]
        return np.stack(columns, axis=1)
    if kind == "hold":
        return key_values[np.searchsorted(key_times, times, side="right") - 1]
    if kind == "smooth":
        return _monotone_cubic(key_times, key_values, times)
    raise SMCDError(f"interpolation {kind!r} is unknown: use one of {', '.join(INTERPOLATIONS)}")


def monotone_slopes(key_times: np.ndarray, key_values: np.ndarray) -> np.ndarray:
    """Slopes at the keys that make the cubic Hermite interpolant monotone between every two keys.

    Inside, the weighted harmonic mean of the two secants, 0 where they disagree in sign (Fritsch and Butland 1984, a
    choice within the monotone region of Fritsch and Carlson 1980); at the ends the three-point formula, limited.

    Args:
        key_times: float64 `[keys]`, strictly increasing, at least two.
        key_values: float64 `[keys, coordinates]`.

    Returns:
        float64 `[keys, coordinates]`.
    """
    widths = np.diff(key_times)[:, None]
    secants = np.diff(key_values, axis=0) / widths
    if len(secants) == 1:
        return np.concatenate([secants, secants])
    first = _end_slope(widths[0], widths[1], secants[0], secants[1])
    last = _end_slope(widths[-1], widths[-2], secants[-1], secants[-2])
    return np.concatenate([first[None], _inner_slopes(widths, secants), last[None]])


def _inner_slopes(widths: np.ndarray, secants: np.ndarray) -> np.ndarray:
    before, after = secants[:-1], secants[1:]
    weight_before = 2 * widths[1:] + widths[:-1]
    weight_after = widths[1:] + 2 * widths[:-1]
    # Written with the ratio of the smaller to the larger secant, which is at most 1: w / secant would overflow for
    # secants near zero.
    before_is_smaller = np.abs(before) <= np.abs(after)
    smaller = np.where(before_is_smaller, before, after)
    larger = np.where(before_is_smaller, after, before)
    weight_smaller = np.where(before_is_smaller, weight_before, weight_after)
    weight_larger = weight_before + weight_after - weight_smaller
    ratio = np.divide(smaller, larger, out=np.zeros_like(smaller), where=larger != 0)
    mean = smaller * (weight_before + weight_after) / (weight_smaller + weight_larger * np.maximum(ratio, 0))
    return np.where(np.sign(before) * np.sign(after) > 0, mean, 0.0)


def _end_slope(width: np.ndarray, next_width: np.ndarray, secant: np.ndarray, next_secant: np.ndarray) -> np.ndarray:
    slope = ((2 * width + next_width) * secant - width * next_secant) / (width + next_width)
    slope = np.where(np.sign(slope) != np.sign(secant), 0.0, slope)
    turns = np.sign(secant) != np.sign(next_secant)
    return np.where(turns & (np.abs(slope) > 3 * np.abs(secant)), 3 * secant, slope)


def _monotone_cubic(key_times: np.ndarray, key_values: np.ndarray, times: np.ndarray) -> np.ndarray:
    if len(key_times) == 1:
        return np.repeat(key_values, len(times), axis=0)
    slopes = monotone_slopes(key_times, key_values)
    left = np.clip(np.searchsorted(key_times, times, side="right") - 1, 0, len(key_times) - 2)
    width = (key_times[left + 1] - key_times[left])[:, None]
    t = (times - key_times[left])[:, None] / width
    start, end = key_values[left], key_values[left + 1]
    values = (
        start * (1 + 2 * t) * (1 - t) ** 2
        + end * t**2 * (3 - 2 * t)
        + width * (slopes[left] * t * (1 - t) ** 2 - slopes[left + 1] * t**2 * (1 - t))
    )
    # Monotone in exact arithmetic; rounding may leave the interval by an ulp.
    return np.clip(values, np.minimum(start, end), np.maximum(start, end))
