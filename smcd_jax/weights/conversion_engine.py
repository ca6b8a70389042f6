"""Applies conversion tables in both directions; anything that does not fit exactly is an error."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.weights.conversion_table import Row


class Shaped(Protocol):
    """An object with a shape: an array, a `LazyTensor`, a `jax.ShapeDtypeStruct`."""

    shape: tuple[int, ...]


def match(
    rows: Sequence[Row],
    tensors: Mapping[str, Shaped],
    leaves: Mapping[str, Shaped],
    *,
    where: str,
    path: str | os.PathLike[str] | None = None,
) -> None:
    """Checks that tensors, table and leaves fit one to one, by name and by shape.

    Args:
        rows: Conversion table of the component.
        tensors: PyTorch tensors by name.
        leaves: Flax arrays, or their shapes, by path.
        where: Component and file, for the error message.
        path: File of the tensors.

    Raises:
        SMCDError: Something does not fit. The message lists unmapped and missing names, unset and unknown paths, paths
            set twice and wrong shapes; `value` has these lists by kind.
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
    problems = {kind: names for kind, names in problems.items() if names}
    if problems:
        lists = "; ".join(f"{len(names)} {kind} ({_listed(names)})" for kind, names in problems.items())
        message = f"{where}: {lists}; the weights are of another variant, or the file is damaged"
        raise SMCDError(message, path=path, value=problems)


def to_flax(rows: Sequence[Row], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns Flax arrays by path, as views of the PyTorch arrays, which `match` has checked."""
    return {row.path: row.layout.to_flax(tensors[row.torch]) for row in rows}


def to_torch(rows: Sequence[Row], leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns PyTorch arrays by name, as views of the Flax arrays."""
    return {row.torch: row.layout.to_torch(np.asarray(leaves[row.path])) for row in rows}


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
