"""How far every gate stands open, for the log: a gate that stays near 0 means that its condition has no effect."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.nn.networks import Params, flatten
from smcd_jax.training.selection import is_gate

_KINDS = ("object", "image")


def gate_report(params: Params) -> dict[str, Float[Array, ""]]:
    """How far each gate stands open: tanh of its scalar, in -1..1; and the mean of its absolute value by kind.

    Pure, so it can run inside `jax.jit`; what it returns is float32 scalars on the device.

    Args:
        params: a tree that holds the UNet's parameters under "unet", or those themselves; what is no gate is passed
            over.

    Returns:
        "gates/BLOCK/KIND/PART" for each scalar, and "gates/mean/KIND". BLOCK is "encoder_1", "middle", "decoder_4" and
        so on, KIND is "object" or "image", PART is "attention", "ff", or "branch" in the forms that weigh a whole
        branch. Empty for a tree without gates.
    """
    report: dict[str, Array] = {}
    by_kind: dict[str, list[Array]] = {kind: [] for kind in _KINDS}
    for path, leaf in sorted(flatten(params).items()):
        if not is_gate(path):
            continue
        block, kind, part = _name(path)
        opening = jnp.tanh(leaf.astype(jnp.float32))
        report[f"gates/{block}/{kind}/{part}"] = opening
        by_kind[kind].append(jnp.abs(opening))
    means = {f"gates/mean/{kind}": jnp.mean(jnp.stack(values)) for kind, values in by_kind.items() if values}
    return means | report


def gate_values(params: Params) -> dict[str, float]:
    """`gate_report` as numbers of the host; waits for the parameters."""
    return {name: float(value) for name, value in jax.device_get(jax.jit(gate_report)(params)).items()}


def _name(path: str) -> tuple[str, str, str]:
    """Block, kind and part from, say, "unet/encoder_1/spatial/block/gates/object_gate/alpha_attention"."""
    place, _, inner = path.partition("/gates/")
    parts = [part for part in place.split("/") if part not in ("unet", "attended", "spatial", "block")]
    if inner.startswith("beta_"):
        return "/".join(parts), inner.removeprefix("beta_"), "branch"
    gate, scalar = inner.split("/")
    return "/".join(parts), gate.removesuffix("_gate"), scalar.removeprefix("alpha_")
