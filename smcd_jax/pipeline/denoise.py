"""The denoising loop: one compiled program for any sampler and any number of steps, whole or a step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.diffusion.guidance import combine
from smcd_jax.diffusion.samplers import SamplerState, SolverTable, solver_step
from smcd_jax.models.registry import Network
from smcd_jax.pipeline.conditions import SamplingConditions


def predict(
    networks: Mapping[str, Network],
    params: Mapping[str, Any],
    latents: Float[Array, "b f h w c"],
    timestep: Float[Array, ""],
    conditions: SamplingConditions,
    *,
    branches: int,
    temporal: bool = True,
) -> Float[Array, "k b f h w c"]:
    """The network's output for every guidance branch, all in one batch."""
    frames = latents.shape[1]
    batch = jnp.concatenate([latents] * branches)
    times = jnp.full((batch.shape[0],), timestep, jnp.float32)

    control = None
    if conditions.controlnet is not None:
        net, tree = networks["controlnet"], params["controlnet"]
        control = net.apply({"params": tree}, batch, conditions.hint, times, conditions.controlnet, temporal=temporal)
    if conditions.image_latent is not None:
        still = jnp.repeat(conditions.image_latent[:, None], frames, axis=1).astype(batch.dtype)
        batch = jnp.concatenate([batch, still], axis=-1)
    how = {"control": control, "temporal": temporal}
    out = networks["unet"].apply({"params": params["unet"]}, batch, times, conditions.unet, **how)
    return out.reshape(branches, *latents.shape)


def denoise(
    networks: Mapping[str, Network],
    params: Mapping[str, Any],
    state: SamplerState,
    conditions: SamplingConditions,
    *,
    table: SolverTable,
    weights: Float[Array, " k"],
    keys: Array,
    start: Array,
    stop: Array,
    guidance_rescale: float = 0.0,
    temporal: bool = True,
) -> SamplerState:
    """Steps ``start`` to ``stop`` of the sampler; both may be traced, so one program serves any number of steps.

    Args:
        networks: by component name.
        params: parameter trees by the same names.
        state: of the sampler before step ``start``.
        conditions: of `encode_conditions`.
        table: the sampler.
        weights: of the guidance branches.
        keys: one random key per example, for samplers that add noise; noise of step i comes from fold_in(key, i).
        start: first step.
        stop: one past the last step.
        guidance_rescale: see `combine`.
        temporal: False leaves out every temporal layer, to sample pictures in the first stage of training.
    """

    def step(i: Array, state: SamplerState) -> SamplerState:
        timestep = jnp.asarray(table.timesteps)[i]
        how = {"branches": len(weights), "temporal": temporal}
        outputs = predict(networks, params, state.latents, timestep, conditions, **how)
        guided = combine(outputs, weights, guidance_rescale=guidance_rescale)
        shape = state.latents.shape[1:]
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys)
        return solver_step(table, i, state, guided, noise=noise)[0]

    return jax.lax.fori_loop(start, stop, step, state)
