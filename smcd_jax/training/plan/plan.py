"""What a run would need, without running it: how much memory, arithmetic and communication, and the largest batch.

The train step and the sampler are those of the run; what each compilation says is kept on disk, for it can take an
hour.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from smcd_jax.errors import SMCDError
from smcd_jax.models.registry import make_model
from smcd_jax.nn.networks import flatten
from smcd_jax.runtime.progress import Progress
from smcd_jax.runtime.sharding import make_mesh, partition_specs
from smcd_jax.runtime.topology import Topology, find_topology
from smcd_jax.training.config import TrainConfig, config_to_dict
from smcd_jax.training.plan import plan_cache
from smcd_jax.training.plan.compiled import ProgramPlan, Setting, What, compile_program
from smcd_jax.training.selection import select
from smcd_jax.training.state import abstract


@dataclasses.dataclass(frozen=True)
class Kept:
    """A program's plan, and since when it lies on disk; None where it was compiled just now."""

    plan: ProgramPlan
    since: str | None


class Planner:
    """Plans of one config on one topology; compiles only what does not lie on disk."""

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
            config: of the run.
            topology: see `smcd_jax.runtime.topology.find_topology`.
            effort: -1 to 1: how long the compiler tries to make the program fast and small.
            again: compile even what lies on disk.
            progress: told of.

        Raises:
            SMCDError: an effort out of range.
        """
        if not -1 <= effort <= 1:
            raise SMCDError(f"effort is {effort:g}; use -1 (fast to compile) to 1 (fast to run)")
        self.config, self.topology, self.effort = config, topology, effort
        self._again, self._progress = again, progress or Progress()

    def plan(self, what: What, batch: int | None = None) -> Kept:
        """A program at a batch size, by default the config's.

        Raises:
            SMCDError: what the topology, the mesh or the config do not allow.
        """
        config = self._with_batch(batch or self.config.data.batch_size)
        asked = {"what": what, "config": config_to_dict(config), "topology": self.topology, "effort": self.effort}
        found = None if self._again else plan_cache.read(asked)
        if found is not None:
            return Kept(ProgramPlan.from_dict(found.plan), found.since)
        made = compile_program(config, find_topology(self.topology), what, effort=self.effort, progress=self._progress)
        plan_cache.write(asked, dataclasses.asdict(made))
        return Kept(made, None)

    def second_batch(self, first: ProgramPlan) -> int:
        """Another batch size, to draw a line through: one example a group of devices, or two where that was it."""
        unit = self.unit(first.setting)
        return unit if first.batch > unit else 2 * unit

    def unit(self, setting: Setting) -> int:
        """Batch sizes are multiples of this."""
        return setting.rows * self.config.optimizer.grad_accum_steps

    def largest_batch(self, first: ProgramPlan, second: ProgramPlan) -> int | None:
        """The largest batch whose memory, on the line through two compiled ones, fits; 0 for none.

        None where memory has no limit to know, or does not grow.
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
    """A line for each parameter of the run: path, shape, whether it is trained, and how it is split.

    Raises:
        SMCDError: after the last line, if ``config.trainable`` matches nothing.
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
