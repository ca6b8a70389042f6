"""Guidance branches of a video model: their inputs in one batch, and the network's output in each of them.

Long videos are evaluated window by window (`smcd_jax.diffusion.windows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from smcd_jax.diffusion.windows import Windows
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

    The timestep is shared by all examples, or given per example.

    Args:
        model: The model.
        params: Parameters of the components of stage "denoise".
        context: Result of `VideoModel.precompute` for the inputs of `branch_inputs`.
        branches: Number k of guidance branches.
        temporal: See `VideoModel.denoise`.
    """
    return _outputs(model, model.before_steps(params), context, branches, temporal=temporal)


def windowed_branch_outputs(
    model: VideoModel, params: Params, contexts: Context, windows: Windows, branches: int
) -> Callable[[Array, Array], Array]:
    """Returns ``predict`` as `branch_outputs` does, but evaluates windows in turn and blends their outputs.

    Memory grows with the size of a window and is almost independent of the length of the video.

    Args:
        model: The model.
        params: Parameters of the components of stage "denoise".
        contexts: Results of `VideoModel.encode` for the inputs of `branch_inputs`, stacked over the windows on a new
            leading axis. The larger results of `VideoModel.precompute` are computed from them when needed.
        windows: Windows of the video.
        branches: Number k of guidance branches.
    """
    params = model.before_steps(params)

    def predict(latents: Array, timestep: Array) -> Array:
        def add_window(total: Array, part: tuple[Windows, Context]) -> tuple[Array, None]:
            window, context = part
            outputs = _outputs(model, params, model.precompute(params, context), branches)
            weights = window.weights.reshape(-1, *(1,) * (latents.ndim - 2))
            return total.at[:, :, window.frames].add(weights * outputs(latents[:, window.frames], timestep)), None

        total = jnp.zeros((branches, *latents.shape), jnp.float32)
        return jax.lax.scan(add_window, total, (windows, contexts))[0]

    return predict


def _outputs(
    model: VideoModel, params: Params, context: Context, branches: int, *, temporal: bool = True
) -> Callable[[Array, Array], Array]:
    def predict(latents: Array, timestep: Array) -> Array:
        batch = jnp.concatenate([latents] * branches)
        times = jnp.tile(jnp.broadcast_to(jnp.asarray(timestep, jnp.float32), len(latents)), branches)
        return model.denoise(params, batch, times, context, temporal=temporal).reshape(branches, *latents.shape)

    return predict
