"""Low-rank adaptation of linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685): kernel + down @ up, for any network.

An adapter is a separate tree next to the components, ``low_rank/COMPONENT/PATH/kernel/(down|up)``. It is trained alone,
saved in one file, and added to the kernels when a model is loaded, at any scale.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.nn.networks import Params, flatten, unflatten
from smcd_jax.runtime.sharding import Rule, ShardingTable

COMPONENT = "low_rank"
RULE = Rule("low rank", rf"{COMPONENT}/.+/(down|up)", (None, None))
FORMAT = "smcd-low-rank"


class Adapter(NamedTuple):
    """An adapter as it was saved.

    Attributes:
        leaves: Arrays by path, without `COMPONENT`: "unet/.../kernel/down" [in, r] and "/up" [r, out].
        base: Digest of the model that it was trained on; empty if unknown.
        note: Description, one line.
    """

    leaves: Mapping[str, Float[np.ndarray, "_ _"]]
    base: str = ""
    note: str = ""


def low_rank_shapes(kernels: Mapping[str, Any], rank: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the adapter for some kernels, by path with `COMPONENT`.

    Args:
        kernels: Kernels, or their shapes, by path.
        rank: Rank of the updates, at least 1 and at most the smaller side of every kernel.

    Raises:
        SMCDError: A path is not that of a linear layer, or the rank is out of range.
    """
    shapes: dict[str, jax.ShapeDtypeStruct] = {}
    for path, kernel in kernels.items():
        if not path.endswith("/kernel") or len(kernel.shape) != 2:
            raise SMCDError(
                f"config: low_rank.kernels must match kernels of linear layers, got {path} {tuple(kernel.shape)}",
                argument="low_rank.kernels",
                value=path,
            )
        if not 1 <= rank <= min(kernel.shape):
            raise SMCDError(
                f"config: low_rank.rank must be from 1 to {min(kernel.shape)} for {path}, got {rank}",
                argument="low_rank.rank",
                value=rank,
            )
        rows, columns = kernel.shape
        shapes[f"{COMPONENT}/{path}/down"] = jax.ShapeDtypeStruct((rows, rank), jnp.float32)
        shapes[f"{COMPONENT}/{path}/up"] = jax.ShapeDtypeStruct((rank, columns), jnp.float32)
    return shapes


def initial_low_rank(shapes: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Returns the initial values: ``down`` is normal / sqrt(in) and ``up`` zero, so that nothing changes at first."""
    generator = np.random.default_rng(seed)
    return {
        path: (generator.standard_normal(part.shape) / np.sqrt(part.shape[0])).astype(np.float32)
        if path.endswith("/down")
        else np.zeros(part.shape, np.float32)
        for path, part in shapes.items()
    }


def with_low_rank(table: ShardingTable) -> ShardingTable:
    """Returns a model's sharding table extended by the adapter, which is replicated on every device."""
    return ShardingTable((*table.rules, RULE), table.components | {COMPONENT}, table.head_dim)


def adapted(params: Params, *, scale: float = 1.0) -> Params:
    """Returns a tree of components with its adapter added to the kernels; a tree without an adapter is unchanged."""
    if COMPONENT not in params:
        return params
    rest = {name: part for name, part in params.items() if name != COMPONENT}
    return unflatten(add_low_rank(flatten(rest), flatten(params[COMPONENT]), scale=scale))


def add_low_rank(
    leaves: Mapping[str, Array], adapter: Mapping[str, Array], *, scale: float = 1.0, prefix: str = ""
) -> dict[str, Array]:
    """Returns the arrays by path with kernel + scale * down @ up, computed in float32 and cast to the kernel's dtype.

    Args:
        leaves: Arrays by path.
        adapter: Arrays of `Adapter.leaves`.
        scale: Factor of the updates.
        prefix: Beginning of the adapter's paths that the paths of ``leaves`` lack, such as "unet/".
    """
    changed = dict(leaves)
    for path in [path for path in adapter if path.startswith(prefix) and path.endswith("/down")]:
        kernel = path.removeprefix(prefix).removesuffix("/down")
        down, up = adapter[path], adapter[path.removesuffix("down") + "up"]
        delta = scale * jnp.matmul(jnp.asarray(down), jnp.asarray(up), precision="highest")
        changed[kernel] = (jnp.asarray(leaves[kernel]).astype(jnp.float32) + delta).astype(leaves[kernel].dtype)
    return changed


def save_adapter(path: Path, adapter: Adapter) -> None:
    """Writes a safetensors file; an existing file is replaced only once the new one is complete."""
    from safetensors.numpy import save_file

    metadata = {"format": FORMAT, "base": adapter.base, "note": adapter.note}
    with write_atomically(path) as temporary:
        save_file({name: np.ascontiguousarray(leaf) for name, leaf in adapter.leaves.items()}, temporary, metadata)


def load_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Loads an adapter from a file.

    Raises:
        SMCDError: The file is missing, damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(path)
    if not file.is_file():
        raise SMCDError(f"{file}: no such adapter; check the path", argument="adapter", path=file)
    try:
        with safe_open(file, framework="numpy") as content:
            metadata = content.metadata() or {}
            leaves = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SMCDError(
            f"{file}: not a readable safetensors file ({error}); copy it again", argument="adapter", path=file
        ) from error
    if metadata.get("format") != FORMAT:
        raise SMCDError(
            f"{file}: not a low-rank adapter; write one with `smcd export --adapter`", argument="adapter", path=file
        )
    return Adapter(leaves, metadata.get("base", ""), metadata.get("note", ""))


def adapter_digest(adapter: Adapter) -> str:
    """Returns the SHA-256 over the arrays of an adapter by path."""
    digest = hashlib.sha256()
    for name in sorted(adapter.leaves):
        digest.update(name.encode() + np.ascontiguousarray(adapter.leaves[name]).tobytes())
    return digest.hexdigest()


def check_adapter(adapter: Adapter, components: Sequence[str], leaves_of: Any, *, path: Any) -> None:
    """Checks that every kernel of an adapter is in the model, with its shape.

    Args:
        adapter: The adapter.
        components: Names of the model's components.
        leaves_of: Function that returns the arrays of a component, or their shapes, by path.
        path: File of the adapter, for the message.

    Raises:
        SMCDError: The adapter belongs to another model; `value` is the first path that does not fit.
    """
    shapes: dict[str, Any] = {}
    for name in {key.split("/", 1)[0] for key in adapter.leaves} & set(components):
        shapes |= {f"{name}/{leaf}": array.shape for leaf, array in leaves_of(name).items()}
    for key, down in adapter.leaves.items():
        if not key.endswith("/down"):
            continue
        kernel, up = key.removesuffix("/down"), adapter.leaves[key.removesuffix("down") + "up"]
        if tuple(shapes.get(kernel, ())) != (down.shape[0], up.shape[1]):
            raise SMCDError(
                f"{path}: the adapter belongs to another model: {kernel} {(down.shape[0], up.shape[1])} is "
                f"{tuple(shapes[kernel]) if kernel in shapes else 'missing'} here",
                argument="adapter",
                path=path,
                value=kernel,
            )
