"""Conversion table of ModelScope's text-to-video UNet in the form of diffusers' UNet3DConditionModel."""

from __future__ import annotations

import os
from collections.abc import Mapping

from smcd_jax.errors import SMCDError
from smcd_jax.models.tables.unet_blocks import temporal_conv_rows, transformer_rows
from smcd_jax.nn.config import UNetConfig
from smcd_jax.weights.conversion_table import CONV, LINEAR, POINTWISE_2D, Row, norm, under, weighted


def unet_rows(config: UNetConfig) -> list[Row]:
    """Returns the table of the UNet, whose blocks diffusers groups by level."""
    rows = weighted("time_embedding.linear_1", "time_embedding/dense_in", LINEAR)
    rows += weighted("time_embedding.linear_2", "time_embedding/dense_out", LINEAR)
    rows += weighted("conv_in", "encoder_0/conv", CONV)
    rows += under("transformer_in", "encoder_0/temporal", transformer_rows(LINEAR))
    top = len(config.channel_mult) - 1
    index, width = 1, config.base_channels
    for level, multiplier in enumerate(config.channel_mult):
        channels, block = config.base_channels * multiplier, f"down_blocks.{level}"
        attended = 0.5**level in config.attention_scales
        for part in range(config.num_res_blocks):
            skip = channels != width
            rows += _block_rows(block, part, f"encoder_{index}", skip=skip, attention=attended)
            index, width = index + 1, channels
        if level < top:
            rows += weighted(f"{block}.downsamplers.0.conv", f"encoder_{index}/downsample/conv", CONV)
            index += 1
    rows += under("mid_block.resnets.0", "middle/attended/residual", _residual_rows(skip=False))
    rows += under("mid_block.temp_convs.0", "middle/attended/residual/temporal_conv", temporal_conv_rows())
    rows += under("mid_block.attentions.0", "middle/attended/spatial", transformer_rows(LINEAR))
    rows += under("mid_block.temp_attentions.0", "middle/attended/temporal", transformer_rows(LINEAR))
    rows += under("mid_block.resnets.1", "middle/plain/residual", _residual_rows(skip=False))
    rows += under("mid_block.temp_convs.1", "middle/plain/residual/temporal_conv", temporal_conv_rows())
    per_level = config.num_res_blocks + 1
    for place, level in enumerate(reversed(range(top + 1))):
        block, attended = f"up_blocks.{place}", 0.5**level in config.attention_scales
        for part in range(per_level):
            rows += _block_rows(block, part, f"decoder_{place * per_level + part}", skip=True, attention=attended)
        if level > 0:
            last = f"decoder_{(place + 1) * per_level - 1}"
            rows += weighted(f"{block}.upsamplers.0.conv", f"{last}/upsample/conv", CONV)
    return rows + norm("conv_norm_out", "norm_out") + weighted("conv_out", "conv_out", CONV)


def unet_config(described: Mapping[str, object], *, path: str | os.PathLike[str]) -> UNetConfig:
    """Returns the config of the UNet, from the values of its ``config.json``.

    Args:
        described: Values of the file.
        path: The file, for error messages.

    Raises:
        SMCDError: The UNet is of another class.
    """
    class_name = described.get("_class_name", "UNet3DConditionModel")
    if class_name != "UNet3DConditionModel":
        raise SMCDError(
            f"{path}: _class_name must be UNet3DConditionModel, got {class_name}; pass ModelScope text-to-video in "
            "diffusers' layout",
            argument="_class_name",
            path=path,
            value=class_name,
        )
    widths = list(described["block_out_channels"])
    kinds = described["down_block_types"]
    return UNetConfig(
        latent_channels=described["out_channels"],
        base_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=described["layers_per_block"],
        attention_scales=tuple(0.5**level for level, kind in enumerate(kinds) if kind.startswith("CrossAttn")),
        head_dim=described["attention_head_dim"],
        stem_heads=8,
        context_dim=described["cross_attention_dim"],
        image_latent=described["in_channels"] == 2 * described["out_channels"],
    )


def _block_rows(block: str, part: int, path: str, *, skip: bool, attention: bool) -> list[Row]:
    rows = under(f"{block}.resnets.{part}", f"{path}/residual", _residual_rows(skip=skip))
    rows += under(f"{block}.temp_convs.{part}", f"{path}/residual/temporal_conv", temporal_conv_rows())
    if attention:
        rows += under(f"{block}.attentions.{part}", f"{path}/spatial", transformer_rows(LINEAR))
        rows += under(f"{block}.temp_attentions.{part}", f"{path}/temporal", transformer_rows(LINEAR))
    return rows


def _residual_rows(*, skip: bool) -> list[Row]:
    rows = norm("norm1", "norm_in") + weighted("conv1", "conv_in", CONV) + weighted("time_emb_proj", "time", LINEAR)
    rows += norm("norm2", "norm_out") + weighted("conv2", "conv_out", CONV)
    return rows + (weighted("conv_shortcut", "skip", POINTWISE_2D) if skip else [])
