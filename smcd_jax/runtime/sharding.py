"""Device meshes, and rules that shard every parameter: over ``fsdp`` (ZeRO-3) and by attention head (Megatron).

Mesh axes: ``data`` splits only the batch; ``fsdp`` splits the batch and every large parameter; ``tensor`` splits
attention heads and the inner width of feed-forward blocks (Shoeybi et al. 2019), so that a block needs one all-reduce.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import DictKey, KeyPath, tree_flatten_with_path, tree_map_with_path

from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # mesh axes over which a batch is split
WHOLE_AXES = ("tensor",)  # mesh axes along which parameters stay split when they are used

Tree = Mapping[str, Any]
Role = Literal["in", "out", "heads", "hidden"] | None


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Size of the device mesh, and which parameters each device holds in full.

    Attributes:
        data: Number of devices along ``data``; -1 for all remaining devices.
        fsdp: Number of devices along ``fsdp``.
        tensor: Number of devices along ``tensor``.
        frozen: "sharded" splits frozen parameters over ``fsdp`` as well; "replicated" does not, which takes more memory
            but avoids gathering them.
        gather: "use" lets the compiler gather trained parameters where they are used; "step" gathers each once per
            step in the compute dtype, keeps it for the gradient, and scatters its gradient.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    frozen: Literal["sharded", "replicated"] = "sharded"
    gather: Literal["use", "step"] = "use"

    @property
    def frozen_axes(self) -> tuple[str, ...]:
        """Mesh axes that may split frozen parameters."""
        return AXES if self.frozen == "sharded" else WHOLE_AXES


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the axes ``data``, ``fsdp`` and ``tensor``, for `jax.set_mesh`.

    Devices are ordered by the hardware topology if the rows of each process are then consecutive in the batch, as
    `data_pipeline.prefetch.local_rows` requires, else by process.

    Args:
        shape: Size of each axis; the product must be the number of devices.
        devices: Devices of the mesh; None for all devices of the run.

    Raises:
        SMCDError: The sizes do not match the number of devices.
    """
    devices = sorted(
        jax.devices() if devices is None else devices, key=lambda device: (device.process_index, device.id)
    )
    sizes = _mesh_sizes(shape, len(devices))
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    if _processes_stand_together(mesh):
        return mesh
    logger.info("mesh %s: devices are ordered by process, to keep the rows of each process together", sizes)
    return Mesh(np.array(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _mesh_sizes(shape: MeshShape, count: int) -> tuple[int, int, int]:
    name = f"mesh data={shape.data} fsdp={shape.fsdp} tensor={shape.tensor}"
    if shape.fsdp < 1 or shape.tensor < 1 or shape.data < -1 or shape.data == 0:
        raise SMCDError(
            f"{name}: sizes must be at least 1; only data may be -1, for the remaining devices",
            argument="mesh",
            value=shape,
        )
    inner = shape.fsdp * shape.tensor
    data = max(count // inner, 1) if shape.data == -1 else shape.data
    if data * inner != count:
        raise SMCDError(
            f"{name} needs {data * inner if shape.data != -1 else f'a multiple of {inner}'} devices, got {count}; "
            f"choose sizes whose product is {count}",
            argument="mesh",
            value=shape,
        )
    return data, shape.fsdp, shape.tensor


def _processes_stand_together(mesh: Mesh) -> bool:
    rows: dict[int, set[int]] = {}
    for row, group in enumerate(mesh.devices.reshape(-1, mesh.shape["tensor"])):
        for device in group:
            rows.setdefault(device.process_index, set()).add(row)
    return all(max(own) - min(own) + 1 == len(own) for own in rows.values())


class Rule(NamedTuple):
    """Rule that splits the parameters whose path matches ``pattern``: one role for each axis of the array.

    Axes with the roles "heads" and "hidden" may be split over ``tensor`` ("heads" only between heads). One axis with a
    role is split over ``fsdp``: the largest divisible axis that is not split yet, or the axis that is split already if
    it is divisible by both sizes. Axes without a role, and axes that are not divisible, are not split. An ellipsis as
    the first role stands for any number of axes without a role.
    """

    name: str
    pattern: str
    roles: tuple[Role | EllipsisType, ...]

    def axis_roles(self, count: int) -> tuple[Role, ...] | None:
        """Returns the role of each axis of an array with ``count`` axes; None if the rule is for another number."""
        roles = self.roles
        if roles and roles[0] is ...:
            roles = (*(None,) * (count + 1 - len(roles)), *roles[1:])
        return roles if len(roles) == count else None


@dataclasses.dataclass(frozen=True)
class ShardingTable:
    """Rules that split the parameters of a model over a mesh.

    Attributes:
        rules: Rules; every parameter must match exactly one.
        components: Names of the model's components, the first part of every parameter's path.
        head_dim: Channels of an attention head; attention layers split over ``tensor`` by whole heads or not at all.
    """

    rules: tuple[Rule, ...]
    components: frozenset[str]
    head_dim: int = 64


def partition_specs(shapes: Tree, mesh: Mesh, table: ShardingTable, *, over: Sequence[str] = AXES) -> Any:
    """Returns a `PartitionSpec` for each parameter, in the same tree.

    Args:
        shapes: Tree ``{component: {...}}`` of arrays, or of anything with ``shape`` and ``dtype``.
        mesh: Mesh (`make_mesh`); a missing axis counts as one of size 1.
        table: Rules of the model.
        over: Mesh axes that may split parameters.

    Raises:
        SMCDError: A parameter matches no rule or several, or its rule is for another number of axes.
    """
    matched = _match(_named_leaves(shapes, table), table)

    def spec(path: KeyPath, leaf: Any) -> PartitionSpec:
        roles = matched[_dict_path(path)].axis_roles(len(leaf.shape))
        return _spec(leaf.shape, roles, mesh, head_dim=table.head_dim, over=over)

    return tree_map_with_path(spec, shapes)


def shardings(shapes: Tree, mesh: Mesh, table: ShardingTable, *, over: Sequence[str] = AXES) -> Any:
    """Returns `partition_specs` as `NamedSharding`s, for ``out_shardings`` and for restoring checkpoints."""
    specs = partition_specs(shapes, mesh, table, over=over)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=_is_spec)


def state_shardings(state: Any, mesh: Mesh, table: ShardingTable) -> Any:
    """Returns a `NamedSharding` for each leaf of a training state: parameters, EMA, or optimizer state.

    A leaf under dictionary keys that end in a parameter's path (``mu/unet/encoder_0/...``), with as many axes as that
    parameter, is sharded like it; counters, keys and the rest are replicated.

    Raises:
        SMCDError: As for `partition_specs`.
    """
    leaves, _ = tree_flatten_with_path(state)
    names = {path for path in (_parameter_path(keys, table) for keys, _ in leaves) if path is not None}
    matched = _match(((name, None) for name in sorted(names)), table)

    def place(keys: KeyPath, leaf: Any) -> NamedSharding:
        name = _parameter_path(keys, table)
        shape = np.shape(leaf)
        roles = None if name is None else matched[name].axis_roles(len(shape))
        if roles is None:
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, _spec(shape, roles, mesh, head_dim=table.head_dim))

    return tree_map_with_path(place, state)


def batch_parts(mesh: Mesh) -> int:
    """Returns the number of parts that the mesh splits a batch into; the number of rows must be a multiple of it."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES if axis in mesh.axis_names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns a sharding of the leading axis over the mesh axes `data` and `fsdp`; other axes are replicated."""
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(axes or None))


def constrain_batch(tree: Any) -> Any:
    """Constrains the leading axis of every array to be sharded over ``data`` and ``fsdp`` of the current mesh.

    Returns the arrays unchanged without a mesh (`jax.set_mesh`) or with one device. The leading axis must be divisible.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    if mesh.empty or mesh.size == 1 or not axes:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec(axes)), tree)


def _spec(
    shape: Sequence[int], roles: Sequence[Role], mesh: Mesh, *, head_dim: int, over: Sequence[str] = AXES
) -> PartitionSpec:
    tensor, fsdp = (mesh.shape.get(axis, 1) if axis in over else 1 for axis in ("tensor", "fsdp"))
    axes: list[tuple[str, ...]] = [()] * len(shape)
    for index, role in enumerate(roles):
        unit = {"heads": head_dim, "hidden": 1}.get(role or "")
        if unit and tensor > 1 and shape[index] % (tensor * unit) == 0:
            axes[index] = ("tensor",)
    if fsdp > 1:
        fits = [
            index
            for index, role in enumerate(roles)
            if role and shape[index] % (fsdp * tensor ** len(axes[index])) == 0
        ]
        best = max(fits, key=lambda index: (not axes[index], shape[index]), default=None)
        if best is not None:
            axes[best] = (*axes[best], "fsdp")
    while axes and not axes[-1]:
        axes.pop()
    return PartitionSpec(*(names if len(names) > 1 else names[0] if names else None for names in axes))


def _match(leaves: Iterable[tuple[str, Any]], table: ShardingTable) -> dict[str, Rule]:
    patterns = [(re.compile(rule.pattern), rule) for rule in table.rules]
    matched, faults = {}, []
    for name, leaf in leaves:
        found = [rule for pattern, rule in patterns if pattern.fullmatch(name)]
        if len(found) != 1:
            faults.append(f"{name} ({' and '.join(rule.name for rule in found) or 'no rule'})")
        elif leaf is not None and found[0].axis_roles(len(leaf.shape)) is None:
            faults.append(f"{name} (shape {tuple(leaf.shape)}, {found[0].name!r} is for another number of axes)")
        else:
            matched[name] = found[0]
    if faults:
        shown = ", ".join(faults[:20]) + (f", and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise SMCDError(
            f"{len(faults)} parameters do not match exactly one sharding rule: {shown}; correct the family's rules",
            argument="sharding",
            value=faults,
        )
    return matched


def _named_leaves(shapes: Tree, table: ShardingTable) -> Iterator[tuple[str, Any]]:
    for keys, leaf in tree_flatten_with_path(shapes)[0]:
        name = _dict_path(keys)
        if name.split("/", 1)[0] not in table.components:
            raise SMCDError(
                f"parameter {name} must be in a component of the model, one of {', '.join(sorted(table.components))}",
                argument="shapes",
                value=name,
            )
        yield name, leaf


def _dict_path(keys: KeyPath) -> str:
    return "/".join(str(key.key) if isinstance(key, DictKey) else str(key) for key in keys)


def _parameter_path(keys: KeyPath, table: ShardingTable) -> str | None:
    """Returns the path of a parameter, starting at its component, from the end of a key path; None if it has none."""
    names: list[str] = []
    for key in reversed(keys):
        if not isinstance(key, DictKey):
            break
        names = [*str(key.key).split("/"), *names]
    start = next((index for index, name in enumerate(names) if name in table.components), None)
    return None if start is None or start + 1 == len(names) else "/".join(names[start:])


def _axes_of(spec: PartitionSpec) -> list[str]:
    return [name for entry in spec if entry is not None for name in ([entry] if isinstance(entry, str) else entry)]


def _is_spec(value: Any) -> bool:
    return isinstance(value, PartitionSpec)
