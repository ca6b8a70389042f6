"""Names of the gate scalars of `smcd_jax.nn.gated_attention` in parameter paths."""

from __future__ import annotations

GATE_SCALARS = ("alpha_attention", "alpha_ff", "beta_object", "beta_image")
GATE_KINDS = ("object", "image")
_INNER = ("unet", "attended", "spatial", "block")  # parts of a path that are the same for every gate


def is_gate(path: str) -> bool:
    """Returns whether a parameter path is that of a gate scalar."""
    return path.rsplit("/", 1)[-1] in GATE_SCALARS


def gate_name(path: str) -> tuple[str, str, str]:
    """Returns block, kind and part of a gate scalar, from its path.

    Returns:
        For example, ("encoder_1", "object", "attention") for
        "unet/encoder_1/spatial/block/gates/object_gate/alpha_attention"; the part is "branch" for scalars that weight a
        whole branch.
    """
    block, _, inner = path.partition("/gates/")
    block = "/".join(part for part in block.split("/") if part not in _INNER)
    if inner.startswith("beta_"):
        return block, inner.removeprefix("beta_"), "branch"
    gate, scalar = inner.split("/")
    return block, gate.removesuffix("_gate"), scalar.removeprefix("alpha_")
