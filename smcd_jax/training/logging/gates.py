"""Opening of every gate, for the log: a gate that stays near 0 means that its condition has no effect."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.nn.gate_names import GATE_KINDS, gate_name, is_gate
from smcd_jax.nn.networks import Params, flatten


def gate_report(params: Params) -> dict[str, Float[Array, ""]]:
    """Returns tanh of each gate scalar, in -1..1, and the mean of its absolute value by kind.

    The function is pure, so it can run inside `jax.jit`; the results are float32 scalars on the device.

    Args:
        params: Parameters of the UNet, or a tree that holds them under "unet"; other parameters are ignored.

    Returns:
        Openings by name: "gates/BLOCK/KIND/PART" for each scalar, and "gates/mean/KIND". BLOCK is "encoder_1",
        "middle", "decoder_4" and so on, KIND is "object" or "image", PART is "attention", "ff", or "branch" in the
        forms that weight a whole branch. Empty for a tree without gates.
    """
    report: dict[str, Array] = {}
    by_kind: dict[str, list[Array]] = {kind: [] for kind in GATE_KINDS}
    for path, leaf in sorted(flatten(params).items()):
        if not is_gate(path):
            continue
        block, kind, part = gate_name(path)
        opening = jnp.tanh(leaf.astype(jnp.float32))
        report[f"gates/{block}/{kind}/{part}"] = opening
        by_kind[kind].append(jnp.abs(opening))
    means = {f"gates/mean/{kind}": jnp.mean(jnp.stack(values)) for kind, values in by_kind.items() if values}
    return means | report


def gate_values(params: Params) -> dict[str, float]:
    """Returns `gate_report` as numbers on the host; waits for the parameters."""
    return {name: float(value) for name, value in jax.device_get(jax.jit(gate_report)(params)).items()}
