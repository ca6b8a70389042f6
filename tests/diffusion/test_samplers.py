"""Samplers, compared with trajectories recorded from the reference and with diffusers' schedulers of the same name."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.diffusion.samplers import SAMPLERS, initial_state, make_solver_table, solver_step
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.diffusion.timesteps import SPACINGS, inference_timesteps
from tests.errors import refused

# diffusers passes torch tensors to np.array, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SHAPE = (2, 3, 4, 4, 4)
SCHEDULE = NoiseSchedule()
V_SCHEDULE = NoiseSchedule(prediction_type="v_prediction")
ZERO_SNR = NoiseSchedule(prediction_type="v_prediction", rescale_zero_terminal_snr=True)
DIFFUSERS_SPACINGS = ("leading", "trailing", "linspace")


@jax.jit
def toy_network(latents, t):
    """A smooth nonlinear stand-in for a network, so that an error in any coefficient reaches every later step."""
    t = jnp.asarray(t, jnp.float32)
    return jnp.tanh(0.8 * latents + jnp.sin(t / 90.0)) + 0.2 * jnp.cos(3.0 * latents)


def unit_noise(seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(SHAPE), jnp.float32)


def sample(table, *, step_noise=None):
    """Returns the toy network's latents after each step, ``[steps, *SHAPE]``."""
    step = jax.jit(solver_step)
    state, visited = initial_state(unit_noise()), []
    for i in range(table.num_steps):
        output = toy_network(state.latents, table.timesteps[i])
        fresh = {} if step_noise is None else {"noise": step_noise[i]}
        state, _ = step(table, i, state, output, **fresh)
        visited.append(np.asarray(state.latents))
    return np.stack(visited)


def diffusers_scheduler(sampler, schedule, spacing, **options):
    diffusers = pytest.importorskip("diffusers")
    config = {
        "num_train_timesteps": schedule.num_train_timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.kind,
        "prediction_type": schedule.prediction_type,
        "rescale_betas_zero_snr": schedule.rescale_zero_terminal_snr,
        "timestep_spacing": spacing,
        "steps_offset": 1,
    }
    if sampler == "ddim":
        return diffusers.DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=False, **options)
    if sampler == "euler":
        return diffusers.EulerDiscreteScheduler(**config, **options)
    if sampler == "dpmsolver++":
        return diffusers.DPMSolverMultistepScheduler(**config, **options)
    return diffusers.UniPCMultistepScheduler(**config, **options)


def sample_with_diffusers(scheduler, *, step_noise=None, eta=0.0):
    """Like ``sample``, but with a diffusers scheduler, whose timesteps must have been set."""
    torch = pytest.importorskip("torch")
    in_sigma_space = hasattr(scheduler, "is_scale_input_called")

    def to_variance_preserving(sigma):
        return 1 / (1 + float(sigma) ** 2) ** 0.5 if in_sigma_space else 1.0

    sigmas = scheduler.sigmas if in_sigma_space else np.zeros(len(scheduler.timesteps) + 1)
    latents = torch.from_numpy(np.array(unit_noise())) / to_variance_preserving(sigmas[0])
    visited = []
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(latents, t)
        output = torch.from_numpy(np.array(toy_network(seen.numpy(), float(t))))
        extra = {} if step_noise is None else {"eta": eta, "variance_noise": torch.from_numpy(step_noise[i])}
        latents = scheduler.step(output, t, latents, **extra).prev_sample
        visited.append(latents.numpy() * to_variance_preserving(sigmas[i + 1]))
    return np.stack(visited)


def relative_error(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# Twice the measured error: both sides round to float32 in every step, and diffusers computes logarithms in float32.
FLOAT32_TRAJECTORY = 5e-6
# At zero terminal SNR, diffusers' Euler stores latents times sigma = 4096, of which one float32 rounding is 2.4e-4.
EULER_FROM_SIGMA_4096 = 1e-3


# With "linspace", diffusers' DDIM does not step to the next timestep of the list; see the next test.
SAME_AS_DIFFUSERS = [(s, p) for s in SAMPLERS for p in DIFFUSERS_SPACINGS if (s, p) != ("ddim", "linspace")]


@pytest.mark.parametrize("num_steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize(("sampler", "spacing"), SAME_AS_DIFFUSERS)
@pytest.mark.parametrize("schedule", [SCHEDULE, V_SCHEDULE, ZERO_SNR], ids=["epsilon", "v", "zero-snr-v"])
def test_latents_equal_diffusers_after_every_step(schedule, sampler, spacing, num_steps):
    scheduler = diffusers_scheduler(sampler, schedule, spacing)
    scheduler.set_timesteps(num_steps)
    table = make_solver_table(schedule, sampler=sampler, num_steps=num_steps, spacing=spacing)
    np.testing.assert_array_equal(table.timesteps[: table.num_steps], scheduler.timesteps.numpy())
    starts_at_zero_snr = schedule is ZERO_SNR and spacing != "leading"
    tolerance = EULER_FROM_SIGMA_4096 if sampler == "euler" and starts_at_zero_snr else FLOAT32_TRAJECTORY
    assert relative_error(sample(table), sample_with_diffusers(scheduler)) < tolerance


@pytest.mark.parametrize(("spacing", "num_steps"), [("linspace", 5), ("linspace", 50), ("trailing", 30)])
def test_ddim_steps_to_the_next_timestep_of_the_list(spacing, num_steps):
    """A DDIM step is an Euler step, so diffusers' Euler on the same timesteps, ending at timestep 0, must agree.

    diffusers' own DDIM steps down by T // num_steps, and so misses the next timestep where the gap is not an integer.
    """
    scheduler = diffusers_scheduler("euler", SCHEDULE, spacing, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(timesteps=list(inference_timesteps(SCHEDULE, num_steps, spacing)))
    table = make_solver_table(SCHEDULE, sampler="ddim", num_steps=num_steps, spacing=spacing)
    assert relative_error(sample(table), sample_with_diffusers(scheduler)) < FLOAT32_TRAJECTORY


@pytest.mark.parametrize("num_steps", [1, 2, 5, 50])
def test_euler_from_zero_terminal_snr_equals_first_order_dpm_solver(num_steps):
    """Our Euler sampler agrees with DPM-Solver to float32 precision; diffusers' Euler does not."""
    scheduler = diffusers_scheduler("dpmsolver++", ZERO_SNR, "trailing", solver_order=1)
    scheduler.set_timesteps(num_steps)
    table = make_solver_table(ZERO_SNR, sampler="euler", num_steps=num_steps, spacing="trailing")
    assert relative_error(sample(table), sample_with_diffusers(scheduler)) < FLOAT32_TRAJECTORY


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_with_noise_equals_diffusers(spacing, eta):
    step_noise = np.random.default_rng(1).standard_normal((20, *SHAPE)).astype(np.float32)
    scheduler = diffusers_scheduler("ddim", SCHEDULE, spacing)
    scheduler.set_timesteps(20)
    table = make_solver_table(SCHEDULE, sampler="ddim", num_steps=20, spacing=spacing, eta=eta)
    theirs = sample_with_diffusers(scheduler, step_noise=step_noise, eta=eta)
    assert relative_error(sample(table, step_noise=step_noise), theirs) < FLOAT32_TRAJECTORY


RECORDED = ("10_img0", "10_gs1", "10_img1.5", "10_ti1.5", "10_img1.5_ti1.5", "50_img0", "50_img1.5", "50_ti1.5")


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("spacing", ["leading", "reference"])
def test_ddim_replays_the_reference_trajectory(shared, spacing, name):
    """No network is needed: the noise prediction follows from the latents and the x_0 that the reference recorded."""
    with np.load(shared / f"golden/diffusion/ddim{name}.npz") as recorded:
        channels_last = (0, 1, 3, 4, 5, 2)
        noise = recorded["in/noise"].transpose(0, 2, 3, 4, 1)
        latents, x0 = (recorded[f"out/{key}"].transpose(channels_last) for key in ("xt", "pred_x0"))
        timesteps = recorded["out/timesteps"]
    table = make_solver_table(SCHEDULE, sampler="ddim", num_steps=len(timesteps), spacing=spacing)
    np.testing.assert_array_equal(table.timesteps[: table.num_steps], timesteps)
    state = initial_state(jnp.asarray(noise))
    for i, seen in enumerate([noise, *latents[:-1]]):
        a_t = SCHEDULE.alphas_cumprod[timesteps[i]]
        epsilon = (seen - np.sqrt(a_t) * x0[i]) / np.sqrt(1 - a_t)
        state, predicted = solver_step(table, i, state, jnp.asarray(epsilon, jnp.float32))
        # 1e-5 relative: the reference's own float32 noise over a loop is 2e-6.
        assert relative_error(np.asarray(state.latents), latents[i]) < 1e-5
        assert relative_error(np.asarray(predicted), x0[i]) < 1e-5


def test_one_compilation_serves_every_sampler_and_number_of_steps():
    traces = 0

    @jax.jit
    def run(table, noise):
        nonlocal traces
        traces += 1

        def step(i, state):
            output = toy_network(state.latents, table.timesteps[i])
            return solver_step(table, i, state, output, noise=jnp.zeros_like(noise))[0]

        return jax.lax.fori_loop(0, table.num_steps, step, initial_state(noise)).latents

    cases = [(s, n, spacing) for s in SAMPLERS for n, spacing in [(1, "trailing"), (7, "leading"), (30, "reference")]]
    for sampler, num_steps, spacing in [*cases, ("euler", 20, "linspace")]:
        table = make_solver_table(SCHEDULE, sampler=sampler, num_steps=num_steps, spacing=spacing)
        assert relative_error(np.asarray(run(table, unit_noise())), sample(table)[-1]) < FLOAT32_TRAJECTORY
    table = make_solver_table(SCHEDULE, sampler="ddim", num_steps=3, eta=1.0)
    assert np.isfinite(run(table, unit_noise())).all()
    assert traces == 1


def test_tables_have_one_shape_and_hold_float32():
    tables = [
        make_solver_table(SCHEDULE, sampler="ddim", num_steps=1),
        make_solver_table(V_SCHEDULE, sampler="unipc", num_steps=900, spacing="reference"),
    ]
    assert tables[1].num_steps == 1000
    for table in tables:
        columns = table[:-1]
        shapes = [(1001,), (1001,), (1001,), (1001, 5), (1001, 4), (1001,), (1001,), (1001,)]
        assert [column.shape for column in columns] == shapes
        assert {column.dtype for column in columns} == {np.dtype(np.float32)}


def followed(sampler, spacing, num_steps):
    """Returns whether a sampler visits exactly the listed timesteps; some do not if the first timestep is clipped."""
    if sampler in ("dpmsolver++", "unipc"):
        return (spacing, num_steps) != ("leading", 1000)  # refused
    clipped = spacing in ("leading", "reference") and inference_timesteps(SCHEDULE, num_steps, spacing)[0] == 999
    return sampler == "euler" or not clipped


FOLLOWED = [case for case in itertools.product(SAMPLERS, SPACINGS, [1, 2, 3, 30, 501, 999, 1000]) if followed(*case)]


@pytest.mark.parametrize(("sampler", "spacing", "num_steps"), FOLLOWED)
def test_sampling_with_a_network_that_knows_x0_ends_at_it(sampler, spacing, num_steps):
    """Includes repeated timesteps, from rounding or clipping, which give multistep formulas a step size of zero."""
    schedule = NoiseSchedule(prediction_type="sample")
    table = make_solver_table(schedule, sampler=sampler, num_steps=num_steps, spacing=spacing)
    x0 = 2.0 * unit_noise(seed=3)
    a_first = np.interp(table.timesteps[0], np.arange(1000), schedule.alphas_cumprod)
    epsilon = unit_noise()
    state = initial_state(np.sqrt(a_first).astype(np.float32) * x0 + np.sqrt(1 - a_first).astype(np.float32) * epsilon)
    run = jax.jit(
        lambda table, state: jax.lax.fori_loop(
            0, table.num_steps, lambda i, state: solver_step(table, i, state, x0)[0], state
        )
    )
    if sampler == "ddim":
        a_last = schedule.alphas_cumprod[0]
        expected = np.float32(np.sqrt(a_last)) * x0 + np.float32(np.sqrt(1 - a_last)) * epsilon
    else:
        expected = x0
    # 3e-5: up to a thousand float32 steps, each of which rounds latents of size 8.
    np.testing.assert_allclose(run(table, state).latents, expected, atol=3e-5)


def gaussian_data_errors(sampler, num_steps, spacing):
    """Returns relative errors in the scale of latents, for the exact noise prediction of data from N(0, 0.5^2).

    The probability flow scales latents with their standard deviation, sqrt(0.25 a + 1 - a). There is one error for
    each timestep visited and one for the result.
    """
    a = SCHEDULE.alphas_cumprod
    table = make_solver_table(SCHEDULE, sampler=sampler, num_steps=num_steps, spacing=spacing)
    ratio = np.interp(table.timesteps[: table.num_steps], np.arange(1000), np.sqrt((1 - a) / a))
    visited = np.append(1 / (1 + ratio**2), a[0] if sampler == "ddim" else 1.0)
    deviation = np.sqrt(0.25 * visited + 1 - visited)
    state, errors = initial_state(jnp.ones((1, 1, 1, 1, 1))), [0.0]
    for i in range(table.num_steps):
        epsilon = state.latents * np.float32(np.sqrt(1 - visited[i]) / deviation[i] ** 2)
        state, _ = solver_step(table, i, state, epsilon)
        errors.append(abs(state.latents.item() * deviation[0] / deviation[i + 1] - 1))
    return errors


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_converge_to_the_probability_flow(sampler, spacing):
    coarse, fine = (gaussian_data_errors(sampler, num_steps, spacing)[-1] for num_steps in (20, 100))
    assert fine < 0.5 * coarse
    assert fine < 0.05


def test_order_of_accuracy_is_one_for_ddim_and_euler_and_two_for_the_multistep_samplers():
    """Errors are measured at timestep 1, because the step from there to zero noise is first order in every sampler."""
    gain = {}
    for sampler in SAMPLERS:
        coarse, fine = (gaussian_data_errors(sampler, num_steps, "reference")[-2] for num_steps in (100, 200))
        gain[sampler] = coarse / fine
    # In the limit, twice the steps divide the error by 2 or 4; the measured factors are 1.95 and 3.2 to 3.6.
    assert 1.8 < gain["ddim"] < 2.1
    assert 1.8 < gain["euler"] < 2.1
    assert 3.0 < gain["dpmsolver++"] < gain["unipc"] < 4.2


def test_the_state_is_float32_whatever_the_network_computes_in():
    table = make_solver_table(SCHEDULE, sampler="unipc", num_steps=3)
    state = initial_state(unit_noise().astype(jnp.bfloat16))
    state, x0 = solver_step(table, jnp.int32(0), state, jnp.ones(SHAPE, jnp.bfloat16))
    assert {array.dtype for array in (*state, x0)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"sampler": "heun"}, "sampler"),
        ({"spacing": "karras"}, "spacing"),
        ({"num_steps": 0}, "num_steps"),
        ({"eta": 1.5}, "eta"),
        ({"eta": float("nan")}, "eta"),
        ({"sampler": "euler", "eta": 0.5}, "eta"),
    ],
)
def test_inconsistent_options_are_refused(options, argument):
    with refused(argument):
        make_solver_table(SCHEDULE, **{"sampler": "ddim", "num_steps": 10, **options})


def test_a_stochastic_table_requires_noise():
    table = make_solver_table(SCHEDULE, sampler="ddim", num_steps=10, eta=0.5)
    with refused("noise", value=None):
        solver_step(table, 0, initial_state(unit_noise()), unit_noise())


@pytest.mark.parametrize("num_steps", [7, 20, 25, 61])
def test_a_stochastic_step_from_pure_noise_is_finite(num_steps):
    """At zero terminal SNR with eta 1 the remaining variance is 0; float32 rounding below 0 would make its root NaN."""
    schedule = NoiseSchedule(rescale_zero_terminal_snr=True, prediction_type="v_prediction", dynamic_rescale=0.7)
    table = make_solver_table(schedule, sampler="ddim", num_steps=num_steps, spacing="trailing", eta=1.0)
    assert table.num_steps == num_steps
    assert all(np.isfinite(column).all() for column in table[:-1])
    assert table.update[0, 0] < 1e-6


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmsolver++", "unipc"])
def test_dynamic_rescale_changes_the_signal_but_not_the_sample(sampler):
    """A perfect network predicts x_0 at any scale; DDIM's result keeps the last scale unless it is undone."""
    schedule = NoiseSchedule(prediction_type="sample", dynamic_rescale=0.5)
    options = {"sampler": sampler, "num_steps": 10, "spacing": "trailing"}
    for undo in (False, True):
        table = make_solver_table(schedule, undo_dynamic_rescale=undo, **options)
        state, clean = initial_state(unit_noise()), jnp.ones_like(unit_noise())
        for index in range(table.num_steps):
            state, _ = solver_step(table, index, state, clean)
        last = schedule.scale[int(table.timesteps[table.num_steps - 1])]
        expected = last if sampler == "ddim" and not undo else 1.0
        assert float(state.latents.mean()) == pytest.approx(expected, rel=0.01)
