"""Resources that a run needs, without running it: memory, arithmetic, communication, and the largest batch.

It compiles the run's own step and sampler. Results are cached on disk, because compiling can take an hour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from smcd_jax.errors import SMCDError
from smcd_jax.models.registry import make_model
from smcd_jax.nn.networks import flatten
from smcd_jax.runtime.progress import Progress
from smcd_jax.runtime.sharding import AXES, make_mesh, partition_specs
from smcd_jax.runtime.topology import Topology, find_topology, topology_id
from smcd_jax.training.config import TrainConfig, config_to_dict
from smcd_jax.training.plan import plan_cache
from smcd_jax.training.plan.compiled import ProgramPlan, Setting, What, compile_program
from smcd_jax.training.selection import select
from smcd_jax.training.state import abstract
from smcd_jax.training.step import TrainProgram


@dataclasses.dataclass(frozen=True)
class Planned:
    """A program's plan.

    Attributes:
        plan: Plan of the program.
        cached_at: Date on which a plan from the cache was made, as YYYY-MM-DD; None if it was made just now.
    """

    plan: ProgramPlan
    cached_at: str | None


class Planner:
    """Plans of one config on one topology; compiles only what is not in the cache."""

    def __init__(
        self,
        config: TrainConfig,
        topology: str,
        *,
        effort: float = 0.0,
        again: bool = False,
        progress: Progress | None = None,
    ):
        """Stores the settings, without compiling.

        Args:
            config: Config of the run.
            topology: Name of a topology (`smcd_jax.runtime.topology.find_topology`).
            effort: Effort of the compiler to make the program fast and small, -1 to 1.
            again: Whether to compile even if the cache holds a plan.
            progress: Progress reporting; None for no reporting.

        Raises:
            SMCDError: The effort is out of range.
        """
        if not -1 <= effort <= 1:
            raise SMCDError(
                f"effort must be between -1 (fast to compile) and 1 (fast to run), got {effort:g}",
                argument="effort",
                value=effort,
            )
        self.config, self.topology, self.effort = config, topology, effort
        self._again, self._progress = again, progress or Progress()

    def plan(self, what: What, batch: int | None = None) -> Planned:
        """Returns the plan of a program at a batch size, by default that of the config.

        Raises:
            SMCDError: The topology does not exist, or the mesh does not match its devices or divide the batch.
        """
        config = self._with_batch(batch or self.config.data.batch_size)
        request = {
            "what": what,
            "config": config_to_dict(config),
            "topology": topology_id(self.topology),
            "effort": self.effort,
        }
        found = None if self._again else plan_cache.read(request)
        if found is not None:
            return Planned(ProgramPlan.from_dict(found.plan), found.cached_at)
        topology = find_topology(self.topology)
        program = TrainProgram(config, make_mesh(config.mesh, topology.devices))
        made = compile_program(program, topology, what, effort=self.effort, progress=self._progress)
        plan_cache.write(request, dataclasses.asdict(made))
        return Planned(made, None)

    def second_batch(self, first: ProgramPlan) -> int:
        """Returns another batch size for a linear fit of memory: the smallest one, or twice that if `first` has it."""
        unit = self.unit(first.setting)
        return unit if first.batch > unit else 2 * unit

    def unit(self, setting: Setting) -> int:
        """Returns the smallest batch size; all others are multiples of it."""
        return setting.rows * self.config.optimizer.grad_accum_steps

    def largest_batch(self, first: ProgramPlan, second: ProgramPlan) -> int | None:
        """Returns the largest batch size that fits by linear extrapolation from two plans; 0 if no batch fits.

        None if the memory limit is unknown or memory does not grow with the batch.
        """
        usable = first.setting.usable_bytes
        slope = (second.needed_bytes - first.needed_bytes) / (second.batch - first.batch)
        if usable is None or slope <= 0:
            return None
        unit = self.unit(first.setting)
        estimate = first.batch + (usable - first.needed_bytes) / slope
        fitting = [part.batch for part in (first, second) if part.fits]
        return max([int(estimate // unit) * unit, *fitting, 0])

    def _with_batch(self, batch: int) -> TrainConfig:
        return dataclasses.replace(self.config, data=dataclasses.replace(self.config.data, batch_size=batch))


def parameter_lines(config: TrainConfig, topology: Topology) -> Iterator[str]:
    """Yields one line per parameter of the run: path, shape, whether it is trained, and how it is sharded.

    Raises:
        SMCDError: A pattern of ``config.trainable`` matches no parameter; raised after the last line.
    """
    mesh, shapes, table = (
        make_mesh(config.mesh, topology.devices),
        flatten(abstract(config)),
        make_model(config.model).sharding,
    )
    wrong, trained = None, frozenset()
    try:
        trained = select(shapes, config.trainable, what="config: trainable")
    except SMCDError as error:
        wrong = error
    axes_of = (AXES, config.mesh.frozen_axes)
    trained_specs, frozen_specs = (
        flatten(partition_specs(abstract(config), mesh, table, over=over)) for over in axes_of
    )
    specs = {path: (trained_specs if path in trained else frozen_specs)[path] for path in shapes}
    width = max(map(len, shapes))
    for path, leaf in shapes.items():
        role = "?" if wrong else "trained" if path in trained else "frozen"
        axes = ", ".join("+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in specs[path])
        yield f"{path:<{width}}  {'x'.join(map(str, leaf.shape)) or 'scalar':<18}{role:<9}{axes or 'whole'}"
    if wrong:
        raise wrong
