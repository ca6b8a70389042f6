"""Conversion table of DINO's vision transformers, by the names in the published weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from smcd_jax.errors import SMCDError
from smcd_jax.nn.config import DINOConfig
from smcd_jax.weights.conversion_engine import Shaped
from smcd_jax.weights.conversion_table import CONV, LINEAR, Row, array, norm, under, weighted

HEAD_WIDTH = 64  # channels per attention head of every published DINO; cannot be inferred from shapes

_BLOCK = (
    norm("norm1", "norm_attention")
    + norm("norm2", "norm_mlp")
    + weighted("attn.qkv", "attention/query_key_value", LINEAR)
    + weighted("attn.proj", "attention/out", LINEAR)
    + weighted("mlp.fc1", "dense_in", LINEAR)
    + weighted("mlp.fc2", "dense_out", LINEAR)
)


def dino_rows(config: DINOConfig) -> list[Row]:
    """Returns the table of the backbone, such as ``dino_deitsmall16_pretrain.pth``."""
    rows = array("cls_token", "class_token") + array("pos_embed", "position_embedding")
    rows += weighted("patch_embed.proj", "patch_embedding", CONV) + norm("norm", "norm_out")
    for layer in range(config.layers):
        rows += under(f"blocks.{layer}", f"block_{layer}", _BLOCK)
    return rows


def dino_config(tensors: Mapping[str, Shaped], *, path: str | os.PathLike[str]) -> DINOConfig:
    """Returns the config of a DINO backbone, from the shapes of its tensors.

    Raises:
        SMCDError: The tensors belong to another network; ``path`` is their file.
    """
    needed = ("patch_embed.proj.weight", "pos_embed")
    if absent := [name for name in needed if name not in tensors]:
        raise SMCDError(
            f"{path} contains no DINO transformer: {absent[0]} is missing; pass the file of the backbone, not a "
            "training checkpoint",
            path=path,
            value=absent[0],
        )
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    numbers = [int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))]
    return DINOConfig(
        picture_size=side * patch,
        patch=patch,
        width=width,
        heads=max(1, width // HEAD_WIDTH),
        layers=max(numbers, default=-1) + 1,
    )
