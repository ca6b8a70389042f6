"""The noise schedule, prediction types and timesteps, compared with the reference's tables and with diffusers."""

import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.diffusion.prediction import PREDICTION_TYPES, x0_coefficients
from smcd_jax.diffusion.samplers import make_solver_table
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.diffusion.timesteps import SPACINGS, inference_timesteps
from tests.errors import refused

SCHEDULE = NoiseSchedule()


@pytest.fixture(scope="module")
def golden(shared):
    with np.load(shared / "golden/diffusion/schedule.npz") as arrays:
        return dict(arrays)


def test_float64_tables_equal_the_reference(golden):
    a = SCHEDULE.alphas_cumprod
    previous = np.append(1.0, a[:-1])
    betas = 1 - a / previous
    derived = {
        "betas": betas,
        "alphas_cumprod": a,
        "alphas_cumprod_prev": previous,
        "alphas_cumprod_next": np.append(a[1:], 0.0),
        "sqrt_alphas_cumprod": np.sqrt(a),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - a),
        "log_one_minus_alphas_cumprod": np.log(1 - a),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / a),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / a - 1),
    }
    posterior = {name for name in golden if name.startswith("f64/posterior")}
    assert {f"f64/{name}" for name in derived} | posterior == {name for name in golden if name.startswith("f64/")}
    for name, ours in derived.items():
        # 1e-12: betas are 1 minus a quotient near 1, which costs three of float64's sixteen digits.
        np.testing.assert_allclose(ours, golden[f"f64/{name}"], rtol=1e-12, err_msg=name)


def test_ancestral_steps_of_one_timestep_are_the_reference_posterior(golden):
    """DDIM with eta 1 and all 1000 steps is DDPM, so its table must contain the reference's posterior arrays."""
    table = make_solver_table(SCHEDULE, sampler="ddim", num_steps=1000, spacing="trailing", eta=1.0)
    # The last row, timestep 0, is omitted: it steps to a[0] here and to a = 1 in the posterior.
    rows, t = slice(0, 999), np.arange(999, 0, -1)
    np.testing.assert_array_equal(table.timesteps[rows], t)
    rounding = {"rtol": 2e-7}  # the table is rounded to float32
    np.testing.assert_allclose(table.noise[rows] ** 2, golden["f64/posterior_variance"][t], rtol=4e-7)
    np.testing.assert_allclose(
        2 * np.log(table.noise[rows]), golden["f64/posterior_log_variance_clipped"][t], **rounding
    )
    np.testing.assert_allclose(table.update[rows, 1], golden["f64/posterior_mean_coef1"][t], **rounding)
    np.testing.assert_allclose(table.update[rows, 0], golden["f64/posterior_mean_coef2"][t], **rounding)
    np.testing.assert_allclose(table.x0_from_x[rows], golden["f64/sqrt_recip_alphas_cumprod"][t], **rounding)
    np.testing.assert_allclose(-table.x0_from_model[rows], golden["f64/sqrt_recipm1_alphas_cumprod"][t], **rounding)


def test_training_table_equals_the_reference_bit_for_bit(golden):
    table = SCHEDULE.training_alphas_cumprod
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, golden["train/alphas_cumprod"])
    betas = 1 - table / np.append(np.float32(1), table[:-1])
    # 2e-4: twice the float32 rounding of a quotient near 1, 6e-8, relative to the smallest beta, 8.5e-4.
    np.testing.assert_allclose(betas, golden["train/betas"], rtol=2e-4)


def test_add_noise_equals_the_reference(golden):
    noisy = SCHEDULE.add_noise(*(jnp.asarray(golden[f"addn/{name}"]) for name in ("x0", "noise", "t")))
    # Two float32 products and a sum, which may be fused: they differ by a few units in the last place.
    np.testing.assert_allclose(noisy, golden["addn/noisy"], rtol=1e-6, atol=1e-6)


def test_reference_spacing_equals_the_reference_and_leading_where_steps_divide(golden):
    recorded = {int(name.rsplit("_", 1)[1]): steps for name, steps in golden.items() if name.startswith("steps/")}
    assert len(recorded) == 11
    for num_steps, steps in recorded.items():
        np.testing.assert_array_equal(inference_timesteps(SCHEDULE, num_steps, "reference"), steps)
        if 1000 % num_steps == 0:
            np.testing.assert_array_equal(inference_timesteps(SCHEDULE, num_steps, "leading"), steps)


def test_every_spacing_descends_within_range_with_the_requested_number_of_steps():
    for num_steps in range(1, 1001):
        for spacing in SPACINGS:
            steps = inference_timesteps(SCHEDULE, num_steps, spacing)
            assert len(steps) == num_steps or (spacing == "reference" and 1000 % num_steps)
            assert steps[0] <= 999
            assert steps[-1] >= 0
            assert (np.diff(steps) <= 0).all()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_timesteps_equal_diffusers_for_every_number_of_steps():
    diffusers = pytest.importorskip("diffusers")
    for spacing in ("leading", "trailing", "linspace"):
        scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
        multistep = diffusers.DPMSolverMultistepScheduler(timestep_spacing=spacing, steps_offset=1)
        for num_steps in range(1, 1000):
            scheduler.set_timesteps(num_steps)
            # diffusers exceeds the last timestep if "leading" reaches 1000, and its arange may give one entry too many.
            theirs = np.minimum(scheduler.timesteps.numpy(), 999)[:num_steps]
            np.testing.assert_array_equal(inference_timesteps(SCHEDULE, num_steps, spacing), theirs)
            multistep.set_timesteps(num_steps)
            theirs = np.minimum(multistep.timesteps.numpy(), 999)[:num_steps]
            ours = inference_timesteps(SCHEDULE, num_steps, spacing, skip_lowest=True)
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 2.5, True, None])
def test_a_number_of_steps_out_of_range_is_refused(num_steps):
    with refused("num_steps", value=num_steps):
        inference_timesteps(SCHEDULE, num_steps, "leading")


def test_an_unknown_spacing_is_refused_with_a_list_of_the_known_ones():
    with refused("spacing", value="karras"):
        inference_timesteps(SCHEDULE, 10, "karras")


def test_leading_without_its_lowest_point_needs_a_stride():
    assert len(inference_timesteps(SCHEDULE, 999, "leading", skip_lowest=True)) == 999
    with refused("num_steps", value=1000):
        inference_timesteps(SCHEDULE, 1000, "leading", skip_lowest=True)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_timestep():
    schedule = NoiseSchedule(rescale_zero_terminal_snr=True, prediction_type="v_prediction")
    for table, plain in (
        (schedule.alphas_cumprod, SCHEDULE.alphas_cumprod),
        (schedule.training_alphas_cumprod, SCHEDULE.training_alphas_cumprod),
    ):
        assert table[-1] == 0
        assert table[0] == pytest.approx(plain[0], rel=1e-6)  # float32 rounding
        assert (np.diff(table) < 0).all()
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    )
    # atol 1e-7: diffusers computes in float32 and subtracts nearly equal numbers close to the end.
    np.testing.assert_allclose(schedule.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=2e-5, atol=1e-7)


def test_zero_terminal_snr_refuses_noise_prediction():
    with refused("rescale_zero_terminal_snr", value=True):
        NoiseSchedule(rescale_zero_terminal_snr=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train_timesteps", 1),
        ("beta_start", 0.0),
        ("beta_start", float("nan")),
        ("beta_end", 1.0),
        ("kind", "quadratic"),
        ("prediction_type", "flow"),
        ("dynamic_rescale", 0.0),
    ],
)
def test_an_invalid_schedule_is_refused(field, value):
    with refused("beta_start" if field == "beta_end" else field):
        NoiseSchedule(**{field: value})


def test_linear_betas_are_linear_in_beta():
    schedule = NoiseSchedule(kind="linear", beta_start=1e-4, beta_end=0.02)
    alphas = schedule.alphas_cumprod[1:] / schedule.alphas_cumprod[:-1]
    np.testing.assert_allclose(1 - alphas, np.linspace(1e-4, 0.02, 1000)[1:], rtol=1e-10)  # 1 minus a quotient near 1
    np.testing.assert_allclose(schedule.training_alphas_cumprod, schedule.alphas_cumprod, rtol=1e-5)  # float32 betas


def test_tables_are_shared_and_cannot_be_written():
    assert SCHEDULE.alphas_cumprod is SCHEDULE.alphas_cumprod
    for table in (SCHEDULE.alphas_cumprod, SCHEDULE.training_alphas_cumprod):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1
    assert hash(NoiseSchedule()) == hash(SCHEDULE)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_x0_is_recovered_from_each_prediction_type(prediction_type):
    rng = np.random.default_rng(0)
    x0, noise = (jnp.asarray(rng.standard_normal((4, 2, 3, 3, 4)), jnp.float32) for _ in range(2))
    t = jnp.asarray([0, 250, 500, 999])
    latents, velocity = SCHEDULE.add_noise(x0, noise, t), SCHEDULE.velocity(x0, noise, t)
    output = {"epsilon": noise, "sample": x0, "v_prediction": velocity}[prediction_type]
    a_t = SCHEDULE.training_alphas_cumprod[np.asarray(t)].reshape(-1, 1, 1, 1, 1)
    from_latents, from_model = x0_coefficients(np.sqrt(a_t), np.sqrt(1 - a_t), prediction_type)
    # 2e-5: dividing by sqrt(a) = 0.07 at t = 999 magnifies float32 rounding.
    np.testing.assert_allclose(from_latents * latents + from_model * output, x0, rtol=2e-5, atol=2e-5)


def test_dynamic_rescale_scales_the_clean_latents_before_noise():
    schedule = NoiseSchedule(prediction_type="v_prediction", dynamic_rescale=0.3)
    t, x0 = np.array([0, 200, 399, 999]), jnp.ones((4, 2))
    np.testing.assert_allclose(schedule.scale[t], [1, 1 - 0.7 * 200 / 399, 0.3, 0.3])
    noisy = schedule.add_noise(x0, jnp.zeros_like(x0), jnp.asarray(t))
    np.testing.assert_allclose(noisy[:, 0], schedule.signal(t), rtol=1e-5)  # the table is float32
    np.testing.assert_allclose(
        schedule.velocity(x0, jnp.zeros_like(x0), jnp.asarray(t))[:, 0],
        -schedule.noise(t) * schedule.scale[t],
        rtol=1e-4,
    )


def test_the_cosine_schedule_falls_from_nearly_clean_to_nearly_noise():
    table = NoiseSchedule(kind="cosine").alphas_cumprod
    assert table[0] > 0.999
    assert table[499] == pytest.approx(np.cos((0.5 + 0.008) / 1.008 * np.pi / 2) ** 2, rel=1e-3)
    assert 0 < table[-1] < 1e-5
    assert (np.diff(table) < 0).all()
