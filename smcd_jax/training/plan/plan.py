"""Plans of a training run: memory, arithmetic and communication of its programs, and the largest batch that fits.

The programs are those of the run. Plans are kept on disk, because a compilation can take an hour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from smcd_jax.errors import SMCDError
from smcd_jax.models.registry import make_model
from smcd_jax.nn.networks import flatten
from smcd_jax.runtime.progress import Progress
from smcd_jax.runtime.sharding import make_mesh, partition_specs
from smcd_jax.runtime.topology import Topology, find_topology, topology_id
from smcd_jax.training.config import TrainConfig, config_to_dict
from smcd_jax.training.plan import plan_cache
from smcd_jax.training.plan.compiled import ProgramPlan, Setting, What, compile_program
from smcd_jax.training.selection import select
from smcd_jax.training.state import abstract


@dataclasses.dataclass(frozen=True)
class CachedPlan:
    """A program's plan, and the time when it was written to disk; None if it was compiled just now."""

    plan: ProgramPlan
    cached_at: str | None


class Planner:
    """Plans of one config on one topology; compiles only programs whose plan is not on disk."""

    def __init__(
        self,
        config: TrainConfig,
        topology: str,
        *,
        effort: float = 0.0,
        again: bool = False,
        progress: Progress | None = None,
    ):
        """Compiles nothing yet.

        Args:
            config: Config of the run.
            topology: Name of the topology, see `smcd_jax.runtime.topology.find_topology`.
            effort: Effort of the compiler, -1 (fast to compile) to 1 (fast to run).
            again: Whether to compile even if the plan is on disk.
            progress: Progress reporting.

        Raises:
            SMCDError: The effort is out of range.
        """
        if not -1 <= effort <= 1:
            raise SMCDError(
                f"effort must be in -1 (fast to compile) to 1 (fast to run), got {effort:g}",
                argument="effort",
                value=effort,
            )
        self.config, self.topology, self.effort = config, topology, effort
        self._again, self._progress = again, progress or Progress()

    def plan(self, what: What, batch: int | None = None) -> CachedPlan:
        """The plan of a program at a batch size, by default the config's.

        Raises:
            SMCDError: Topology, mesh or config do not fit each other.
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
            return CachedPlan(ProgramPlan.from_dict(found.plan), found.cached_at)
        made = compile_program(config, find_topology(self.topology), what, effort=self.effort, progress=self._progress)
        plan_cache.write(request, dataclasses.asdict(made))
        return CachedPlan(made, None)

    def second_batch(self, first: ProgramPlan) -> int:
        """Another batch size for `largest_batch`: one example per part of the mesh, or two if ``first`` has one."""
        unit = self.unit(first.setting)
        return unit if first.batch > unit else 2 * unit

    def unit(self, setting: Setting) -> int:
        """The number that batch sizes are multiples of."""
        return setting.rows * self.config.optimizer.grad_accum_steps

    def largest_batch(self, first: ProgramPlan, second: ProgramPlan) -> int | None:
        """The largest batch that fits, on the line through the memory of two plans; 0 if no batch fits.

        None if the memory has no known limit or does not grow with the batch.
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
    """A line for each parameter of the run: path, shape, whether it is trained, and its sharding.

    Raises:
        SMCDError: After the last line, if ``config.trainable`` matches nothing.
    """
    mesh, shapes = make_mesh(config.mesh, topology.devices), flatten(abstract(config))
    specs = flatten(partition_specs(abstract(config), mesh, make_model(config.model).sharding))
    wrong, trained = None, frozenset()
    try:
        trained = select(shapes, config.trainable, what="config: trainable")
    except SMCDError as error:
        wrong = error
    width = max(map(len, shapes))
    for path, leaf in shapes.items():
        role = "?" if wrong else "trained" if path in trained else "frozen"
        axes = ", ".join("+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in specs[path])
        yield f"{path:<{width}}  {'x'.join(map(str, leaf.shape)) or 'scalar':<18}{role:<9}{axes or 'whole'}"
    if wrong:
        raise wrong
