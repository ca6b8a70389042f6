"""Golden cases of diffusion: the noise schedule, and DDIM trajectories of the model in the real sampling loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.samplers import initial_state, make_solver_table
from smcd_jax.diffusion.sampling import on_device, sample
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.diffusion.timesteps import inference_timesteps
from smcd_jax.models.branches import branch_inputs, branch_outputs
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.models.smcd.guidance import reference_guidance
from smcd_jax.models.smcd.model import Inputs, SMCDModel
from tests.golden.case_unet import load_unet
from tests.golden.comparison import Comparison, Golden, channels_first, compare, load_aux, picture, video

LOOP_TOLERANCE = 1e-4  # fifty guided steps amplify float32 rounding; the reference's own error is about 2e-6
# All branches of the reference's sampler. Every file uses them all, with weight 0 where its guidance needs fewer, so
# that all files share one program.
BRANCHES = reference_guidance(guidance_scale=7.5, img_free_guidance=1.5).branches


def schedule(golden: Golden) -> Iterator[Comparison]:
    """Compares both alpha-bar tables, noising, and the timesteps for each number of steps."""
    arrays, given = golden.arrays(), golden.config
    ours = NoiseSchedule(given["steps"], beta_start=given["beta_start"], beta_end=given["beta_end"])
    yield compare("alphas_cumprod, float64", ours.alphas_cumprod, arrays["f64/alphas_cumprod"], 1e-12)
    yield compare("alphas_cumprod of training", ours.training_alphas_cumprod, arrays["train/alphas_cumprod"], 1e-7)
    noisy = ours.add_noise(video(arrays["addn/x0"]), video(arrays["addn/noise"]), jnp.asarray(arrays["addn/t"]))
    yield compare("noised latents", channels_first(noisy), arrays["addn/noisy"], 1e-6)
    for name in arrays.keys():  # noqa: SIM118
        if name.startswith("steps/"):
            steps = int(name.rsplit("_", 1)[1])
            yield compare(f"times of {steps} steps", inference_timesteps(ours, steps, "reference"), arrays[name], 0.0)


def ddim(golden: Golden) -> Iterator[Comparison]:
    """Compares the trajectory, the x0 predicted at each step, and the encoded conditions."""
    arrays, given = golden.arrays(), golden.config
    config, unet_params = load_unet(golden, golden.case["unet"], golden.other_case(golden.case["unet"]))
    configs, params = load_aux(golden, golden.case["aux"])
    params = {"unet": unet_params} | params
    guidance = reference_guidance(
        guidance_scale=given["guidance_scale"],
        img_free_guidance=given["img_free_guidance"],
        ti_free_guidance=given["ti_free_guidance"],
    )
    noise = video(arrays["in/noise"])
    batch, frames = noise.shape[:2]
    clips = lambda name: jnp.asarray(arrays[name]).reshape(batch, frames, *arrays[name].shape[1:])  # noqa: E731
    inputs = Inputs(
        text=jnp.asarray(arrays["in/y_cond"]),
        null_text=jnp.asarray(arrays["in/y_uncond"]),
        boxes=clips("in/boxes"),
        mask=clips("in/masks"),
        labels=clips("in/text_embeddings"),
        image_latent=picture(arrays["in/first_frame_latent"]),
        hint=picture(arrays["in/first_frame_latent"]),
    )
    programs = _programs(ModelConfig(**{"unet": config, **configs}), golden.policy)
    yield compare(
        "image tokens", np.repeat(programs.image_tokens(params, inputs), frames, axis=0), arrays["in/visual_feat"]
    )

    table = make_solver_table(
        NoiseSchedule(), sampler="ddim", num_steps=given["steps"], spacing="reference", eta=given["eta"]
    )
    yield compare("times", table.timesteps[: table.num_steps], arrays["out/timesteps"], 0.0)
    context, rows = programs.context(params, inputs), on_device(table)
    weights = dict(zip(guidance.branches, guidance.weights, strict=True))
    assert weights.keys() <= set(BRANCHES)
    weights = jnp.asarray([weights.get(branch, 0.0) for branch in BRANCHES])
    settings = {"weights": weights, "keys": jax.random.split(jax.random.key(0), batch)}
    state, worst_x, worst_x0 = initial_state(noise), 0.0, 0.0
    for index in range(table.num_steps):
        state = programs.step(params, state, context, rows, settings, jnp.int32(index))
        worst_x = max(worst_x, compare("", channels_first(state.latents), arrays["out/xt"][index]).error)
        worst_x0 = max(worst_x0, compare("", channels_first(state.previous_x0), arrays["out/pred_x0"][index]).error)
    yield Comparison(f"x of {table.num_steps} steps, worst", worst_x, LOOP_TOLERANCE)
    yield Comparison(f"x0 of {table.num_steps} steps, worst", worst_x0, LOOP_TOLERANCE)
    yield compare("final latents", channels_first(state.latents), arrays["out/final"], LOOP_TOLERANCE)


class _Programs(NamedTuple):
    image_tokens: Callable[..., Any]
    context: Callable[..., Any]
    step: Callable[..., Any]


@functools.cache
def _programs(config: ModelConfig, policy: Any) -> _Programs:
    """Returns a model's compiled programs; values that differ between files are arguments, so files share programs."""
    model = SMCDModel(config, policy)

    @jax.jit
    def context(params: dict, inputs: Inputs) -> tuple:
        return model.precompute(params, model.encode(params, branch_inputs(model, inputs, BRANCHES)))

    @jax.jit
    def step(params: dict, state: tuple, context: tuple, rows: tuple, settings: dict, start: jax.Array) -> tuple:
        predict = branch_outputs(model, params, context, len(BRANCHES))
        return sample(predict, state, table=rows, start=start, stop=start + 1, **settings)

    return _Programs(jax.jit(lambda params, inputs: model.encode(params, inputs).image), context, step)


RUNNERS = {"schedule": schedule, "ddim": ddim}
