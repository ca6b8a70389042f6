"""The training timesteps that a sampler visits, from noise to picture."""

from __future__ import annotations

from typing import get_args

import numpy as np

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.sampling_options import Spacing, refuse

SPACINGS: tuple[str, ...] = get_args(Spacing)


def inference_timesteps(
    schedule: NoiseSchedule,
    num_steps: int,
    spacing: Spacing,
    *,
    skip_lowest: bool = False,
    fractional: bool = False,
) -> np.ndarray:
    """Returns timesteps in visiting order, high to low, float64 in 0..T-1.

    With T training timesteps and S = ``num_steps``:

    - "leading": 1 + i (T // S), i = S-1..0, clipped to T-1 (diffusers with ``steps_offset=1``). If S divides T, this is
      the reference's list.
    - "trailing": round(T - i T/S) - 1, i = 0..S-1: always starts at T-1, as zero terminal SNR needs (arXiv 2305.08891,
      table 2).
    - "linspace": S points from T-1 to 0, both included, rounded to integer timesteps.
    - "reference": clip(1 + arange(0, T, T // S), 0, T-1) reversed, with more than S entries when S does not divide T.

    With one step, "leading", "linspace" and "reference" visit only timestep 0 or 1, where a network sees next to no
    noise: use "trailing".

    Args:
        schedule: Noise schedule, of which only T is used.
        num_steps: Number of steps S, from 1 to T.
        spacing: One of the four above.
        skip_lowest: Whether "leading" and "linspace" place S+1 points and leave the lowest out, for solvers that jump
            to the clean sample from the second lowest point. "leading" then takes at most T-1 steps.
        fractional: Whether "linspace" keeps its fractions.

    Raises:
        SMCDError: The spacing is unknown, or the number of steps is not a whole number in range.
    """
    total = schedule.num_train_timesteps
    if spacing not in SPACINGS:
        refuse("spacing", spacing, f"be one of {', '.join(SPACINGS)}")
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or not 1 <= num_steps <= total:
        refuse("num_steps", num_steps, f"be a whole number from 1 to {total}")
    points = num_steps + skip_lowest
    if spacing == "leading":
        return _leading(total, points)[:num_steps]
    if spacing == "trailing":
        # Rounded as in diffusers, so that ties agree; arange may return one entry too many.
        return np.round(np.arange(total, 0, -total / num_steps))[:num_steps] - 1
    if spacing == "linspace":
        line = np.linspace(0, total - 1, points)[::-1][:num_steps]
        return line if fractional else np.round(line)
    return np.clip(1 + np.arange(0, total, total // num_steps), 0, total - 1)[::-1].astype(np.float64)


def _leading(total: int, points: int) -> np.ndarray:
    stride = total // points
    if stride == 0:
        refuse("num_steps", total, f"be at most {total - 1} with spacing 'leading' and this sampler; use 'trailing'")
    return np.minimum(1 + np.arange(points) * stride, total - 1)[::-1].astype(np.float64)
