"""Conversion table of the position net, by its published names (GLIGEN, SMCD)."""

from __future__ import annotations

import os

from smcd_jax.models.tables.shapes import Tensors, TensorShapes
from smcd_jax.nn.config import PositionNetConfig
from smcd_jax.weights.conversion_table import LINEAR, Row, array, weighted


def position_net_rows(config: PositionNetConfig) -> list[Row]:
    """Returns the table of the position net, such as SMCD's ``pytorch_model_1.bin``."""
    rows = array("null_positive_feature", "null_label") + array("null_position_feature", "null_box")
    for index in range(3):
        rows += weighted(f"linears.{2 * index}", f"dense_{index}", LINEAR)
    return rows


def position_net_config(tensors: Tensors, *, path: str | os.PathLike[str]) -> PositionNetConfig:
    """Returns the config of a position net, from the shapes of its tensors.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="position net")
    return PositionNetConfig(
        label_width=shapes["null_positive_feature"][0],
        token_width=shapes["linears.4.weight"][0],
        hidden_width=shapes["linears.0.weight"][0],
        frequencies=shapes["null_position_feature"][0] // 8,
    )
