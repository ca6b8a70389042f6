"""The denoising loss and its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.diffusion.loss import diffusion_loss, min_snr_weights, prediction_target, training_noise
from smcd_jax.diffusion.prediction import PREDICTION_TYPES
from smcd_jax.diffusion.schedule import NoiseSchedule
from tests.errors import refused

SHAPE = (4, 3, 5, 6, 4)
T = jnp.asarray([3, 200, 600, 990])


def latents(seed):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(SHAPE), jnp.float32)


X0, NOISE = latents(0), latents(1)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_has_zero_loss_and_an_error_of_two_has_a_loss_of_four(prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    target = prediction_target(schedule, X0, NOISE, t=T)
    known = {"schedule": schedule, "x0": X0, "noise": NOISE, "t": T}
    np.testing.assert_array_equal(diffusion_loss(target, **known), np.zeros(4))
    np.testing.assert_allclose(diffusion_loss(target + 2, **known), np.full(4, 4.0), rtol=1e-6)  # float32 mean


def test_targets_are_noise_x0_and_velocity():
    targets = {p: prediction_target(NoiseSchedule(prediction_type=p), X0, NOISE, t=T) for p in PREDICTION_TYPES}
    np.testing.assert_array_equal(targets["epsilon"], NOISE)
    np.testing.assert_array_equal(targets["sample"], X0)
    a_t = NoiseSchedule().alphas_cumprod[np.asarray(T)].reshape(-1, 1, 1, 1, 1)
    velocity = np.sqrt(a_t) * np.asarray(NOISE, np.float64) - np.sqrt(1 - a_t) * np.asarray(X0, np.float64)
    np.testing.assert_allclose(targets["v_prediction"], velocity, atol=1e-5)  # float32 table and products


def test_the_batch_mean_is_the_plain_mean_over_all_elements():
    output = latents(2)
    loss = diffusion_loss(output, schedule=NoiseSchedule(), x0=X0, noise=NOISE, t=T)
    assert loss.shape == (4,)
    plain = np.mean((np.asarray(output, np.float64) - np.asarray(NOISE, np.float64)) ** 2)
    np.testing.assert_allclose(np.mean(loss), plain, rtol=1e-6)  # float32 sums of 360 values


def test_bfloat16_outputs_are_compared_in_float32():
    output = latents(2).astype(jnp.bfloat16)
    loss = diffusion_loss(output, schedule=NoiseSchedule(), x0=X0, noise=NOISE, t=T)
    assert loss.dtype == jnp.float32
    exact = np.mean((np.asarray(output, np.float64) - np.asarray(NOISE, np.float64)) ** 2, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(loss, exact, rtol=1e-6)  # bfloat16 would be off by 4e-3


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_min_snr_weights_the_error_in_x0_by_the_clipped_snr(prediction_type):
    """The same error in x_0 has the same weighted loss, whether the network predicts noise, x_0 or velocity."""
    schedule, gamma = NoiseSchedule(prediction_type=prediction_type), 5.0
    a_t = schedule.alphas_cumprod[np.asarray(T)]
    snr = a_t / (1 - a_t)
    assert snr.min() < gamma < snr.max()
    error = np.asarray(latents(3), np.float64)
    # x_t is given, so an error of d in x_0 is an error of -d alpha/sigma in eps and of -d/sigma in v.
    per_unit = {"sample": np.ones(4), "epsilon": -np.sqrt(snr), "v_prediction": -np.sqrt(snr + 1)}[prediction_type]
    output = prediction_target(schedule, X0, NOISE, t=T) + jnp.asarray(
        per_unit.reshape(-1, 1, 1, 1, 1) * error, jnp.float32
    )
    loss = diffusion_loss(output, schedule=schedule, x0=X0, noise=NOISE, t=T, min_snr_gamma=gamma)
    expected = np.minimum(snr, gamma) * np.mean(error**2, axis=(1, 2, 3, 4))
    # 1e-4: at t = 3 the float32 training table is off by up to 1e-7 in a, which is a relative error of 3e-5 in 1-a.
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_min_snr_weights_are_finite_and_zero_for_pure_noise():
    schedule = NoiseSchedule(prediction_type="v_prediction", rescale_zero_terminal_snr=True)
    assert float(min_snr_weights(schedule, jnp.asarray([999]), gamma=5.0)[0]) == 0


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_a_gamma_that_is_not_positive_is_refused(gamma):
    with refused("min_snr_gamma"):
        min_snr_weights(NoiseSchedule(), T, gamma=gamma)


def test_noise_offset_adds_one_number_per_example_and_channel():
    key = jax.random.key(0)
    plain, offset = training_noise(key, SHAPE), training_noise(key, SHAPE, noise_offset=0.1)
    shift = np.asarray(offset - plain)
    # Equal up to the rounding of noise values up to 4.
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1, :1], SHAPE), atol=1e-6)
    assert len(np.unique(shift[:, 0, 0, 0].round(4))) == SHAPE[0] * SHAPE[-1]


def test_training_noise_is_unit_gaussian_and_a_function_of_the_key():
    noise = training_noise(jax.random.key(0), (64, 8, 8, 8, 4))
    assert noise.dtype == jnp.float32
    # Five standard errors of the mean and of the standard deviation of 131072 draws.
    assert abs(float(noise.mean())) < 5 / np.sqrt(noise.size)
    assert abs(float(noise.std()) - 1) < 5 / np.sqrt(2 * noise.size)
    np.testing.assert_array_equal(noise, training_noise(jax.random.key(0), noise.shape))
    assert not np.array_equal(noise, training_noise(jax.random.key(1), noise.shape))


def test_the_loss_has_the_gradient_of_a_mean_square():
    output = latents(2)

    def total(output):
        return diffusion_loss(output, schedule=NoiseSchedule(), x0=X0, noise=NOISE, t=T).sum()

    np.testing.assert_allclose(jax.grad(total)(output), 2 * (output - NOISE) / (3 * 5 * 6 * 4), rtol=1e-5, atol=1e-8)
