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
from smcd_jax.runtime.compilation import enable_compile_cache
from smcd_jax.runtime.device_specs import measured_flops, peak_flops
from smcd_jax.runtime.devices import device_summary
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
        device: Devices and versions (`device_summary`).
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
    device: dict[str, Any]

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
    config: TrainConfig, *, steps_timed: int = 5, say: Callable[[str], object] = lambda _: None
) -> TrainingMeasures:
    """Times the training step of a config on all devices of this machine.

    Args:
        config: Config of a run; the folders that it names are not read.
        steps_timed: Number of timed steps after one warm-up step, at least 1.
        say: Function that prints one line of progress.

    Raises:
        SMCDError: `steps_timed` is out of range, or the mesh does not match the devices or divide the batch.
    """
    if steps_timed < 1:
        raise SMCDError(f"steps_timed must be at least 1, got {steps_timed}", argument="steps_timed", value=steps_timed)
    enable_compile_cache()
    mesh = make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        program = TrainProgram(config, mesh)
        say("compiling the train step")
        start = time.perf_counter()
        step = program.compile()
        compile_seconds = time.perf_counter() - start
        say("creating random weights and a random batch")
        state, frozen, batch = random_state(program), _random_weights(program.frozen), random_batch(program)
        say(f"timing {steps_timed} steps")
        times = []
        for _ in range(1 + steps_timed):
            start = time.perf_counter()
            state = jax.block_until_ready(step(state, frozen, batch))
            times.append(time.perf_counter() - start)
        memory = peak_memory_bytes()
        del state, frozen, batch
        peak, source = _peak(program, say)
    return TrainingMeasures(
        config=config.name,
        inputs=config.data.inputs,
        dtype=policy(config, program.platform).compute.name,
        remat=config.remat,
        batch=config.data.batch_size,
        mesh=dict(mesh.shape),
        steps_timed=steps_timed,
        compile_seconds=compile_seconds,
        step_seconds=min(times[1:]),
        median_step_seconds=statistics.median(times[1:]),
        tflop_per_step=program.flops() / 1e12,
        peak_tflop_per_second=peak / 1e12,
        peak_source=source,
        peak_memory_bytes=memory,
        device=device_summary(),
    )


def random_state(program: TrainProgram) -> TrainState:
    """Returns the state before the first step, with random parameters."""
    return program.state_from(_random_weights(program.state.params))


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


def _random_weights(shapes: Any) -> Any:
    rng = np.random.default_rng(0)

    def leaf(shape: jax.ShapeDtypeStruct) -> jax.Array:
        spread = np.float32(1 / np.sqrt(max(1, np.prod(shape.shape[:-1]))))
        # NumPy turns an array without axes into a scalar.
        made = np.asarray(rng.standard_normal(shape.shape, np.float32) * spread)
        return _place(made.astype(shape.dtype), shape.sharding)

    return jax.tree.map(leaf, shapes)


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
