"""Conversion table of SMCD's gates, which several families' UNets contain."""

from __future__ import annotations

from smcd_jax.models.tables.unet_blocks import attention_rows, feed_forward_rows
from smcd_jax.nn.config import Gate
from smcd_jax.weights.conversion_table import LINEAR, Row, array, norm, under, weighted


def gates_rows(gate: Gate) -> list[Row]:
    """Returns the rows of the gates of one block, ``gate_attn`` in SMCD's files."""
    if gate == "none":
        return []
    rows = weighted("linear", "project_objects", LINEAR) + _gate_rows("", "object_gate")
    if gate in ("object_image", "parallel"):
        rows += weighted("v_linear", "project_image", LINEAR) + _gate_rows("cross_", "image_gate")
    if gate == "double":
        rows += weighted("visual_linear", "project_image", LINEAR) + _gate_rows("visual_", "image_gate")
    if gate == "merge":
        rows += weighted("v_linear", "project_image", LINEAR)
    if gate in ("parallel", "double"):
        rows += array("beta_g", "beta_object") + array("beta_v", "beta_image")
    return rows


def _gate_rows(prefix: str, path: str) -> list[Row]:
    """Returns the rows of one gate, whose PyTorch names start with ``prefix``."""
    rows = array(f"{prefix}alpha_attn", f"{path}/alpha_attention") + array(f"{prefix}alpha_dense", f"{path}/alpha_ff")
    rows += under(f"{prefix}attn", f"{path}/attention", attention_rows())
    rows += under(f"{prefix}ff", f"{path}/ff", feed_forward_rows())
    return rows + norm(f"{prefix}norm1", f"{path}/norm_attention") + norm(f"{prefix}norm2", f"{path}/norm_ff")
