"""Videos of a run's own parameters on its own mesh: what the model makes of validation clips, for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from smcd_jax.diffusion.guidance import composed_guidance
from smcd_jax.diffusion.samplers import initial_state, make_solver_table
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.media import to_uint8
from smcd_jax.models.registry import Params, network
from smcd_jax.pipeline.conditions import ConditionInputs, encode_conditions, encode_tokens
from smcd_jax.pipeline.denoise import denoise
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.objective import encode_latents, encode_texts
from smcd_jax.training.state import components, policy

Sampler = Callable[[Params, Mapping[str, Array], Array], tuple[Array, Array]]


def make_sampler(config: TrainConfig, null_text: np.ndarray, *, platform: str | None = None) -> Sampler:
    """``sample(params, batch, key) -> (latents, real latents)``, both ``[b, f, h, w, c]``: pure, to be jitted.

    Args:
        config: of the run; says how many steps and at which guidance scale.
        null_text: embedding [l, d] or token ids [l] (`smcd_jax.training.data.null_text`).
        platform: of `smcd_jax.training.state.policy`.
    """
    networks = {name: network(part, policy(config, platform)) for name, part in components(config).items()}
    guidance = composed_guidance(guidance_scale=config.run.guidance_scale)
    schedule = NoiseSchedule(prediction_type=config.model.prediction_type)
    table = make_solver_table(schedule, sampler="ddim", num_steps=config.run.sample_steps)

    def sample(params: Params, batch: Mapping[str, Array], key: Array) -> tuple[Array, Array]:
        real = encode_latents(networks, params, batch, jax.random.fold_in(key, 0))
        text, labels = encode_texts(networks, params, batch)
        null = jnp.asarray(null_text)
        if null.ndim == 1:
            null = networks["text_encoder"].apply({"params": params["text_encoder"]}, null[None])[0]
        inputs = ConditionInputs(
            text=text,
            null_text=jnp.broadcast_to(null.astype(text.dtype), text.shape),
            boxes=batch["boxes"],
            mask=batch["mask"],
            labels=jnp.repeat(labels[:, None], real.shape[1], axis=1),
            image_latent=real[:, 0],
        )
        conditions = encode_conditions(networks_of_loop, params, encode_tokens(encoders, params, inputs, branches))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(real))
        noise = jax.vmap(lambda key: jax.random.normal(key, real.shape[1:]))(keys)
        state = denoise(
            networks_of_loop,
            params,
            initial_state(noise),
            conditions,
            table=jax.tree.map(jnp.asarray, table._replace(num_steps=np.int32(table.num_steps))),
            weights=jnp.asarray(guidance.weights, jnp.float32),
            keys=keys,
            start=np.int32(0),
            stop=np.int32(config.run.sample_steps),
            temporal=config.temporal,
        )
        return state.latents, real

    branches = guidance.branches
    networks_of_loop = {name: net for name, net in networks.items() if name in ("unet", "controlnet")}
    encoders = {name: net for name, net in networks.items() if name in ("position_net", "image_encoder")}
    return sample


def decode(config: TrainConfig, params: Params, latents: Float[Array, "b f h w c"]) -> UInt8[np.ndarray, "b f hh ww 3"]:
    """Frames of scaled latents through the autoencoder, one clip after the other; every process gets all of them."""
    module = network(config.model.autoencoder, policy(config))
    program = jax.jit(lambda params, clip: module.apply({"params": params}, clip, method="decode"))
    clips = [to_uint8(np.asarray(program(params, clip))) for clip in on_host(latents)]
    return np.stack(clips)


def on_host(array: Any) -> np.ndarray:
    """A global array as NumPy, on every process."""
    if jax.process_count() == 1:
        return np.asarray(array)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(array, tiled=True))
