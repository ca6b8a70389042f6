"""The strict engine: applies a table in either direction and refuses anything that does not fit exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.weights.conversion_table import Row


class Shaped(Protocol):
    """Anything with a shape: an array, a lazily loaded tensor, a `jax.ShapeDtypeStruct`."""

    shape: tuple[int, ...]


def match(rows: Sequence[Row], tensors: Mapping[str, Shaped], leaves: Mapping[str, Shaped], *, where: str) -> None:
    """Checks that tensors, table and leaves fit one to one, by name and by shape.

    Args:
        rows: the component's table.
        tensors: PyTorch tensors by name.
        leaves: our arrays (or their shapes) by path.
        where: component and file, for the message.

    Raises:
        SMCDError: listing every unmapped name, missing name, unset leaf, double set and wrong shape.
    """
    by_name = {row.torch: row for row in rows}
    paths = Counter(row.path for row in rows)
    problems = {
        "unmapped": sorted(set(tensors) - set(by_name)),
        "missing": sorted(set(by_name) - set(tensors)),
        "unset": sorted(set(leaves) - set(paths)),
        "unknown to the network": sorted(set(paths) - set(leaves)),
        "set twice": sorted([path for path, count in paths.items() if count > 1]),
        "wrong shape": [
            f"{row.torch} {tuple(tensors[row.torch].shape)}, expected {row.layout.torch_shape(leaves[row.path].shape)}"
            for row in rows
            if row.torch in tensors
            and row.path in leaves
            and tuple(tensors[row.torch].shape) != row.layout.torch_shape(leaves[row.path].shape)
        ],
    }
    found = [f"{len(names)} {kind} ({_listed(names)})" for kind, names in problems.items() if names]
    if found:
        raise SMCDError(f"{where}: {'; '.join(found)}. These weights are of another variant, or the file is damaged")


def to_flax(rows: Sequence[Row], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our arrays by path, as views of the PyTorch arrays (`match` first)."""
    return {row.path: row.layout.to_flax(tensors[row.torch]) for row in rows}


def to_torch(rows: Sequence[Row], leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """PyTorch arrays by name, as views of ours."""
    return {row.torch: row.layout.to_torch(np.asarray(leaves[row.path])) for row in rows}


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
