"""Golden cases of DynamiCrafter's training step: conditions with dropout, loss and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.dynamicrafter.conversion.table import resampler_rows, unet_rows
from smcd_jax.models.dynamicrafter.model import Inputs
from smcd_jax.models.dynamicrafter.requests import DynamiCrafterModel
from smcd_jax.nn.networks import flatten
from smcd_jax.training.step import Noised, denoising_losses
from smcd_jax.weights.conversion_engine import to_torch
from tests.golden.case_dynamicrafter import PREFIXES, model_of, scaled_latents, see
from tests.golden.case_train import LOSS_TOLERANCE, worst_gradient
from tests.golden.comparison import Comparison, Golden, channels_first, compare, video


class _Step(NamedTuple):
    latents: jax.Array
    noised: Noised
    inputs: Inputs


def train_step(golden: Golden) -> Iterator[Comparison]:
    """Compares conditions after dropout, the loss, and the gradients of the UNet and the resampler."""
    arrays, given = golden.arrays(), golden.config
    model, params = model_of(given, golden, aux=True, interpolation=given["interp_mode"])
    step = _train_step_inputs(model, params, arrays, given)
    yield compare("latents", channels_first(step.latents), arrays["out/z"])
    trained = {name: params[name] for name in ("unet", "resampler")}
    tokens = model.encode(trained, step.inputs)
    yield compare("context", jnp.concatenate([tokens.text, tokens.image], axis=1), arrays["out/context"])
    yield compare("image latents", channels_first(step.inputs.image_latents), arrays["out/c_concat"])
    x = model.schedule.add_noise(step.latents, step.noised.noise, step.noised.timesteps)
    yield compare("noised", channels_first(x), arrays["out/x_noisy"])

    def loss(trained: Any, step: _Step) -> jax.Array:
        return denoising_losses(model, trained, step.latents, step.noised, inputs=step.inputs).mean()

    value, gradients = jax.jit(jax.value_and_grad(loss))(trained, step)
    yield compare("loss", value, arrays["out/loss"], LOSS_TOLERANCE)
    tables = {"unet": unet_rows(model.config.unet), "resampler": resampler_rows(model.config.resampler)}
    ours = {
        PREFIXES[name] + torch: array
        for name, rows in tables.items()
        for torch, array in to_torch(rows, flatten(gradients[name])).items()
    }
    yield worst_gradient(ours, arrays)


def _train_step_inputs(
    model: DynamiCrafterModel, params: Any, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]
) -> _Step:
    clips, noise, rate = video(arrays["in/video"]), video(arrays["in/noise"]), 2 * given["uncond_prob"]
    b = len(noise)
    latents = scaled_latents(model, params, clips.reshape(-1, *clips.shape[2:]), arrays["in/posterior_noise"])
    latents, frame = latents.reshape(noise.shape), int(arrays["in/cond_frame"])
    inputs = model.inputs(
        {
            "text": jnp.asarray(arrays["in/text"]),
            "null_text": jnp.asarray(arrays["in/null_text"]),
            "picture_tokens": see(model, params, clips[:, frame]),
            "null_picture_tokens": see(model, params, jnp.zeros_like(clips[:1, 0])),
            "latents": latents,
            "condition_frame": jnp.full(b, frame),
            "frame_rate": jnp.asarray(arrays["in/fs"], jnp.float32),
        }
    )
    keep = model.keep_at(jnp.asarray(arrays["in/drop_r"]), {"text": rate, "image_tokens": rate})
    return _Step(latents, Noised(noise, jnp.asarray(arrays["in/t"])), model.drop(inputs, keep))


RUNNERS = {"dc_train_step": train_step}
