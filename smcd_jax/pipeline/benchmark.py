"""Measures the speed of sampling on this machine: the pipeline's programs with random weights and inputs."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.samplers import SamplerState
from smcd_jax.models.registry import make_model, presets
from smcd_jax.nn.attention import Implementation
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.random_params import random_like, random_params
from smcd_jax.pipeline.sampling_program import SamplingProgram, sampling_program
from smcd_jax.runtime.compilation import Compiled, enable_compile_cache
from smcd_jax.runtime.device_specs import measured_flops
from smcd_jax.runtime.device_turns import DeviceTurns
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.flops import count_flops
from smcd_jax.runtime.kernel_profile import record
from smcd_jax.runtime.memory import peak_memory_bytes
from smcd_jax.sampling_options import refuse, whole

_PLATFORMS = {"cudnn": "gpu", "flash": "tpu"}  # attention kernels that only one kind of device has


@dataclasses.dataclass(frozen=True)
class SamplingBenchmark:
    """Settings for `measure_sampling`.

    Attributes:
        preset: Name of the preset.
        dtype: Compute dtype, as for the pipeline.
        attention: Attention kernels, as in `ComputePolicy`; None for those that the pipeline uses on this device.
        batch: Number of videos per call.
        num_inference_steps: Number of steps; None for the model's own.
        guidance_scale: Guidance scale of the prompt; 1 evaluates a single branch, None uses the model's own scale.
        steps_timed: Number of single steps measured, after one that warms up.
        whole_clip: Whether all steps are also run in one call.
        step_calls: Whether all steps are also run in a call each.
        decode: Whether decoding is timed too.
        profile_steps: Number of steps to profile; 0 for no profile.

    Raises:
        SMCDError: A number is out of range.
    """

    preset: str = "tiny"
    dtype: str | None = None
    attention: Implementation | None = None
    batch: int = 1
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    steps_timed: int = 3
    whole_clip: bool = False
    step_calls: bool = False
    decode: bool = True
    profile_steps: int = 0

    def __post_init__(self):
        for name, least in {"batch": 1, "steps_timed": 1, "profile_steps": 0}.items():
            whole(least)(name, getattr(self, name))


@dataclasses.dataclass(frozen=True)
class SamplingMeasures:
    """Results of one run, in seconds unless the name states another unit.

    Attributes:
        clip_loop_seconds: Duration of all steps of ``batch`` videos in one call; None if it was not measured.
        clip_calls_seconds: Duration of the same steps with a call for each; None if it was not measured.
        finite: Whether the latents after the last step are finite.
        program_bytes: Device memory of the compiled program: arguments, outputs and temporaries.
        profile: Summary of a profile as JSON values; None if no profile was recorded.
    """

    preset: str
    dtype: str
    attention: str
    batch: int
    branches: int
    parameters: int
    num_inference_steps: int
    steps_timed: int
    compile_seconds: float
    step_seconds: float
    median_step_seconds: float
    tflop_per_step: float
    matmul_tflop_per_second: float
    peak_memory_bytes: int
    program_bytes: dict[str, int]
    device: dict[str, Any]
    clip_loop_seconds: float | None = None
    clip_calls_seconds: float | None = None
    finite: bool | None = None
    decode_seconds: float | None = None
    profile: dict[str, Any] | None = None

    @property
    def clip_seconds(self) -> float:
        """Denoising time of one video: measured, or estimated from the fastest step."""
        loop = self.clip_loop_seconds
        return (self.step_seconds * self.num_inference_steps if loop is None else loop) / self.batch

    @property
    def tflop_per_second(self) -> float:
        """Arithmetic rate of the fastest step."""
        return self.tflop_per_step / self.step_seconds

    @property
    def share_of_matmul(self) -> float:
        """Arithmetic rate as a share of that of a large matrix product."""
        return self.tflop_per_second / self.matmul_tflop_per_second

    @property
    def clip_share_of_matmul(self) -> float:
        """Arithmetic rate over all steps of a video, as a share of that of a large matrix product."""
        rate = self.tflop_per_step * self.num_inference_steps / (self.clip_seconds * self.batch)
        return rate / self.matmul_tflop_per_second

    def as_dict(self) -> dict[str, Any]:
        """Returns all figures by name."""
        derived = ("clip_seconds", "tflop_per_second", "share_of_matmul", "clip_share_of_matmul")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def measure_sampling(
    settings: SamplingBenchmark,
    *,
    on_measured: Callable[[SamplingMeasures], object] = lambda _: None,
    on_stage: Callable[[str], object] = lambda _: None,
    turns: DeviceTurns | None = None,
) -> SamplingMeasures:
    """Times a large matrix product, the denoising program and the parts that the settings select.

    Args:
        settings: Settings of the benchmark.
        on_measured: Function called with the figures so far after each part.
        on_stage: Function called with one line of text before each part.
        turns: Turns on the device, if other processes use it too.

    Raises:
        SMCDError: The preset is unknown, the attention kernels are for another kind of device, or ``profile_steps`` is
            more than the number of steps.
    """
    enable_compile_cache()
    turns = turns or DeviceTurns()
    policy = ComputePolicy.for_device(settings.dtype)
    if settings.attention is not None:
        needed = _PLATFORMS.get(settings.attention, jax.default_backend())
        if needed != jax.default_backend() and policy.compute == jnp.bfloat16:  # float32 goes to XLA everywhere
            refuse("attention", settings.attention, f"be xla or mapped on {jax.default_backend().upper()}")
        policy = dataclasses.replace(policy, attention=settings.attention)
    with turns.compiling():
        sampling, program, compiled = _compiled(settings, policy, on_stage)
    with turns.measuring():
        return _measured(settings, policy, sampling, program, compiled, on_measured=on_measured, on_stage=on_stage)


def _compiled(
    settings: SamplingBenchmark, policy: ComputePolicy, on_stage: Callable[[str], object]
) -> tuple[SamplingProgram, Compiled, dict[str, Any]]:
    """Returns the program with its arguments, the same compiled, and the figures known without running it."""
    on_stage(f"making random weights of {settings.preset} in {jnp.dtype(policy.params).name}")
    sampling = sampling_program(
        settings.preset,
        policy,
        batch=settings.batch,
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
    )
    if settings.profile_steps > sampling.num_steps:
        refuse("profile_steps", settings.profile_steps, f"be at most the number of steps ({sampling.num_steps})")
    program = Compiled(sampling.function)
    on_stage("compiling the denoising program")
    sizes = program.program(*sampling.steps(0, 1)).memory_analysis()
    return (
        sampling,
        program,
        {
            "preset": settings.preset,
            "dtype": jnp.dtype(policy.compute).name,
            "attention": policy.attention,
            "batch": settings.batch,
            "branches": sampling.branches,
            "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(sampling.args[0])),
            "num_inference_steps": sampling.num_steps,
            "compile_seconds": program.compile_seconds,
            # the number of steps is an argument, so the body of the loop counts once
            "tflop_per_step": count_flops(sampling.function, *sampling.steps(0, 1)) / 1e12,
            "program_bytes": {
                "arguments": sizes.argument_size_in_bytes,
                "outputs": sizes.output_size_in_bytes,
                "temporaries": sizes.temp_size_in_bytes,
            },
            "device": device_summary(),
        },
    )


def _measured(
    settings: SamplingBenchmark,
    policy: ComputePolicy,
    sampling: SamplingProgram,
    program: Compiled,
    compiled: dict[str, Any],
    *,
    on_measured: Callable[[SamplingMeasures], object],
    on_stage: Callable[[str], object],
) -> SamplingMeasures:
    on_stage("timing a matrix product")
    matmul = measured_flops(policy.compute, precision=policy.precision)
    on_stage(f"timing {settings.steps_timed} steps")
    times = _timed(lambda: program(*sampling.steps(0, 1)), settings.steps_timed)
    measures = SamplingMeasures(
        **compiled,
        steps_timed=settings.steps_timed,
        step_seconds=min(times),
        median_step_seconds=statistics.median(times),
        matmul_tflop_per_second=matmul / 1e12,
        peak_memory_bytes=peak_memory_bytes(),
    )

    def measured(values: dict[str, Any]) -> None:
        nonlocal measures
        measures = dataclasses.replace(measures, **values)
        on_measured(measures)

    measured({})
    if settings.whole_clip:
        on_stage(f"timing {sampling.num_steps} steps in one call")
        measured(_clip_measures("clip_loop_seconds", lambda: program(*sampling.steps(0, sampling.num_steps))))
    if settings.step_calls:
        on_stage(f"timing {sampling.num_steps} steps in a call each")
        measured(_clip_measures("clip_calls_seconds", lambda: _step_calls(sampling, program)))
    if steps := settings.profile_steps:
        on_stage(f"recording a profile of {steps} steps")
        # on the device, so that no copy from the host is part of the profile
        args = jax.block_until_ready(jax.device_put(sampling.steps(0, steps)))
        found = record(lambda: program(*args), steps, hlo=program.program(*args).as_text())
        measured({"profile": found.as_dict()})
    if settings.decode:
        on_stage("timing the decoder")
        measured({"decode_seconds": _decode_seconds(settings.preset, policy)})
    return measures


def _clip_measures(name: str, run: Callable[[], SamplerState]) -> dict[str, Any]:
    start = time.perf_counter()
    state = jax.block_until_ready(run())
    seconds = time.perf_counter() - start
    finite = bool(jnp.isfinite(state.latents).all())
    return {name: seconds, "finite": finite, "peak_memory_bytes": peak_memory_bytes()}


def _step_calls(sampling: SamplingProgram, program: Compiled) -> SamplerState:
    """Runs all steps with a call for each, which starts before the one before it has finished."""
    params, state, *others = sampling.args
    for step in range(sampling.num_steps):
        state = program(params, state, *others, np.int32(step), np.int32(step + 1))
    return state


def _timed(run: Callable[[], Any], times: int) -> list[float]:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds


def _decode_seconds(preset: str, policy: ComputePolicy) -> float:
    model = make_model(presets()[preset], policy)
    params = {name: random_params(model.components[name].config, policy) for name in model.in_stage("decode")}
    latents = random_like(model.feature_shapes(1, model.config.frames)[model.target])
    frames = np.arange(model.config.frames, dtype=np.int32)
    program = Compiled(lambda params, z: model.render(params, model.decode(params, z, None), None, frames))
    return min(_timed(lambda: program(params, latents), 1))
