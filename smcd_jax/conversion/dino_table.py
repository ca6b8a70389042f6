"""Names of DINO's vision transformers in the weights their authors published."""

from __future__ import annotations

import re
from collections.abc import Mapping

from smcd_jax.errors import SMCDError
from smcd_jax.nn.config import DINOConfig
from smcd_jax.weights.conversion_engine import Shaped
from smcd_jax.weights.conversion_table import CONV, LINEAR, Row, array, norm, under, weighted

HEAD_WIDTH = 64  # of every published DINO transformer; shapes do not tell

_BLOCK = (
    norm("norm1", "norm_attention")
    + norm("norm2", "norm_mlp")
    + weighted("attn.qkv", "attention/query_key_value", LINEAR)
    + weighted("attn.proj", "attention/out", LINEAR)
    + weighted("mlp.fc1", "dense_in", LINEAR)
    + weighted("mlp.fc2", "dense_out", LINEAR)
)


def dino_rows(config: DINOConfig) -> list[Row]:
    """``dino_deitsmall16_pretrain.pth`` and ``dino_vitbase16_pretrain.pth``: the backbone, without projection head."""
    rows = array("cls_token", "class_token") + array("pos_embed", "position_embedding")
    rows += weighted("patch_embed.proj", "patch_embedding", CONV) + norm("norm", "norm_out")
    for layer in range(config.layers):
        rows += under(f"blocks.{layer}", f"block_{layer}", _BLOCK)
    return rows


def dino_config(tensors: Mapping[str, Shaped], *, where: str) -> DINOConfig:
    """The config of a DINO backbone, off its names and shapes.

    Raises:
        SMCDError: a tensor that every such backbone has is missing; ``where`` says in which file.
    """
    needed = ("patch_embed.proj.weight", "pos_embed")
    if absent := [name for name in needed if name not in tensors]:
        raise SMCDError(
            f"{where} holds no DINO transformer: {absent[0]} is missing. Give the backbone's own file, not a whole "
            "training checkpoint"
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
