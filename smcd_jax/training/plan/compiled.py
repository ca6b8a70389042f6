"""Compilation of a run's training step or sampler for any topology, and what the compiler reports about it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
from jax.sharding import NamedSharding, PartitionSpec

from smcd_jax.errors import SMCDError
from smcd_jax.runtime.compilation import compiler_options
from smcd_jax.runtime.device_specs import link_bandwidth, memory_bandwidth, peak_flops
from smcd_jax.runtime.hlo_collectives import collective_report
from smcd_jax.runtime.hlo_launches import launch_report
from smcd_jax.runtime.memory import gc_paused
from smcd_jax.runtime.progress import Progress
from smcd_jax.runtime.sharding import BATCH_AXES
from smcd_jax.runtime.topology import Topology
from smcd_jax.training.sampling import make_sampler, sample_rows
from smcd_jax.training.selection import join
from smcd_jax.training.state import placeholder_null, policy
from smcd_jax.training.step import TrainProgram

What = Literal["step", "sampler"]
NAMES = {"step": "training step", "sampler": "sampler"}
_GIB = {"K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2**10}


@dataclasses.dataclass(frozen=True)
class MemoryUse:
    """Memory of a program on one device in bytes.

    Attributes:
        arguments: Size of the arguments.
        outputs: Size of the outputs.
        aliased: Size of the outputs that reuse the memory of donated arguments.
        temporaries: Size of the temporary buffers.
        code: Size of the code.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """Total, computed as in the compiler's out-of-memory errors."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Setting:
    """Devices, mesh, dtype and parameters for which a program was compiled.

    Attributes:
        devices: Number of devices.
        device_kind: Kind of the devices.
        mesh: Size of each mesh axis.
        dtype: Compute dtype.
        usable_bytes: Memory of one device in bytes; None if the devices share main memory.
        trained: Number of trained parameters.
        frozen: Number of frozen parameters.
        replicated_share: Share of the parameters' bytes that every device holds in full, 0..1.
    """

    devices: int
    device_kind: str
    mesh: dict[str, int]
    dtype: str
    usable_bytes: int | None
    trained: int
    frozen: int
    replicated_share: float

    @property
    def rows(self) -> int:
        """Number of parts that the mesh splits a batch into."""
        return self.mesh[BATCH_AXES[0]] * self.mesh[BATCH_AXES[1]]


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """What the compiler reports about one program; bytes, operations and collectives are those of one device.

    Attributes:
        what: Program: "step" or "sampler".
        batch: Batch size over all devices.
        setting: Devices, mesh and parameters.
        needed_bytes: Memory of the program and `resident_bytes` together.
        resident_bytes: Memory that the run needs besides the program's arguments: unused parameters, and for the
            sampler the optimizer's moments.
        memory: Memory of the program itself; None if the compiler refused it for lack of memory.
        flops: Operations as counted by the compiler, with recomputation, each loop counted once; None if unknown.
        model_flops: Operations of the step's matrix products and convolutions, without recomputation.
        bytes_accessed: Bytes accessed as counted by the compiler; None if unknown.
        estimated_seconds: Run time estimated by the compiler; None if it gives no estimate.
        collectives: (count, payload bytes, sent bytes) by kind (`smcd_jax.runtime.hlo_collectives`).
        unknown_loops: Number of loops with collectives whose trip count is unknown; they are counted once.
        launches: (count, bytes written) by kind on GPUs (`smcd_jax.runtime.hlo_launches`); empty elsewhere.
        seconds: Time of tracing, lowering and compiling.
    """

    what: What
    batch: int
    setting: Setting
    needed_bytes: int
    resident_bytes: int = 0
    memory: MemoryUse | None = None
    flops: float | None = None
    model_flops: float | None = None
    bytes_accessed: float | None = None
    estimated_seconds: float | None = None
    collectives: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0
    launches: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ProgramPlan:
        """Returns the plan of a dict made by `dataclasses.asdict`."""
        memory, setting = values["memory"], Setting(**values["setting"])
        return cls(**{**values, "setting": setting, "memory": None if memory is None else MemoryUse(**memory)})

    @property
    def fits(self) -> bool:
        """Whether the program fits into memory; True for devices that share main memory."""
        usable = self.setting.usable_bytes
        return self.memory is not None and (usable is None or self.needed_bytes <= usable)

    @property
    def sent_bytes(self) -> int:
        """Bytes that a device sends in one execution, over all collectives."""
        return sum(sent for _, _, sent in self.collectives.values())

    @property
    def floors(self) -> dict[str, float]:
        """Lower bounds of the run time in seconds, from arithmetic, memory and links at the device's published rates.

        Unknown rates are left out. A program whose parts overlap perfectly takes as long as the largest bound.
        """
        kind = self.setting.device_kind
        rates = {
            "arithmetic": (self.flops, peak_flops(kind, self.setting.dtype)),
            "memory": (self.bytes_accessed, memory_bandwidth(kind)),
            "links": (self.sent_bytes, link_bandwidth(kind)),
        }
        return {name: amount / rate for name, (amount, rate) in rates.items() if amount is not None and rate}


def compile_program(
    program: TrainProgram, topology: Topology, what: What, *, effort: float, progress: Progress
) -> ProgramPlan:
    """Compiles a run's step or sampler for a topology, at the config's batch size or number of samples.

    Args:
        program: Program of the run, on a mesh of the topology's devices.
        topology: Devices to compile for.
        what: Program to compile: "step" or "sampler".
        effort: Effort of the compiler, -1 to 1.
        progress: Progress reporting.

    Raises:
        SMCDError: The program cannot be compiled for a reason other than memory.
    """
    setting, batch = _setting(program, topology), program.config.data.batch_size
    if what == "sampler":
        batch = sample_rows(program.config.run.samples, program.mesh)
    function, args = _function(program, what)
    held = bytes_on_device((program.state, program.frozen, program.batch))
    seconds: dict[str, float] = {}
    with jax.set_mesh(program.mesh), _effort(effort):
        with _timed("tracing", what, seconds, progress), gc_paused():
            traced = function.trace(*args)
        with _timed("lowering", what, seconds, progress), gc_paused():
            lowered = traced.lower()
        try:
            with _timed("compiling", what, seconds, progress):
                compiled = lowered.compile(compiler_options(topology.platform))
        except jax.errors.JaxRuntimeError as error:
            resident = max(held - bytes_on_device(args), 0)
            needed = needed_by(str(error)) + resident
            return ProgramPlan(what, batch, setting, needed, resident, seconds=seconds)
    cost, sizes = compiled.cost_analysis() or {}, compiled.memory_analysis()
    memory = MemoryUse(
        arguments=sizes.argument_size_in_bytes,
        outputs=sizes.output_size_in_bytes,
        aliased=sizes.alias_size_in_bytes,
        temporaries=sizes.temp_size_in_bytes,
        code=sizes.generated_code_size_in_bytes,
    )
    text = compiled.as_text()
    resident, collectives = max(held - memory.arguments, 0), collective_report(text)
    launches = launch_report(text).by_kind if topology.platform == "gpu" else {}
    return ProgramPlan(
        what=what,
        batch=batch,
        setting=setting,
        needed_bytes=memory.total + resident,
        resident_bytes=resident,
        memory=memory,
        flops=_positive(cost, "flops"),
        model_flops=program.flops() / setting.devices if what == "step" else None,
        bytes_accessed=_positive(cost, "bytes accessed"),
        estimated_seconds=_positive(cost, "optimal_seconds"),
        collectives={kind: list(use) for kind, use in collectives.by_kind.items()},
        unknown_loops=collectives.unknown_loops,
        launches={kind: list(use) for kind, use in launches.items()},
        seconds=seconds,
    )


def needed_by(refusal: str) -> int:
    """Returns the bytes of memory that a refused program needs, from the compiler's error message.

    Raises:
        SMCDError: The compiler refused the program for another reason.
    """
    used = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm|temporaries \(([\d.]+)([KMGT])\) exceeds", refusal)
    if "RESOURCE_EXHAUSTED" not in refusal or used is None:
        raise SMCDError(f"the program cannot be compiled: {refusal[:400]}")
    number, unit = (part for part in used.groups() if part is not None)
    return int(float(number) * _GIB[unit] * 2**30)


def _function(program: TrainProgram, what: What) -> tuple[Any, tuple[Any, ...]]:
    """Returns the jitted function and the shapes of its arguments."""
    if what == "step":
        return program.step, (program.state, program.frozen, program.batch)
    config = program.config
    if config.objective != "denoise":
        raise SMCDError(
            f"objective {config.objective!r} has no sampler to plan; pass --no_sampler",
            argument="no_sampler",
            value=config.objective,
        )
    sampler = make_sampler(
        program.model,
        placeholder_null(config, program.model),
        num_steps=config.run.sample_steps,
        guidance_scale=config.run.guidance_scale,
        temporal=config.temporal,
    )
    params = join(program.state.ema or program.state.params, program.frozen)
    rows = sample_rows(config.run.samples, program.mesh)
    batch = {
        name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=x.sharding)
        for name, x in program.batch.items()
    }
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=NamedSharding(program.mesh, PartitionSpec()))
    return jax.jit(sampler), (params, batch, key)


def _setting(program: TrainProgram, topology: Topology) -> Setting:
    config, mesh = program.config, program.mesh
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    held = jax.tree.leaves((program.state.params, program.frozen))
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in held]
    replicated = sum(size for size, leaf in zip(sizes, held, strict=True) if leaf.sharding.is_fully_replicated)
    return Setting(
        devices=mesh.size,
        device_kind=topology.device_kind,
        mesh=dict(mesh.shape),
        dtype=policy(config, program.platform).compute.name,
        usable_bytes=topology.usable_bytes,
        trained=count(program.state.params),
        frozen=count(program.frozen),
        replicated_share=replicated / sum(sizes),
    )


def bytes_on_device(tree: Any) -> int:
    """Returns the bytes that each device holds of a tree of shapes with shardings."""
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize  # noqa: E731
    return sum(map(size, jax.tree.leaves(tree)))


def _positive(cost: dict[str, float], name: str) -> float | None:
    return float(cost[name]) if cost.get(name, 0) > 0 else None


@contextlib.contextmanager
def _timed(doing: str, what: What, seconds: dict[str, float], progress: Progress) -> Iterator[None]:
    start = time.perf_counter()
    with progress.stage(f"{doing} the {NAMES[what]}"):
        yield
    seconds[doing] = time.perf_counter() - start


@contextlib.contextmanager
def _effort(effort: float) -> Iterator[None]:
    """Sets the effort of the compiler, which JAX 0.11 has no option for."""
    names = ("jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
    if not all(hasattr(jax.config, name) for name in names):
        if effort:
            raise SMCDError(
                f"effort must be 0 with jax {jax.__version__}, got {effort:g}; jax 0.10 has this option",
                argument="effort",
                value=effort,
            )
        yield
        return
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name in names:
            jax.config.update(name, effort)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
