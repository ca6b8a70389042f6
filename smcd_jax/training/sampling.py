"""Sampling from a run's parameters on its mesh, to show progress on validation clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from smcd_jax.diffusion.samplers import initial_state
from smcd_jax.diffusion.sampling import initial_noise, on_device, sample
from smcd_jax.media import to_uint8
from smcd_jax.models.branches import branch_inputs, branch_outputs
from smcd_jax.models.video_model import Params, VideoModel
from smcd_jax.runtime.sharding import batch_parts
from smcd_jax.sampling_options import SamplingOptions

Sampler = Callable[[Params, Mapping[str, Array], Array], tuple[Array, Array]]


def make_sampler(
    model: VideoModel, null: Mapping[str, Any], *, num_steps: int, guidance_scale: float, temporal: bool
) -> Sampler:
    """Returns ``sampler(params, batch, key) -> (latents, real latents)``, both ``[b, f, h, w, c]``, for `jax.jit`.

    Args:
        model: Model of the run.
        null: Arrays of the null prompt (`smcd_jax.training.data.null_arrays`).
        num_steps: Number of DDIM steps.
        guidance_scale: Guidance scale of the text.
        temporal: Whether temporal layers run.
    """
    options = model.resolve(SamplingOptions(num_inference_steps=num_steps, guidance_scale=guidance_scale))
    guidance, table = model.guidance(options.as_dict()), model.solver_table(options)

    def sampler(params: Params, batch: Mapping[str, Array], key: Array) -> tuple[Array, Array]:
        features = model.features(params, {**batch, **jax.tree.map(jnp.asarray, dict(null))}, key)
        real = features[model.target].astype(jnp.float32)
        inputs = branch_inputs(model, model.inputs(features), guidance.branches)
        context = model.precompute(params, model.encode(params, inputs))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(real))
        predict = branch_outputs(model, params, context, len(guidance.branches), temporal=temporal)
        state = sample(
            predict,
            initial_state(initial_noise(keys, real.shape[1:], num_rows=table.timesteps.size)),
            table=on_device(table),
            weights=jnp.asarray(guidance.weights, jnp.float32),
            keys=keys,
            start=0,
            stop=table.num_steps,
            guidance_rescale=options.guidance_rescale,
        )
        return state.latents, real

    return sampler


def sample_rows(samples: int, mesh: Mesh) -> int:
    """Returns the batch size for ``samples`` videos: rounded up so that the mesh divides it."""
    return batch_parts(mesh) * -(-samples // batch_parts(mesh))


def decode(model: VideoModel, params: Params, latents: Float[Array, "b f h w c"]) -> UInt8[np.ndarray, "b f hh ww 3"]:
    """Decodes scaled latents to frames, one video at a time; every process returns all videos.

    Args:
        model: Model of the run.
        params: Parameters of the components of stage "decode".
        latents: Latents, multiplied by the scaling factor.
    """
    frames = np.arange(latents.shape[1], dtype=np.int32)
    program = jax.jit(lambda params, video: model.render(params, model.decode(params, video[None], None), None, frames))
    return np.concatenate([to_uint8(np.asarray(program(params, video))) for video in on_host(latents)])


def on_host(array: Any) -> np.ndarray:
    """Returns the full value of a global array as a NumPy array, on every process."""
    if jax.process_count() == 1:
        return np.asarray(array)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(array, tiled=True))
