"""Measures the speed of sampling on this machine: the pipeline's programs with random weights and inputs."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.registry import make_model, presets
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.random_params import random_like, random_params
from smcd_jax.pipeline.sampling_program import SamplingProgram, sampling_program
from smcd_jax.runtime.compilation import Compiled, enable_compile_cache
from smcd_jax.runtime.device_specs import measured_flops
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.flops import count_flops
from smcd_jax.runtime.kernel_profile import ProfileSummary, fusion_kinds, read_kernels, summarize
from smcd_jax.runtime.memory import peak_memory_bytes
from smcd_jax.sampling_options import refuse, whole


@dataclasses.dataclass(frozen=True)
class SamplingBenchmark:
    """Settings for `measure_sampling`.

    Attributes:
        preset: Name of the preset.
        dtype: Compute dtype, as for the pipeline.
        batch: Number of videos per call.
        num_inference_steps: Number of steps; None for the model's own.
        guidance_scale: Guidance scale of the prompt; 1 evaluates a single branch, None uses the model's own scale.
        steps_timed: Number of single steps measured, after one that warms up.
        whole_clip: Whether all steps are also run in one call.
        decode: Whether decoding is timed too.
        profile_steps: Number of steps to profile; 0 for no profile.

    Raises:
        SMCDError: A number is out of range.
    """

    preset: str = "tiny"
    dtype: str | None = None
    batch: int = 1
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    steps_timed: int = 3
    whole_clip: bool = False
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
        finite: Whether the latents after that call are finite.
        program_bytes: Device memory of the compiled program: arguments, outputs and temporaries.
        profile: Summary of a profile as JSON values; None if no profile was recorded.
    """

    preset: str
    dtype: str
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
) -> SamplingMeasures:
    """Times a large matrix product, the denoising program and the parts that the settings select.

    Args:
        settings: Settings of the benchmark.
        on_measured: Function called with the figures so far after each part.
        on_stage: Function called with one line of text before each part.

    Raises:
        SMCDError: The preset is unknown, or ``profile_steps`` is more than the number of steps.
    """
    enable_compile_cache()
    policy = ComputePolicy.for_device(settings.dtype)
    on_stage("timing a matrix product")
    matmul = measured_flops(policy.compute, precision=policy.precision)
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
    on_stage(f"compiling the denoising program and timing {settings.steps_timed} steps")
    measures = SamplingMeasures(
        preset=settings.preset,
        dtype=jnp.dtype(policy.compute).name,
        batch=settings.batch,
        branches=sampling.branches,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(sampling.args[0])),
        num_inference_steps=sampling.num_steps,
        steps_timed=settings.steps_timed,
        matmul_tflop_per_second=matmul / 1e12,
        device=device_summary(),
        **_step_measures(sampling, program, settings.steps_timed),
    )

    def measured(values: dict[str, Any]) -> None:
        nonlocal measures
        measures = dataclasses.replace(measures, **values)
        on_measured(measures)

    measured({})
    if settings.whole_clip:
        on_stage(f"timing {sampling.num_steps} steps in one call")
        measured(_clip_measures(lambda: program(*sampling.steps(0, sampling.num_steps))))
    if steps := settings.profile_steps:
        on_stage(f"recording a profile of {steps} steps")
        measured({"profile": _profiled(program, sampling.steps(0, steps), steps).as_dict()})
    if settings.decode:
        on_stage("timing the decoder")
        measured({"decode_seconds": _decode_seconds(settings.preset, policy)})
    return measures


def _step_measures(sampling: SamplingProgram, program: Compiled, steps_timed: int) -> dict[str, Any]:
    """Returns the figures of compile time, single steps, arithmetic and memory."""
    compiled = program.program(*sampling.steps(0, 1))
    times = _timed(lambda: program(*sampling.steps(0, 1)), steps_timed)
    sizes = compiled.memory_analysis()
    return {
        "compile_seconds": program.compile_seconds,
        "step_seconds": min(times),
        "median_step_seconds": statistics.median(times),
        # the number of steps is an argument, so the body of the loop counts once
        "tflop_per_step": count_flops(sampling.function, *sampling.steps(0, 1)) / 1e12,
        "peak_memory_bytes": peak_memory_bytes(),
        "program_bytes": {
            "arguments": sizes.argument_size_in_bytes,
            "outputs": sizes.output_size_in_bytes,
            "temporaries": sizes.temp_size_in_bytes,
        },
    }


def _clip_measures(run: Callable[[], SamplerState]) -> dict[str, Any]:
    start = time.perf_counter()
    state = jax.block_until_ready(run())
    seconds = time.perf_counter() - start
    finite = bool(jnp.isfinite(state.latents).all())
    return {"clip_loop_seconds": seconds, "finite": finite, "peak_memory_bytes": peak_memory_bytes()}


def _profiled(program: Compiled, args: tuple[Any, ...], steps: int) -> ProfileSummary:
    args = jax.block_until_ready(jax.device_put(args))  # so that no copy from the host is part of the profile
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's events would fill most of the file and slow the host down
    with tempfile.TemporaryDirectory(prefix="smcd-profile-") as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            jax.block_until_ready(program(*args))
        return summarize(read_kernels(folder), steps, fusions=fusion_kinds(program.program(*args).as_text()))


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
