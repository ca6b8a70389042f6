"""Search for the fastest sharding, remat and batch of a run: by arithmetic, then by compiling the best two."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr

from smcd_jax.errors import SMCDError
from smcd_jax.runtime.device_specs import link_bandwidth, memory_bandwidth, peak_flops
from smcd_jax.runtime.flops import inner_jaxprs, is_product, jaxpr_flops
from smcd_jax.runtime.sharding import MeshShape, make_mesh
from smcd_jax.runtime.topology import Topology, find_topology, topology_id
from smcd_jax.training.config import TrainConfig, config_to_dict
from smcd_jax.training.plan import plan_cache
from smcd_jax.training.plan.compiled import ProgramPlan, bytes_on_device
from smcd_jax.training.plan.plan import Planned, Planner
from smcd_jax.training.selection import join
from smcd_jax.training.state import policy
from smcd_jax.training.step import TrainProgram

COMPILED = 2  # number of settings that are compiled
_LARGEST = 64  # largest number of examples per device
_BLOCK = ("checkpoint", "remat2")  # names of the primitive of `jax.checkpoint`
# Times that a stored result is read or written in a step, fitted to the compiler's count for stage 2 on v5e:2x4. It
# includes what lies between the results: norms, activations and their gradients.
_TRAFFIC = {"none": 19, "blocks": 22}


@dataclasses.dataclass(frozen=True)
class Choice:
    """Setting of a run, and what it needs by arithmetic.

    Attributes:
        devices: Number of devices.
        fsdp: Value of ``mesh.fsdp``.
        frozen: Value of ``mesh.frozen``.
        gather: Value of ``mesh.gather``.
        remat: Value of ``remat``.
        batch: Batch size over all devices.
        memory_bytes: Memory per device: state, frozen parameters, gradients, gathered copies and stored results.
        seconds: Time of arithmetic, memory traffic and links at the device's published rates.
    """

    devices: int
    fsdp: int
    frozen: str
    gather: str
    remat: str
    batch: int
    memory_bytes: int
    seconds: dict[str, float]

    @property
    def clips_per_second(self) -> float:
        """Clips per second and device if nothing overlaps."""
        return self.batch / self.devices / sum(self.seconds.values())

    def of(self, config: TrainConfig) -> TrainConfig:
        """Returns the config with this setting."""
        mesh = dataclasses.replace(config.mesh, data=-1, fsdp=self.fsdp, frozen=self.frozen, gather=self.gather)
        data = dataclasses.replace(config.data, batch_size=self.batch)
        return dataclasses.replace(config, remat=self.remat, mesh=mesh, data=data)


class Found(NamedTuple):
    """Result of a search: the settings that fit, fastest first by arithmetic, and how many were compared."""

    choices: list[Choice]
    compared: int


class _Work(NamedTuple):
    """Arithmetic and stored results of one example; ``of_blocks`` is what ``remat="blocks"`` computes again."""

    flops: int
    flops_of_blocks: int
    results: int
    between_blocks: int
    largest_block: int


def search(config: TrainConfig, topology: str, *, batch: int | None = None, again: bool = False) -> Found:
    """Returns the settings of a run that fit the devices, fastest first, by arithmetic alone.

    The result is cached on disk like a plan.

    Args:
        config: Config of the run; its ``mesh.tensor`` is kept.
        topology: Name of a topology (`smcd_jax.runtime.topology.find_topology`).
        batch: Batch size over all devices; None to search it too.
        again: Whether to compute even if the cache holds a result.

    Raises:
        SMCDError: The topology does not exist, its rates are not published, or no setting fits.
    """
    request = {"what": "search", "config": config_to_dict(config), "topology": topology_id(topology), "batch": batch}
    found = None if again else plan_cache.read(request)
    if found is not None:
        return Found([Choice(**row) for row in found.plan["choices"]], found.plan["compared"])
    devices = find_topology(topology)
    choices = _choices(config, devices, batch)
    fitting = [choice for choice in choices if choice.memory_bytes <= (devices.usable_bytes or math.inf)]
    if not fitting:
        least = min(choice.memory_bytes for choice in choices)
        raise SMCDError(
            f"no setting fits {topology}: the smallest needs {least / 2**30:.2f} GiB per device; use more devices",
            argument="topology",
            value=topology,
        )
    result = Found(sorted(fitting, key=lambda choice: -choice.clips_per_second), len(choices))
    rows = [dataclasses.asdict(choice) for choice in result.choices]
    plan_cache.write(request, {"choices": rows, "compared": result.compared})
    return result


def compiled(config: TrainConfig, topology: str, choice: Choice, **settings: Any) -> Planned:
    """Returns the compiler's plan of the training step of a choice; ``settings`` are those of `Planner`."""
    return Planner(choice.of(config), topology, **settings).plan("step")


def seconds_of(plan: ProgramPlan) -> float:
    """Returns the time of a step: the compiler's estimate, or else the sum of arithmetic, memory and links."""
    return plan.estimated_seconds or sum(plan.floors.values())


def _choices(config: TrainConfig, topology: Topology, batch: int | None) -> list[Choice]:
    rates = _rates(topology, policy(config, topology.platform).compute)
    work = _work(config, topology)
    rows = len(topology.devices) // config.mesh.tensor
    unit = rows * config.optimizer.grad_accum_steps
    if batch is not None and batch % unit:
        raise SMCDError(
            f"batch must be a multiple of {unit} (devices and grad_accum_steps), got {batch}",
            argument="batch",
            value=batch,
        )
    batches = [unit << power for power in range(_LARGEST.bit_length())] if batch is None else [batch]
    policies = [("replicated", "step"), ("replicated", "use"), ("sharded", "step"), ("sharded", "use")]
    choices = []
    for fsdp in (size for size in range(1, rows + 1) if rows % size == 0):
        for frozen, gather in policies[: None if fsdp > 1 else 1]:
            shape = MeshShape(fsdp=fsdp, tensor=config.mesh.tensor, frozen=frozen, gather=gather)
            changed = dataclasses.replace(config, mesh=shape, data=dataclasses.replace(config.data, batch_size=unit))
            program = TrainProgram(changed, make_mesh(shape, topology.devices))
            for remat, size in itertools.product(("none", "blocks"), batches):
                amounts = _amounts(program, work, remat, size // rows)
                seconds = {part: amounts[part] / rate for part, rate in rates.items()}
                choices.append(
                    Choice(len(topology.devices), fsdp, frozen, gather, remat, size, amounts["held"], seconds)
                )
    return choices


def _rates(topology: Topology, dtype: Any) -> dict[str, float]:
    kind = topology.device_kind
    rates = {"arithmetic": peak_flops(kind, dtype), "memory": memory_bandwidth(kind), "links": link_bandwidth(kind)}
    if not all(rates.values()):
        raise SMCDError(
            f"topology {topology.name} cannot be searched: no rates of {kind} are published for {dtype.name}; "
            "use a TPU slice such as v5e:2x4 or GPUs such as h100:8",
            argument="topology",
            value=topology.name,
        )
    return {part: rate for part, rate in rates.items() if rate}


def _amounts(program: TrainProgram, work: _Work, remat: str, examples: int) -> dict[str, int]:
    """Returns bytes held, operations, bytes accessed and bytes sent by each device for ``examples`` examples of it."""
    mesh, shape = program.mesh.shape, program.config.mesh
    data, fsdp, tensor = (mesh[axis] for axis in ("data", "fsdp", "tensor"))
    width = policy(program.config, program.platform).compute.itemsize
    trained = sum(leaf.size for leaf in jax.tree.leaves(program.state.params)) // tensor
    frozen = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.frozen)) // tensor
    state, gradient = bytes_on_device(program.state), bytes_on_device(program.state.params)
    copies = width * trained if shape.gather == "step" else 0
    at_once = examples // program.config.optimizer.grad_accum_steps
    stored = work.results if remat == "none" else work.between_blocks + work.largest_block
    passes = 2 if remat == "none" else 3
    gathered = width * trained * (1 if shape.gather == "step" else passes)
    gathered += frozen * passes if shape.frozen == "sharded" else 0
    scattered = width * trained
    ring = lambda size, count: size * (count - 1) // count  # noqa: E731
    flops = work.flops + (work.flops_of_blocks if remat == "blocks" else 0)
    weights = passes * (width * trained + frozen)
    return {
        "held": state + bytes_on_device(program.frozen) + gradient + copies + at_once * stored // tensor,
        "arithmetic": examples * flops // tensor,
        "memory": examples * work.results * _TRAFFIC[remat] // tensor + weights + 2 * state + 2 * gradient,
        "links": ring(gathered + scattered, fsdp) + 2 * ring(scattered // fsdp, data),
    }


def _work(config: TrainConfig, topology: Topology) -> _Work:
    """Traces the objective of one example on one device."""
    one = dataclasses.replace(
        config,
        remat="blocks",
        mesh=MeshShape(),
        data=dataclasses.replace(config.data, batch_size=1),
        optimizer=dataclasses.replace(config.optimizer, grad_accum_steps=1),
    )
    program = TrainProgram(one, make_mesh(one.mesh, topology.devices[:1]))

    def objective(trained: Any, frozen: Any, stats: Any, batch: Any, key: Any) -> Any:
        return program.objective(join(trained, frozen), stats, batch, jax.random.wrap_key_data(key))[0].loss

    state = program.state
    bare = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        (state.params, program.frozen, state.stats, program.batch, state.key),
    )
    traced = jax.make_jaxpr(objective)(*bare).jaxpr
    again, *stored = _stored(traced)
    return _Work(program.flops(), again, *stored)


def _stored(jaxpr: Jaxpr) -> tuple[int, int, int, int]:
    """Returns operations in blocks, and bytes of results: all, those outside of blocks, those in the largest block.

    Results are those of matrix products, convolutions and fused kernels, into which the compiler fuses the rest, and of
    blocks.
    """
    again = everything = outside = largest = 0
    for equation in jaxpr.eqns:
        size = sum(
            math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in equation.outvars if hasattr(x.aval, "shape")
        )
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if is_product(equation):
            everything, outside = everything + size, outside + size
            continue
        for inner in inner_jaxprs(equation.params):
            parts = _stored(inner)
            everything += times * parts[1]
            if equation.primitive.name in _BLOCK:
                again, outside, largest = again + jaxpr_flops(inner), outside + size, max(largest, parts[1])
            else:
                again, outside, largest = again + parts[0], outside + times * parts[2], max(largest, parts[3])
    return again, everything, outside, largest
