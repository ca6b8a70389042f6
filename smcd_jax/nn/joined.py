"""Weights joined before the steps of a sampler: projections of the same input become one matrix product each.

The parameters stay as they are on disk. A network finds the joined weights in the collection "joined" of its variables,
and uses the separate weights if the collection is absent, as in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

COLLECTION = "joined"
SELF = "query_key_value"
TIME = "time"


def joined_weights(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the joined weights of a UNet, or of any tree of parameters.

    Args:
        params: Parameters of the network.

    Returns:
        A tree that holds, at the path of each attention layer whose three kernels have the same shape, one kernel for
        queries, keys and values, and at its root the kernel and bias of the time layers of all residual blocks
        (`time_layers`).
    """
    found = _projections(params)
    layers = [layer for _, layer in time_layers(params)]
    if layers:
        parts = {name: [layer[name] for layer in layers] for name in ("kernel", "bias")}
        found[TIME] = {name: jnp.concatenate(leaves, axis=-1) for name, leaves in parts.items()}
    return found


def time_layers(params: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the path and the time layer of each residual block, sorted by path."""
    for name in sorted(params):
        part = params[name]
        if name == "residual" and "time" in part:
            yield path, part["time"]
        elif isinstance(part, Mapping):
            yield from time_layers(part, f"{path}/{name}" if path else name)


def _projections(params: Mapping[str, Any]) -> dict[str, Any]:
    kernels = [params[name]["kernel"] for name in ("query", "key", "value") if _has_kernel(params, name)]
    if len(kernels) == 3:
        same = len({kernel.shape for kernel in kernels}) == 1
        return {SELF: jnp.concatenate(kernels, axis=-1)} if same else {}
    parts = {name: _projections(part) for name, part in params.items() if isinstance(part, Mapping)}
    return {name: part for name, part in parts.items() if part}


def _has_kernel(params: Mapping[str, Any], name: str) -> bool:
    return isinstance(params.get(name), Mapping) and "kernel" in params[name]
