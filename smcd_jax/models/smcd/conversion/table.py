"""Conversion tables of SMCD's networks; without gates, the UNet's names are those of ModelScope."""

from __future__ import annotations

from smcd_jax.models.smcd.config import ControlNetConfig, ImageEncoderConfig
from smcd_jax.models.tables.gates import gates_rows
from smcd_jax.models.tables.unet_blocks import embedding_rows, residual_rows, transformer_rows
from smcd_jax.nn.config import Gate, UNetConfig
from smcd_jax.nn.unet_blocks import BlockPlan, decoder_plan, encoder_plan
from smcd_jax.weights.conversion_table import (
    CONV,
    LINEAR,
    POINTWISE_1D,
    POINTWISE_2D,
    Row,
    norm,
    under,
    weighted,
)


def unet_rows(config: UNetConfig) -> list[Row]:
    """Returns the conversion table of the UNet, which is stored in ``pytorch_model.bin``."""
    rows = embedding_rows("time_embed", "time_embedding")
    if config.fps_embedding:
        rows += embedding_rows("fps_embedding", "fps_embedding")
    rows += _encoder_rows(config)
    rows += under("middle_block.0", "middle/attended/residual", residual_rows(skip=False))
    rows += under("middle_block.1", "middle/attended/spatial", spatial_rows(config.gate))
    rows += under("middle_block.2", "middle/attended/temporal", transformer_rows(POINTWISE_1D))
    rows += under("middle_block.3", "middle/plain/residual", residual_rows(skip=False))
    for index, plan in enumerate(decoder_plan(config)):
        # a decoder block also reads a skip connection, so its own shortcut always changes the width
        rows += _block_rows(plan, f"output_blocks.{index}", f"decoder_{index}", gate=config.gate, skip=True)
    return rows + norm("out.0", "norm_out") + weighted("out.2", "conv_out", CONV)


def controlnet_rows(config: ControlNetConfig) -> list[Row]:
    """Returns the table of the ControlNet, for a ``pytorch_model_2.bin`` that holds one."""
    rows = embedding_rows("time_embed", "time_embedding") + _encoder_rows(config.unet)
    rows += weighted("input_hint_block", "hint_conv", CONV)
    for index in range(len(encoder_plan(config.unet))):
        rows += weighted(f"zero_convs.{index}", f"zero_conv_{index}", POINTWISE_2D)
    return rows


def image_encoder_rows(config: ImageEncoderConfig) -> list[Row]:
    """Returns the table of the image encoder, for a ``pytorch_model_2.bin`` that holds one."""
    rows = []
    for block in range(len(config.stages) * config.num_res_blocks):
        parts = weighted("in_conv", "conv_in", CONV)
        parts += weighted("block1", "conv_0", CONV) + weighted("block2", "conv_1", CONV)
        if block % config.num_res_blocks == 0 and block > 0:
            parts += weighted("down_opt.op", "downsample/conv", CONV)
        rows += under(f"body.{block}", f"block_{block}", parts)
    return rows + weighted("conv_in", "conv_in", CONV)


def spatial_rows(gate: Gate) -> list[Row]:
    """Returns the rows of a spatial transformer with its gates."""
    return transformer_rows(LINEAR) + under("transformer_blocks.0.gate_attn", "block/gates", gates_rows(gate))


def _encoder_rows(config: UNetConfig) -> list[Row]:
    """Returns the rows of ``input_blocks``, which the UNet and the ControlNet share."""
    rows, channels = [], config.base_channels
    for index, plan in enumerate(encoder_plan(config)):
        skip = plan.channels != channels
        rows += _block_rows(plan, f"input_blocks.{index}", f"encoder_{index}", gate=config.gate, skip=skip)
        channels = plan.channels
    return rows


def _block_rows(plan: BlockPlan, torch: str, path: str, *, gate: Gate, skip: bool) -> list[Row]:
    """Returns the rows of an ``input_blocks`` or ``output_blocks`` entry, whose parts are numbered in order of use."""
    if plan.kind == "stem":
        stem = weighted("0", "conv", CONV) + under("1", "temporal", transformer_rows(POINTWISE_1D))
        return under(torch, path, stem)
    if plan.kind == "downsample":
        return weighted(f"{torch}.op", f"{path}/downsample/conv", CONV)
    rows = under("0", "residual", residual_rows(skip=skip))
    if plan.attention:
        rows += under("1", "spatial", spatial_rows(gate))
        rows += under("2", "temporal", transformer_rows(POINTWISE_1D))
    if plan.upsample:
        rows += weighted(f"{3 if plan.attention else 1}.conv", "upsample/conv", CONV)
    return under(torch, path, rows)
