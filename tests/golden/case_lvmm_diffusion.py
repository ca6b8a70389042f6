"""Golden cases of LVMM's and LFDM's diffusion: schedule, sampling loops, a training step, and Fourier coordinates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.guidance import combine
from smcd_jax.diffusion.loss import diffusion_loss
from smcd_jax.diffusion.prediction import per_example, x0_coefficients
from smcd_jax.diffusion.samplers import SolverTable, advance, initial_state, table_row
from smcd_jax.diffusion.sampling import X0Transform, on_device, sample
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.lvmm.conversion.unet_table import motion_unet_rows
from smcd_jax.models.lvmm.fourier import from_frequencies, to_frequencies
from smcd_jax.models.lvmm.reference_samplers import (
    AncestralThreshold,
    DDIMThreshold,
    dynamic_threshold,
    reference_ancestral_table,
    reference_ddim_table,
    reference_ddim_times,
    threshold_level,
)
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.models.tables.schedule_tables import schedule_tables
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import flatten, network
from smcd_jax.weights.conversion_engine import to_torch
from tests.golden.case_lvmm_unet import load_unet
from tests.golden.case_train import LOSS_TOLERANCE, worst_gradient
from tests.golden.comparison import Comparison, Golden, channels_first, compare, picture, video

DDIM_TOLERANCE, ANCESTRAL_TOLERANCE = 2e-4, 1e-4  # from the golden files' README; float32 rounding alone is up to 2e-5


def schedule(golden: Golden) -> Iterator[Comparison]:
    """Compares the cosine schedule's tables, DDIM's timesteps, noising and its inverse, and dynamic thresholding."""
    arrays = golden.arrays()
    ours = NoiseSchedule(golden.config["timesteps"], kind="cosine")
    a = ours.alphas_cumprod
    yield compare("betas, float64", 1 - a / np.append(1.0, a[:-1]), arrays["f64/betas"], 1e-12)
    yield compare("alphas_cumprod, float64", a, arrays["f64/alphas_cumprod"], 1e-12)
    tables = schedule_tables(ours)
    for name in (name.removeprefix("table/") for name in arrays if name.startswith("table/")):
        yield compare(f"table {name}", tables[name], arrays[f"table/{name}"], 1e-6)
    for name in (name for name in arrays if name.startswith("steps/")):
        steps = int(name.rsplit("_", 1)[1])
        yield compare(f"times of {steps} steps", reference_ddim_times(ours, steps), arrays[name], 0.0)

    x0, noise, t = video(arrays["in/x0"]), video(arrays["in/noise"]), arrays["in/t"]
    yield compare("noised", channels_first(ours.add_noise(x0, noise, jnp.asarray(t))), arrays["out/noisy"])
    from_x, from_eps = (per_example(part, x0) for part in x0_coefficients(ours.signal(t), ours.noise(t), "epsilon"))
    yield compare("x0 from noise", channels_first(from_x * x0 + from_eps * noise), arrays["out/x0_from_noise"])
    first, second = (per_example(tables[f"posterior_mean_coef{part}"][t], x0) for part in (1, 2))
    yield compare("posterior mean", channels_first(first * x0 + second * noise), arrays["out/posterior_mean"])
    for name in ("variance", "log_variance"):
        table = tables["posterior_variance" if name == "variance" else "posterior_log_variance_clipped"]
        want = arrays[f"out/posterior_{name}"]
        yield compare(f"posterior {name}", table[t].reshape(want.shape), want)
    given = video(arrays["in/threshold_x0"])
    yield compare("level of the threshold", threshold_level(given), arrays["out/threshold_s"])
    yield compare("threshold", channels_first(dynamic_threshold(given)), arrays["out/threshold"])


def ddim(golden: Golden) -> Iterator[Comparison]:
    """Compares DDIM for LVMM's network and for LFDM's, which gets the picture's features in every frame."""
    arrays, given = golden.arrays(), golden.config
    schedule = NoiseSchedule(given.get("timesteps", 1000), kind="cosine")
    table = reference_ddim_table(schedule, given["steps"], eta=given["eta"])
    transform = DDIMThreshold(given["dynamic_thres_percentile"])
    yield from _trajectory(golden, table, transform, DDIM_TOLERANCE)
    if given["eta"] == 0:  # with eta above 0 the loop draws its own noise
        predict, weights = _prediction(golden)
        state = initial_state(video(arrays["in/noise"]))
        keys = jax.random.split(jax.random.key(0), len(state.latents))
        settings = {"table": on_device(table), "weights": weights, "keys": keys, "x0_transform": transform}
        state = sample(predict, state, start=0, stop=table.num_steps, **settings)
        yield compare("final, by the loop", channels_first(state.latents), arrays["out/final"], DDIM_TOLERANCE)


def ancestral(golden: Golden) -> Iterator[Comparison]:
    """Compares all steps of a short ancestral chain."""
    table = reference_ancestral_table(NoiseSchedule(golden.config["timesteps"], kind="cosine"))
    yield from _trajectory(golden, table, AncestralThreshold(), ANCESTRAL_TOLERANCE)


def _trajectory(golden: Golden, table: SolverTable, transform: X0Transform, tolerance: float) -> Iterator[Comparison]:
    """Compares x before each step, the guided prediction if it is stored, and the result."""
    arrays = golden.arrays()
    predict, weights = _prediction(golden)
    rows, noises = on_device(table), arrays["in/step_noise"]
    state, worst = initial_state(video(arrays["in/noise"])), {"x": 0.0, "eps": 0.0}
    step = _step(transform)
    for index in range(table.num_steps):
        eps = combine(predict(state.latents, rows.timesteps[index]), weights)
        got = {"x": state.latents, "eps": eps}
        for name in (name for name in got if f"out/{name}" in arrays):
            error = compare(name, channels_first(got[name]), arrays[f"out/{name}"][index]).error
            worst[name] = max(worst[name], error)
        state = step(state, eps, table_row(rows, index), video(noises[index]))
    for name in (name for name in worst if f"out/{name}" in arrays):
        yield Comparison(f"{name} of {table.num_steps} steps, worst", worst[name], tolerance)
    yield compare("final", channels_first(state.latents), arrays["out/final"], tolerance)


def _step(transform: X0Transform) -> Callable[..., Any]:
    @jax.jit
    def step(state: Any, eps: jax.Array, row: SolverTable, noise: jax.Array) -> Any:
        estimate = lambda x: row.x0_from_x * x + row.x0_from_model * eps  # noqa: E731
        return advance(row, state, transform(state.latents, estimate, row), noise=noise)

    return step


def _prediction(golden: Golden) -> tuple[Callable[..., jax.Array], jax.Array]:
    """Returns the unconditional and the conditional prediction, and their weights in guidance."""
    arrays, scale = golden.arrays(), golden.config["cond_scale"]
    config, params = load_unet(golden, golden.case["unet"])
    features = picture(arrays["in/features"]) if "in/features" in arrays else None
    program = _program(config, golden.policy)
    predict = lambda x, t: program(params, x, t, jnp.asarray(arrays["in/cond"]), features)  # noqa: E731
    return predict, jnp.asarray([1 - scale, scale], jnp.float32)


@functools.cache
def _program(config: MotionUNetConfig, policy: ComputePolicy) -> Callable[..., jax.Array]:
    """Returns a compiled forward pass, shared by all files that use the same network."""
    module = network(config, policy)

    @jax.jit
    def predict(params: Any, x: Any, t: Any, condition: Any, features: Any) -> jax.Array:
        if features is not None:
            repeated = jnp.broadcast_to(features[:, None], (*x.shape[:-1], features.shape[-1]))
            x = jnp.concatenate([x, repeated], axis=-1)
        batch, twice = len(x), lambda array: jnp.concatenate([array, array])
        keep = jnp.arange(2 * batch) >= batch
        kept = module.apply({"params": params}, twice(condition), keep, method="with_null")
        context = module.apply({"params": params}, kept, method="context")
        out = module.apply({"params": params}, twice(x), jnp.full(2 * batch, t), context)
        return out.reshape(2, batch, *out.shape[1:])

    return predict


def diffusion_step(golden: Golden) -> Iterator[Comparison]:
    """Compares the loss, all gradients, and x0 after the threshold, with one dropped condition."""
    arrays = golden.arrays()
    config, params = load_unet(golden, golden.case["unet"])
    module, noise_schedule = network(config, golden.policy), NoiseSchedule(kind="cosine")
    x0, noise, t = video(arrays["in/x0"]), video(arrays["in/noise"]), jnp.asarray(arrays["in/t"])
    keep = jnp.asarray(golden.config["null_cond_mask"]) == 0
    noisy = noise_schedule.add_noise(x0, noise, t)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        variables = {"params": params}
        kept = module.apply(variables, jnp.asarray(arrays["in/cond"]), keep, method="with_null")
        context = module.apply(variables, kept, method="context")
        eps = module.apply(variables, noisy, t.astype(jnp.float32), context)
        return diffusion_loss(eps, schedule=noise_schedule, x0=x0, noise=noise, t=t).mean(), eps

    (value, eps), gradients = loss(params)
    yield compare("loss", value, arrays["out/loss"], LOSS_TOLERANCE)
    yield worst_gradient(to_torch(motion_unet_rows(config), flatten(gradients)), arrays)
    levels = noise_schedule.signal(arrays["in/t"]), noise_schedule.noise(arrays["in/t"])
    from_x, from_eps = (per_example(part, x0) for part in x0_coefficients(*levels, "epsilon"))
    got = dynamic_threshold(from_x * noisy + from_eps * eps)
    yield compare("x0 after the threshold", channels_first(got), arrays["out/pred_x0"])


def fourier(golden: Golden) -> Iterator[Comparison]:
    """Compares a clip's lowest frequency bins, a clip made from arbitrary bins, and the round trip."""
    arrays, frames, bins = golden.arrays(), golden.config["num_frames"], golden.config["k_frequency"]
    coefficients = to_frequencies(video(arrays["in/x"]), bins)
    yield compare("coefficients", channels_first(coefficients), arrays["out/coefficients"])
    rebuilt = from_frequencies(video(arrays["in/y"]), frames)
    yield compare("reconstruction", channels_first(rebuilt), arrays["out/reconstruct_y"])
    yield compare("round trip", channels_first(from_frequencies(coefficients, frames)), arrays["out/roundtrip"])


RUNNERS = {
    "lvmm_schedule": schedule,
    "lvmm_ddim": ddim,
    "lfdm_ddim": ddim,
    "lvmm_ancestral": ancestral,
    "lvmm_diffusion_step": diffusion_step,
    "lvmm_fourier": fourier,
}
