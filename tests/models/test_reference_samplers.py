"""The samplers of LVMM's and LFDM's code compared with their formulas in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.diffusion.samplers import SolverTable, initial_state
from smcd_jax.diffusion.sampling import on_device, sample
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.lvmm.reference_samplers import (
    AncestralThreshold,
    DDIMThreshold,
    dynamic_threshold,
    reference_ancestral_table,
    reference_ddim_table,
    reference_ddim_times,
)
from tests.errors import refused

SCHEDULE = NoiseSchedule(kind="cosine")
A = SCHEDULE.alphas_cumprod
BEFORE = np.append(1.0, A[:-1])
SHAPE = (2, 3, 4, 4, 2)


def predicted_noise(x, t):
    """Returns the noise of a mock network whose x_0 exceeds -1..1, so that the threshold has an effect."""
    module = jnp if isinstance(x, jax.Array) else np
    return 0.3 * x + module.sin(3 * x + t / 100)


def threshold(x0, percentile):
    level = np.maximum(np.quantile(np.abs(x0).reshape(len(x0), -1), percentile, axis=1), 1)
    level = level.reshape(-1, *[1] * (x0.ndim - 1))
    return np.clip(x0, -level, level) / level


def start():
    return np.random.default_rng(0).standard_normal(SHAPE)


def by_the_loop(table: SolverTable, transform):
    x = jnp.asarray(start(), jnp.float32)
    settings = {"weights": jnp.ones(1), "keys": jax.random.split(jax.random.key(0), len(x))}
    predict = lambda x, t: predicted_noise(x, t)[None]  # noqa: E731
    state = initial_state(x)
    done = sample(
        predict, state, table=on_device(table), start=0, stop=table.num_steps, x0_transform=transform, **settings
    )
    return np.asarray(done.latents)


def test_ddim_keeps_the_noise_that_was_predicted_before_the_threshold():
    x, times = start(), reference_ddim_times(SCHEDULE, 7)
    for t, next_t in itertools.pairwise(times):
        noise = predicted_noise(x, float(t))
        x0 = threshold((x - np.sqrt(1 - A[t]) * noise) / np.sqrt(A[t]), 0.8)
        x = np.sqrt(BEFORE[next_t]) * x0 + np.sqrt(1 - BEFORE[next_t]) * noise
    got = by_the_loop(reference_ddim_table(SCHEDULE, 7, eta=0.0), DDIMThreshold(0.8))
    np.testing.assert_allclose(got, x, atol=2e-5)
    assert np.abs(got).max() <= 1  # the last step returns the clipped x_0


def test_the_threshold_matters():
    table = reference_ddim_table(SCHEDULE, 7, eta=0.0)
    assert np.abs(by_the_loop(table, DDIMThreshold()) - by_the_loop(table, None)).max() > 0.1


def test_fresh_noise_and_direction_have_the_variance_of_the_next_level():
    times = reference_ddim_times(SCHEDULE, 50)
    for eta in (0.0, 0.5, 1.0):
        table = reference_ddim_table(SCHEDULE, 50, eta=eta)
        steps = slice(0, table.num_steps)
        direction = table.update[steps, 0] * table.sigma[steps]
        variance = direction**2 + table.noise[steps] ** 2
        np.testing.assert_allclose(variance, 1 - BEFORE[times[1:]], atol=1e-6)
        assert table.noise[table.num_steps - 1] == 0
        assert (table.noise[: table.num_steps - 1] > 0).all() == (eta > 0)


def test_ancestral_steps_are_draws_from_the_posterior():
    schedule = NoiseSchedule(20, kind="cosine")
    a, before = schedule.alphas_cumprod, np.append(1.0, schedule.alphas_cumprod[:-1])
    table = reference_ancestral_table(schedule)
    t = table.timesteps[:20].astype(int)
    assert t.tolist() == list(range(19, -1, -1))
    # given x_0, the next x has the mean and variance of its noise level
    signal = table.update[:20, 1] + table.update[:20, 0] * np.sqrt(a[t])
    variance = table.update[:20, 0] ** 2 * (1 - a[t]) + table.noise[:20] ** 2
    np.testing.assert_allclose(signal, np.sqrt(before[t]), atol=1e-6)
    np.testing.assert_allclose(variance, 1 - before[t], atol=1e-6)
    assert table.noise[19] == 0
    assert np.abs(by_the_loop(table, AncestralThreshold())).max() <= 1


def test_data_below_the_threshold_keep_their_size():
    small = jnp.asarray(start(), jnp.float32) * 0.1
    np.testing.assert_array_equal(dynamic_threshold(small), small)


@pytest.mark.parametrize("steps", [0, 1000])
def test_steps_must_leave_room_between_timesteps(steps):
    with refused("num_steps", value=steps):
        reference_ddim_times(SCHEDULE, steps)
