"""Guidance branches of a video model: their inputs in one batch, and the network's output in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from smcd_jax.models.video_model import Context, Inputs, Params, VideoModel


def branch_inputs(model: VideoModel, inputs: Inputs, branches: Sequence[frozenset[str]]) -> Inputs:
    """Returns the inputs of every guidance branch in one batch ``[k b, ...]``, branch by branch."""
    count = jax.tree.leaves(inputs)[0].shape[0]

    def of_branch(branch: frozenset[str]) -> Inputs:
        return model.drop(inputs, {switch: jnp.full(count, switch in branch) for switch in model.switches})

    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *map(of_branch, branches))


def branch_outputs(
    model: VideoModel, params: Params, context: Context, branches: int, *, temporal: bool = True
) -> Callable[[Array, Array], Array]:
    """Returns ``predict(latents, timestep) -> [k b ...]`` for `smcd_jax.diffusion.sampling.sample`.

    Args:
        model: The model.
        params: Parameters of the components of stage "denoise".
        context: Result of `VideoModel.precompute` for the inputs of `branch_inputs`.
        branches: Number k of guidance branches.
        temporal: See `VideoModel.denoise`.
    """
    params = model.before_steps(params)

    def predict(latents: Array, timestep: Array) -> Array:
        batch = jnp.concatenate([latents] * branches)
        times = jnp.full((batch.shape[0],), timestep, jnp.float32)
        return model.denoise(params, batch, times, context, temporal=temporal).reshape(branches, *latents.shape)

    return predict
