"""How fast sampling is on this machine: the pipeline's own programs with random weights and inputs."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.guidance import Guidance, composed_guidance
from smcd_jax.diffusion.samplers import initial_state, make_solver_table
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.models.smcd.config import PRESETS, ModelConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, network
from smcd_jax.pipeline.conditions import ConditionInputs, encode_conditions, encode_tokens
from smcd_jax.pipeline.denoise import denoise, predict
from smcd_jax.runtime.compilation import Compiled, enable_compile_cache
from smcd_jax.runtime.device_specs import measured_flops
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.flops import count_flops
from smcd_jax.runtime.memory import peak_memory_bytes

ENCODERS = ("position_net", "image_encoder")


@dataclasses.dataclass(frozen=True)
class SamplingMeasures:
    """What one run found; seconds unless the name says otherwise."""

    preset: str
    dtype: str
    batch: int
    branches: int
    num_inference_steps: int
    steps_timed: int
    compile_seconds: float
    step_seconds: float
    median_step_seconds: float
    decode_seconds: float | None
    tflop_per_step: float
    matmul_tflop_per_second: float
    peak_memory_bytes: int
    device: dict[str, Any]

    @property
    def clip_seconds(self) -> float:
        """Denoising of one clip."""
        return self.step_seconds * self.num_inference_steps / self.batch

    @property
    def tflop_per_second(self) -> float:
        """Rate of a step."""
        return self.tflop_per_step / self.step_seconds

    @property
    def share_of_matmul(self) -> float:
        """That rate as a share of the device's own on a large matrix product."""
        return self.tflop_per_second / self.matmul_tflop_per_second

    def as_dict(self) -> dict[str, Any]:
        """All figures by name."""
        derived = ("clip_seconds", "tflop_per_second", "share_of_matmul")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def measure_sampling(
    preset: str,
    *,
    dtype: str | None = None,
    batch: int = 1,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    steps_timed: int = 3,
    decode: bool = True,
    say: Callable[[str], object] = lambda _: None,
) -> SamplingMeasures:
    """Runs the denoising program a few steps, the decoder once, and a large matrix product.

    Args:
        preset: "tiny" or "smcd".
        dtype: as for the pipeline.
        batch: videos at once.
        num_inference_steps: that a clip would take.
        guidance_scale: 1 is one branch, else two.
        steps_timed: steps measured after one that warms up.
        decode: also time the autoencoder.
        say: is told what is being done.
    """
    if batch < 1 or steps_timed < 1:
        raise SMCDError(f"batch is {batch} and steps_timed {steps_timed}; both must be 1 or more")
    enable_compile_cache()
    config, policy = PRESETS[preset], ComputePolicy.for_device(dtype)
    guidance = composed_guidance(guidance_scale=guidance_scale)
    names = ("unet", *ENCODERS)
    networks = {name: network(config.components()[name], policy) for name in names}
    say(f"random weights of {preset} in {jnp.dtype(policy.params).name}")
    params = {name: _random_params(config.components()[name], policy) for name in names}

    inputs = _random_inputs(config, batch)
    tokens = jax.jit(lambda params, inputs: encode_tokens(networks, params, inputs, guidance.branches))(params, inputs)
    params = {"unet": params["unet"]}
    conditions = jax.jit(lambda params, tokens: encode_conditions({"unet": networks["unet"]}, params, tokens))(
        params, tokens
    )
    step, args = _step(networks, guidance, params, conditions, inputs, num_inference_steps)
    say("compiling the denoising step")
    program = Compiled(step)
    program.program(*args)
    say(f"timing {steps_timed} steps")
    times = _timed(lambda: program(*args), steps_timed)
    say("timing the autoencoder and a matrix product" if decode else "timing a matrix product")
    decode_seconds = _decode_seconds(config, policy) if decode else None
    latents = jnp.zeros((batch, config.frames, *inputs.image_latent.shape[1:]))
    flops = count_flops(
        lambda params, x, conditions: predict(
            networks, params, x, jnp.float32(0), conditions, branches=len(guidance.branches)
        ),
        params,
        latents,
        conditions,
    )
    return SamplingMeasures(
        preset=preset,
        dtype=jnp.dtype(policy.compute).name,
        batch=batch,
        branches=len(guidance.branches),
        num_inference_steps=num_inference_steps,
        steps_timed=steps_timed,
        compile_seconds=program.compile_seconds,
        step_seconds=min(times),
        median_step_seconds=statistics.median(times),
        decode_seconds=decode_seconds,
        tflop_per_step=flops / 1e12,
        matmul_tflop_per_second=measured_flops(policy.compute, precision=policy.precision) / 1e12,
        peak_memory_bytes=peak_memory_bytes(),
        device=device_summary(),
    )


def _random_params(config: Any, policy: ComputePolicy) -> Any:
    rng = np.random.default_rng(0)

    def leaf(shape: jax.ShapeDtypeStruct) -> jax.Array:
        spread = np.float32(1 / np.sqrt(max(1, np.prod(shape.shape[:-1]))))
        return jax.device_put((rng.standard_normal(shape.shape, np.float32) * spread).astype(shape.dtype))

    return jax.tree.map(leaf, abstract_params(config, policy))


def _random_inputs(config: ModelConfig, batch: int) -> ConditionInputs:
    rng = np.random.default_rng(1)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))  # noqa: E731
    side = config.autoencoder.downscale
    length, width = config.text_encoder.length, config.unet.text_width
    boxes = (batch, config.frames, config.max_objects)
    return ConditionInputs(
        text=normal(batch, length, width),
        null_text=normal(batch, length, width),
        boxes=jnp.full((*boxes, 4), 0.5),
        mask=jnp.ones(boxes),
        labels=normal(*boxes, width),
        image_latent=normal(batch, config.height // side, config.width // side, config.autoencoder.latent_channels),
    )


def _step(
    networks: Any, guidance: Guidance, params: Any, conditions: Any, inputs: ConditionInputs, steps: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """One step as the pipeline runs it, and its arguments."""
    table = make_solver_table(NoiseSchedule(), sampler="ddim", num_steps=steps)
    rows = jax.tree.map(jnp.asarray, table._replace(num_steps=np.int32(table.num_steps)))
    batch, frames = inputs.boxes.shape[:2]
    noise = jax.random.normal(jax.random.key(0), (batch, frames, *inputs.image_latent.shape[1:]))
    keys = jax.random.split(jax.random.key(0), batch)

    def step(
        params: Any, state: Any, conditions: Any, rows: Any, weights: Any, keys: Any, start: Any, stop: Any
    ) -> Any:
        how = {"table": rows, "weights": weights, "keys": keys, "start": start, "stop": stop}
        return denoise(networks, params, state, conditions, **how)

    weights = jnp.asarray(guidance.weights, jnp.float32)
    return step, (params, initial_state(noise), conditions, rows, weights, keys, np.int32(0), np.int32(1))


def _timed(run: Callable[[], Any], times: int) -> list[float]:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds


def _decode_seconds(config: ModelConfig, policy: ComputePolicy) -> float:
    module = network(config.autoencoder, policy)
    params = _random_params(config.autoencoder, policy)
    side = config.autoencoder.downscale
    shape = (config.frames, config.height // side, config.width // side, config.autoencoder.latent_channels)
    program = Compiled(lambda params, z: module.apply({"params": params}, z, method="decode"))
    return min(_timed(lambda: program(params, jnp.ones(shape)), 1))
