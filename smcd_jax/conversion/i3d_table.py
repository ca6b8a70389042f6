"""Conversion table of I3D, from the PyTorch port that is often used to measure the Frechet video distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from smcd_jax.nn.i3d import I3DConfig
from smcd_jax.weights.conversion_table import CONV_3D, Row, array, norm, under, weighted

Tensor = TypeVar("Tensor")

_COUNTER = (
    ".num_batches_tracked"  # number of training batches that PyTorch's BatchNorm has seen; inference does not use it
)

# Branches of an inception block: name in the port and in Flax
_BRANCHES = {"b0": "point", "b1a": "narrow_0", "b1b": "wide_0", "b2a": "narrow_1", "b2b": "wide_1", "b3b": "pooled"}
_STEM = {"Conv3d_1a_7x7": "stem_in", "Conv3d_2b_1x1": "stem_narrow", "Conv3d_2c_3x3": "stem_wide"}


def i3d_rows(config: I3DConfig) -> list[Row]:
    """Returns the table of ``i3d_pretrained_400.pt`` after `without_counters`."""
    rows = [row for torch, path in _STEM.items() for row in under(torch, path, _unit_rows())]
    for stage, blocks in enumerate(config.stages):
        for block in range(len(blocks)):
            # the port numbers stages from 3 and letters their blocks from b, because "a" is the max pool before them
            torch, path = f"Mixed_{stage + 3}{chr(ord('b') + block)}", f"stage_{stage}_{block}"
            for branch, ours in _BRANCHES.items():
                rows += under(f"{torch}.{branch}", f"{path}/{ours}", _unit_rows())
    return rows + weighted("logits.conv3d", "classes", CONV_3D)


def without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors without BatchNorm's counts of training batches."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)}


def _unit_rows() -> list[Row]:
    rows = weighted("conv3d", "conv", CONV_3D, bias=False) + norm("bn", "norm")
    return rows + array("bn.running_mean", "norm/mean") + array("bn.running_var", "norm/variance")
