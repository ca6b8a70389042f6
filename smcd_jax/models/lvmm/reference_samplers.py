"""The samplers of LVMM's and LFDM's published code, as tables and ``x0_transform``s of `smcd_jax.diffusion.sampling`.

They differ from the samplers of `smcd_jax.diffusion.samplers` in ways that change the result, so they have their own
names: DDIM reads x_0 at timestep t but steps between the levels one timestep earlier, and a clipped x_0 does not change
the predicted noise.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smcd_jax.diffusion.prediction import per_example, x0_coefficients
from smcd_jax.diffusion.samplers import SolverTable
from smcd_jax.diffusion.sampling import EstimateX0
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.sampling_options import refuse

PERCENTILE = 0.9  # percentile of the dynamic threshold in both repositories


def reference_ddim_times(schedule: NoiseSchedule, num_steps: int) -> Int[np.ndarray, " n"]:
    """Returns the timesteps of ``num_steps`` steps and the final 0, in visiting order.

    They are the first S + 1 of S + 2 points from 0 to T, truncated to integers and reversed.

    Args:
        schedule: Noise schedule, of which only T is used.
        num_steps: Number of steps S, from 1 to T - 1.

    Raises:
        SMCDError: ``num_steps`` is out of range.
    """
    total = schedule.num_train_timesteps
    if not 1 <= num_steps < total:
        refuse("num_steps", num_steps, f"be a whole number from 1 to {total - 1}")
    # torch.linspace in float32 computes each half from its own end
    index, points = np.arange(num_steps + 2), num_steps + 2
    step = np.float64(np.float32(total) / np.float32(points - 1))
    line = np.where(index < points // 2, step * index, total - step * (points - 1 - index)).astype(np.float32)
    return line[:-1].astype(np.int64)[::-1]


def reference_ddim_table(schedule: NoiseSchedule, num_steps: int, *, eta: float = 1.0) -> SolverTable:
    """Returns the table of DDIM as published; with a threshold, use it with `DDIMThreshold`.

    Args:
        schedule: Noise schedule with noise prediction.
        num_steps: Number of steps, from 1 to T - 1.
        eta: Amount of added noise, 0 (deterministic) to 1.

    Raises:
        SMCDError: The number of steps is out of range.
    """
    times = reference_ddim_times(schedule, num_steps)
    before = np.append(1.0, schedule.alphas_cumprod[:-1])
    a, next_a = before[times[:-1]], before[times[1:]]
    noise = eta * np.sqrt((1 - a / next_a) * (1 - next_a) / (1 - a))
    from_eps = np.sqrt(np.maximum(1 - next_a - noise**2, 0))
    alpha, sigma = schedule.signal(times[:-1]), schedule.noise(times[:-1])
    from_x = from_eps / sigma
    return _table(schedule, times[:-1], from_x=from_x, from_x0=np.sqrt(next_a) - alpha * from_x, noise=noise)


def reference_ancestral_table(schedule: NoiseSchedule) -> SolverTable:
    """Returns the table of all T steps of the posterior q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7).

    The standard deviation of the noise is that of the posterior, at least 1e-10, and 0 in the last step.
    """
    a = schedule.alphas_cumprod
    before = np.append(1.0, a[:-1])
    betas = 1 - a / before
    noise = np.sqrt(np.maximum(betas * (1 - before) / (1 - a), 1e-20))
    noise[0] = 0
    from_x, from_x0 = (1 - before) * np.sqrt(a / before) / (1 - a), betas * np.sqrt(before) / (1 - a)
    down = np.arange(len(a))[::-1]
    return _table(schedule, down, from_x=from_x[down], from_x0=from_x0[down], noise=noise[down])


def threshold_level(x0: Float[Array, "b ..."], percentile: float = PERCENTILE) -> Float[Array, " b"]:
    """Returns the percentile of |x_0| of each example, with linear interpolation, but at least 1.

    Args:
        x0: Predicted clean latents.
        percentile: Percentile as a fraction, 0..1.
    """
    magnitudes = jnp.abs(x0.astype(jnp.float32)).reshape(x0.shape[0], -1)
    return jnp.maximum(jnp.quantile(magnitudes, percentile, axis=1), 1.0)


def dynamic_threshold(x0: Float[Array, "b ..."], percentile: float = PERCENTILE) -> Float[Array, "b ..."]:
    """Returns x_0 clipped to `threshold_level` and divided by it, in -1..1 (Saharia et al. 2022, arXiv 2205.11487).

    It suits data in -1..1. Data beyond this range, such as Fourier coefficients of motion, lose their scale.
    """
    level = per_example(threshold_level(x0, percentile), x0)
    return jnp.clip(x0, -level, level) / level


@dataclasses.dataclass(frozen=True)
class DDIMThreshold:
    """The threshold for `reference_ddim_table`, as an ``x0_transform`` that does not change the predicted noise.

    The sampling loop derives the noise from x and x_0. The result is therefore not the clipped x_0 itself, but the x_0
    that leads to the same next x as the clipped one with unchanged noise.

    Attributes:
        percentile: Percentile as a fraction, 0..1.
    """

    percentile: float = PERCENTILE

    def __call__(self, x: Float[Array, "b ..."], estimate_x0: EstimateX0, row: SolverTable) -> Float[Array, "b ..."]:
        """Returns x_0 for the step of ``row``."""
        x0 = estimate_x0(x)
        kept = row.update[0] * row.alpha  # coefficient of x_0 in the noise term of the next x
        return ((row.update[1] + kept) * dynamic_threshold(x0, self.percentile) - kept * x0) / row.update[1]


@dataclasses.dataclass(frozen=True)
class AncestralThreshold:
    """The threshold for `reference_ancestral_table`, whose next x depends on x and the clipped x_0.

    Attributes:
        percentile: Percentile as a fraction, 0..1.
    """

    percentile: float = PERCENTILE

    def __call__(self, x: Float[Array, "b ..."], estimate_x0: EstimateX0, row: SolverTable) -> Float[Array, "b ..."]:
        """Returns the clipped x_0."""
        del row
        return dynamic_threshold(estimate_x0(x), self.percentile)


def _table(
    schedule: NoiseSchedule,
    timesteps: Int[np.ndarray, " steps"],
    *,
    from_x: Float[np.ndarray, " steps"],
    from_x0: Float[np.ndarray, " steps"],
    noise: Float[np.ndarray, " steps"],
) -> SolverTable:
    """Returns the table of a sampler whose next x is from_x x + from_x0 x_0 + noise times unit Gaussian noise."""
    alpha, sigma, zeros = schedule.signal(timesteps), schedule.noise(timesteps), np.zeros_like(from_x)
    update = np.stack([from_x, from_x0, zeros, zeros], axis=1)
    no_corrector = np.eye(1, 5).repeat(len(timesteps), axis=0)
    x0_from = x0_coefficients(alpha, sigma, schedule.prediction_type)
    columns = (timesteps, *x0_from, no_corrector, update, noise, alpha, sigma)
    missing = schedule.num_train_timesteps + 1 - len(timesteps)
    padded = (np.pad(column, [(0, missing), *[(0, 0)] * (column.ndim - 1)]).astype(np.float32) for column in columns)
    return SolverTable(*padded, num_steps=len(timesteps))
