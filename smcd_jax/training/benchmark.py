"""Speed and memory of a run's training step on this machine, with random weights and batches."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.nn.networks import flatten
from smcd_jax.nn.random_params import random_of
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.device_specs import measured_flops, peak_flops
from smcd_jax.runtime.device_turns import DeviceTurns
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.kernel_profile import record
from smcd_jax.runtime.memory import peak_memory_bytes
from smcd_jax.runtime.sharding import make_mesh
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.state import TrainState, policy
from smcd_jax.training.step import TrainProgram


@dataclasses.dataclass(frozen=True)
class TrainingMeasures:
    """Results of one benchmark, over all devices together.

    Attributes:
        config: Name of the config.
        inputs: Value of ``data.inputs``.
        dtype: Compute dtype.
        remat: Value of ``remat``.
        batch: Batch size.
        mesh: Size of each mesh axis.
        steps_timed: Number of timed steps.
        compile_seconds: Compile time.
        step_seconds: Time of the fastest step.
        median_step_seconds: Median time of a step.
        tflop_per_step: TFLOP of a step's matrix products and convolutions.
        peak_tflop_per_second: Peak TFLOP/s of the devices.
        peak_source: Source of the peak: "stated by its vendor" or "a matrix product in this run".
        peak_memory_bytes: Peak memory of one device, or of the process if devices do not report theirs.
        program_bytes: Memory of the compiled step on one device: arguments, outputs and temporaries. The step updates
            the state in place, so most of the outputs are part of the arguments.
        device: Devices and versions (`device_summary`).
        profile: Summary of a profile as JSON values; None if no profile was recorded.
    """

    config: str
    inputs: str
    dtype: str
    remat: str
    batch: int
    mesh: dict[str, int]
    steps_timed: int
    compile_seconds: float
    step_seconds: float
    median_step_seconds: float
    tflop_per_step: float
    peak_tflop_per_second: float
    peak_source: str
    peak_memory_bytes: int
    program_bytes: dict[str, int]
    device: dict[str, Any]
    profile: dict[str, Any] | None = None

    @property
    def clips_per_second(self) -> float:
        """Clips per second at the fastest step."""
        return self.batch / self.step_seconds

    @property
    def tflop_per_second(self) -> float:
        """TFLOP/s at the fastest step, without recomputation by rematerialization."""
        return self.tflop_per_step / self.step_seconds

    @property
    def share_of_peak(self) -> float:
        """`tflop_per_second` as a share of the peak, 0..1."""
        return self.tflop_per_second / self.peak_tflop_per_second

    def as_dict(self) -> dict[str, Any]:
        """Returns all values by name."""
        derived = ("clips_per_second", "tflop_per_second", "share_of_peak")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def measure_training(
    config: TrainConfig,
    *,
    steps_timed: int = 5,
    profile_steps: int = 0,
    say: Callable[[str], object] = lambda _: None,
    on_measured: Callable[[dict[str, Any]], object] = lambda _: None,
    turns: DeviceTurns | None = None,
) -> TrainingMeasures:
    """Times the training step of a config on all devices of this machine.

    Args:
        config: Config of a run; the folders that it names are not read.
        steps_timed: Number of timed steps after one warm-up step, at least 1.
        profile_steps: Number of steps to profile; 0 for no profile.
        say: Function that prints one line of progress.
        on_measured: Function called with the figures so far by name, after compilation, timed steps and profile.
        turns: Turns on the devices, if other processes use them too.

    Raises:
        SMCDError: A number of steps is out of range, or the mesh does not match the devices or divide the batch.
    """
    for name, number, least in (("steps_timed", steps_timed, 1), ("profile_steps", profile_steps, 0)):
        if number < least:
            raise SMCDError(f"{name} must be at least {least}, got {number}", argument=name, value=number)
    enable_compile_cache()
    turns, mesh = turns or DeviceTurns(), make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        with turns.compiling():
            program = TrainProgram(config, mesh)
            step, compiled = _compiled(program, say)
        on_measured(compiled)
        with turns.measuring():
            measures = _timed(program, step, compiled | {"steps_timed": steps_timed}, profile_steps, say, on_measured)
    return measures


def _compiled(program: TrainProgram, say: Callable[[str], object]) -> tuple[Any, dict[str, Any]]:
    """Returns the compiled step and the figures that are known without running it."""
    say("compiling the train step")
    start = time.perf_counter()
    step = program.compile()
    compile_seconds = time.perf_counter() - start
    _compile_random(program)
    sizes, config = step.memory_analysis(), program.config
    return step, {
        "config": config.name,
        "inputs": config.data.inputs,
        "dtype": policy(config, program.platform).compute.name,
        "remat": config.remat,
        "batch": config.data.batch_size,
        "mesh": dict(program.mesh.shape),
        "compile_seconds": compile_seconds,
        "tflop_per_step": program.flops() / 1e12,
        "program_bytes": {
            "arguments": sizes.argument_size_in_bytes,
            "outputs": sizes.output_size_in_bytes,
            "temporaries": sizes.temp_size_in_bytes,
        },
        "device": device_summary(),
    }


def _compile_random(program: TrainProgram) -> None:
    """Makes one array of each shape, so that the programs for random parameters are compiled before the turn begins."""
    leaves = flatten(program.state.params) | flatten(program.frozen)
    for path, leaf in {(leaf.shape, leaf.dtype): (path, leaf) for path, leaf in leaves.items()}.values():
        random_of({path: leaf})


def _timed(
    program: TrainProgram,
    step: Any,
    compiled: dict[str, Any],
    profile_steps: int,
    say: Callable[[str], object],
    on_measured: Callable[[dict[str, Any]], object],
) -> TrainingMeasures:
    peak, source = _peak(program, say)
    say("creating random weights and a random batch")
    state, frozen, batch = random_state(program), random_of(program.frozen), random_batch(program)
    say(f"timing {compiled['steps_timed']} steps")
    times = []
    for _ in range(1 + compiled["steps_timed"]):
        start = time.perf_counter()
        state = jax.block_until_ready(step(state, frozen, batch))
        times.append(time.perf_counter() - start)
    measures = TrainingMeasures(
        **compiled,
        step_seconds=min(times[1:]),
        median_step_seconds=statistics.median(times[1:]),
        peak_tflop_per_second=peak / 1e12,
        peak_source=source,
        peak_memory_bytes=peak_memory_bytes(),
    )
    on_measured(measures.as_dict())
    if not profile_steps:
        return measures

    def run() -> TrainState:
        nonlocal state
        for _ in range(profile_steps):
            state = step(state, frozen, batch)
        return state

    say(f"recording a profile of {profile_steps} steps")
    measures = dataclasses.replace(measures, profile=record(run, profile_steps, hlo=step.as_text()).as_dict())
    on_measured(measures.as_dict())
    return measures


def random_state(program: TrainProgram) -> TrainState:
    """Returns the state before the first step, with random parameters."""
    return program.state_from(random_of(program.state.params))


def random_batch(program: TrainProgram) -> dict[str, jax.Array]:
    """Returns a batch of noise with every object present in the middle of the picture."""
    rng = np.random.default_rng(1)

    def leaf(name: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if name == "boxes":
            made = np.broadcast_to(np.float32([0.25, 0.25, 0.75, 0.75]), shape.shape)
        elif name == "mask":
            made = np.ones(shape.shape, np.float32)
        elif jnp.issubdtype(shape.dtype, jnp.integer):
            made = rng.integers(0, 256, shape.shape).astype(shape.dtype)
        else:
            made = rng.standard_normal(shape.shape, np.float32)
        return _place(made, shape.sharding)

    return {name: leaf(name, shape) for name, shape in program.batch.items()}


def _place(made: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    return jax.make_array_from_callback(made.shape, sharding, lambda index: made[index])


def _peak(program: TrainProgram, say: Callable[[str], object]) -> tuple[float, str]:
    compute, devices = policy(program.config, program.platform), program.mesh.devices
    stated = peak_flops(devices.flat[0].device_kind, compute.compute)
    if stated is not None:
        return stated * devices.size, "stated by its vendor"
    say("timing a matrix product")
    # Fake CPU devices share the same cores.
    alike = 1 if program.platform == "cpu" else devices.size
    return alike * measured_flops(compute.compute, precision=compute.precision), "a matrix product in this run"
