"""Programs of the pipeline for a preset: to run with random weights, or to compile for devices that are absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from smcd_jax.diffusion.samplers import SamplerState, initial_state
from smcd_jax.diffusion.sampling import on_device, sample
from smcd_jax.models.branches import branch_inputs, branch_outputs
from smcd_jax.models.registry import make_model, presets
from smcd_jax.models.video_model import VideoModel
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params
from smcd_jax.nn.random_params import random_like, random_params
from smcd_jax.runtime.compilation import compiler_options
from smcd_jax.runtime.topology import Topology
from smcd_jax.sampling_options import SamplingOptions


@dataclasses.dataclass(frozen=True)
class SamplingProgram:
    """The denoising program of the pipeline and its arguments, as arrays or as `jax.ShapeDtypeStruct`.

    Attributes:
        function: Runs the steps from ``start`` up to ``stop``.
        args: All arguments of ``function`` except the last two, ``start`` and ``stop``.
        branches: Number of guidance branches.
        num_steps: Number of steps of a video.
    """

    function: Callable[..., SamplerState]
    args: tuple[Any, ...]
    branches: int
    num_steps: int

    def steps(self, start: int, stop: int) -> tuple[Any, ...]:
        """Returns the arguments that run steps ``start`` to ``stop``."""
        return (*self.args, np.int32(start), np.int32(stop))


def sampling_program(
    preset: str,
    policy: ComputePolicy,
    *,
    batch: int = 1,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    abstract: bool = False,
) -> SamplingProgram:
    """Returns the program that `measure_sampling` measures, with random weights, conditions and noise.

    Args:
        preset: Name of the preset.
        policy: Dtypes and kernels.
        batch: Number of videos.
        num_inference_steps: See `SamplingBenchmark`.
        guidance_scale: See `SamplingBenchmark`.
        abstract: Whether weights, conditions and noise are only shapes, for compiling on a machine without the device.
    """
    model = make_model(presets()[preset], policy)
    options = SamplingOptions(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
    options = model.resolve(options)
    guidance = model.guidance(options.as_dict())
    shapes = {name: abstract_params(part.config, policy) for name, part in model.components.items()}
    features = _feature_shapes(model, batch)

    def context_of(params: Any, features: Any) -> Any:
        inputs = branch_inputs(model, model.inputs(features), guidance.branches)
        return model.precompute(params, model.encode(params, inputs))

    context = jax.eval_shape(context_of, shapes, features)
    latents = jax.ShapeDtypeStruct(features[model.target].shape, jnp.float32)
    state = jax.eval_shape(initial_state, latents)
    denoisers = {name: model.components[name].config for name in model.in_stage("denoise")}
    params = {name: shapes[name] for name in denoisers}
    if not abstract:
        params = {name: random_params(config, policy) for name, config in denoisers.items()}
        context = random_like(context)
        state = initial_state(random_like(latents))
    solver_table = model.solver_table(options)
    table = on_device(solver_table)
    weights, keys = jnp.asarray(guidance.weights, jnp.float32), jax.random.split(jax.random.key(0), batch)

    def run(
        params: Any, state: Any, context: Any, table: Any, weights: Any, keys: Any, start: Any, stop: Any
    ) -> SamplerState:
        predict = branch_outputs(model, params, context, len(guidance.branches))
        settings = {"table": table, "weights": weights, "keys": keys, "guidance_rescale": options.guidance_rescale}
        return sample(predict, state, start=start, stop=stop, **settings)

    # Jitted here, so that compiling the program and counting its operations share one trace.
    args = (params, state, context, table, weights, keys)
    return SamplingProgram(jax.jit(run), args, len(guidance.branches), solver_table.num_steps)


def compile_sampling(
    preset: str, topology: Topology, *, dtype: str | None = None, batch: int = 1, guidance_scale: float = 7.5
) -> jax.stages.Compiled:
    """Compiles the denoising program for the first device of a topology, which need not be present.

    Args:
        preset: Name of the preset.
        topology: Devices, from `smcd_jax.runtime.topology.find_topology`.
        dtype: Compute dtype, as for the pipeline.
        batch: Number of videos.
        guidance_scale: Guidance scale of the prompt; 1 evaluates one branch, any other value two.
    """
    policy = ComputePolicy.for_device(dtype, topology.platform)
    program = sampling_program(preset, policy, batch=batch, guidance_scale=guidance_scale, abstract=True)
    return _compile_for(topology, program.function, *program.steps(0, 1))


def compile_decoding(
    preset: str, topology: Topology, *, dtype: str | None = None, batch: int = 1, chunk_size: int | None = None
) -> jax.stages.Compiled:
    """Compiles the decoder for the first device of a topology, as `compile_sampling` does the denoising program.

    Args:
        preset: Name of the preset.
        topology: Devices.
        dtype: Compute dtype, as for the pipeline.
        batch: Number of videos.
        chunk_size: Number of frames decoded at once; None for the model's own.
    """
    policy = ComputePolicy.for_device(dtype, topology.platform)
    model = make_model(presets()[preset], policy)
    chunk = model.resolve(SamplingOptions(decode_chunk_size=chunk_size)).decode_chunk_size
    params = {name: abstract_params(model.components[name].config, policy) for name in model.in_stage("decode")}
    latents = model.feature_shapes(batch, model.config.frames)[model.target]
    frames = jax.ShapeDtypeStruct((min(max(1, chunk // batch), model.config.frames),), jnp.int32)

    def decode(params: Any, latents: Any, frames: Any) -> jax.Array:
        return model.render(params, model.decode(params, latents, None), None, frames)

    return _compile_for(topology, jax.jit(decode), params, latents, frames)


def weight_bytes(preset: str, topology: Topology, *, dtype: str | None = None) -> dict[str, int]:
    """Returns the size in bytes of the weights of each component that sampling reads."""
    policy = ComputePolicy.for_device(dtype, topology.platform)
    model = make_model(presets()[preset], policy)
    used = {name: part for name, part in model.components.items() if part.stages}
    shapes = {name: jax.tree.leaves(abstract_params(part.config, policy)) for name, part in used.items()}
    return {name: sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) for name, leaves in shapes.items()}


def _compile_for(topology: Topology, function: Any, *args: Any) -> jax.stages.Compiled:
    device = SingleDeviceSharding(topology.devices[0])
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)  # noqa: E731
    return function.lower(*jax.tree.map(struct, args)).compile(compiler_options(topology.platform))


def _feature_shapes(model: VideoModel, batch: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the features of a batch to sample, including those of dropped conditions."""
    shapes = model.feature_shapes(batch, model.config.frames)
    others = [step for step in model.feature_steps if step.name not in shapes]
    return shapes | {step.name: jax.ShapeDtypeStruct((batch, *step.shape), jnp.float32) for step in others}
