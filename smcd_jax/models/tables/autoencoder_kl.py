"""Conversion tables of the KL autoencoder, for Stable Diffusion's files and for diffusers' AutoencoderKL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from smcd_jax.models.tables.shapes import Tensors, TensorShapes
from smcd_jax.nn.config import AutoencoderConfig
from smcd_jax.weights.conversion_table import CONV, LINEAR, POINTWISE_2D, Layout, Row, norm, under, weighted
from smcd_jax.weights.tensor_files import LazyTensor

PREFIX = "first_stage_model."  # prefix of the autoencoder in the file of a complete latent diffusion model


def autoencoder_rows(config: AutoencoderConfig) -> list[Row]:
    """Returns the table of the autoencoder of Stable Diffusion and ModelScope, without `PREFIX`."""
    rows = weighted("encoder.conv_in", "encoder/conv_in", CONV)
    width, top = config.base_channels, len(config.channel_mult) - 1
    for level, multiplier in enumerate(config.channel_mult):
        for index in range(config.num_res_blocks):
            skip, width = width != config.base_channels * multiplier, config.base_channels * multiplier
            torch, path = f"encoder.down.{level}.block.{index}", f"encoder/down_{level}_residual_{index}"
            rows += under(torch, path, _residual_rows("nin_shortcut" if skip else None))
        if level < top:
            rows += weighted(f"encoder.down.{level}.downsample.conv", f"encoder/down_{level}_downsample", CONV)
    for level, multiplier in reversed(list(enumerate(config.channel_mult))):
        for index in range(config.num_res_blocks + 1):
            skip, width = width != config.base_channels * multiplier, config.base_channels * multiplier
            torch, path = f"decoder.up.{level}.block.{index}", f"decoder/up_{level}_residual_{index}"
            rows += under(torch, path, _residual_rows("nin_shortcut" if skip else None))
        if level > 0:
            rows += weighted(f"decoder.up.{level}.upsample.conv", f"decoder/up_{level}_upsample/conv", CONV)
    rows += weighted("decoder.conv_in", "decoder/conv_in", CONV)
    names = {"norm": "norm", "q": "query", "k": "key", "v": "value", "proj_out": "out"}
    for side in ("encoder", "decoder"):
        for part in range(2):
            rows += under(f"{side}.mid.block_{part + 1}", f"{side}/middle/residual_{part}", _residual_rows(None))
        rows += under(f"{side}.mid.attn_1", f"{side}/middle/attention", _attention_rows(names, POINTWISE_2D))
        rows += norm(f"{side}.norm_out", f"{side}/norm_out") + weighted(f"{side}.conv_out", f"{side}/conv_out", CONV)
    return rows + _quantization_rows()


def autoencoder_config(tensors: Tensors, *, path: str | os.PathLike[str]) -> AutoencoderConfig:
    """Returns the config of an autoencoder, from the shapes of its tensors, without `PREFIX`.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="KL autoencoder")
    width, levels = shapes["encoder.conv_in.weight"][0], shapes.count(r"encoder\.down\.(\d+)\.")
    return AutoencoderConfig(
        base_channels=width,
        channel_mult=tuple(shapes[f"encoder.down.{level}.block.0.conv1.weight"][0] // width for level in range(levels)),
        num_res_blocks=shapes.count(r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=shapes["post_quant_conv.weight"][0],
        picture_channels=shapes["encoder.conv_in.weight"][1],
    )


def diffusers_rows(config: AutoencoderConfig) -> list[Row]:
    """Returns the table of diffusers' AutoencoderKL, which numbers the decoder's levels from the lowest resolution."""
    rows, width, top = [], config.base_channels, len(config.channel_mult) - 1
    for level, multiplier in enumerate(config.channel_mult):
        for part in range(config.num_res_blocks):
            skip, width = width != config.base_channels * multiplier, config.base_channels * multiplier
            torch, path = f"encoder.down_blocks.{level}.resnets.{part}", f"encoder/down_{level}_residual_{part}"
            rows += under(torch, path, _residual_rows("conv_shortcut" if skip else None))
        if level < top:
            torch = f"encoder.down_blocks.{level}.downsamplers.0.conv"
            rows += weighted(torch, f"encoder/down_{level}_downsample", CONV)
    for place, level in enumerate(reversed(range(top + 1))):
        for part in range(config.num_res_blocks + 1):
            channels = config.base_channels * config.channel_mult[level]
            skip, width = width != channels, channels
            torch, path = f"decoder.up_blocks.{place}.resnets.{part}", f"decoder/up_{level}_residual_{part}"
            rows += under(torch, path, _residual_rows("conv_shortcut" if skip else None))
        if level > 0:
            torch = f"decoder.up_blocks.{place}.upsamplers.0.conv"
            rows += weighted(torch, f"decoder/up_{level}_upsample/conv", CONV)
    names = {"group_norm": "norm", "to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "out"}
    for side in ("encoder", "decoder"):
        rows += weighted(f"{side}.conv_in", f"{side}/conv_in", CONV)
        for part in range(2):
            torch, path = f"{side}.mid_block.resnets.{part}", f"{side}/middle/residual_{part}"
            rows += under(torch, path, _residual_rows(None))
        rows += under(f"{side}.mid_block.attentions.0", f"{side}/middle/attention", _attention_rows(names, LINEAR))
        rows += norm(f"{side}.conv_norm_out", f"{side}/norm_out")
        rows += weighted(f"{side}.conv_out", f"{side}/conv_out", CONV)
    return rows + _quantization_rows()


def diffusers_tensors(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Returns the tensors of AutoencoderKL by the names that diffusers uses for attention layers since 0.18."""
    current = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    old = re.compile(r"(.*\.attentions\.0\.)(query|key|value|proj_attn)(\.(?:weight|bias))")
    return {
        f"{match[1]}{current[match[2]]}{match[3]}" if (match := old.fullmatch(name)) else name: tensor
        for name, tensor in tensors.items()
    }


def diffusers_config(described: Mapping[str, object]) -> AutoencoderConfig:
    """Returns the config of an AutoencoderKL, from the values of its ``config.json``."""
    widths = list(described["block_out_channels"])
    return AutoencoderConfig(
        base_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=described["layers_per_block"],
        latent_channels=described["latent_channels"],
        picture_channels=described["in_channels"],
        scaling_factor=described.get("scaling_factor", 0.18215),
    )


def _residual_rows(skip: str | None) -> list[Row]:
    """Returns the rows of a residual block; ``skip`` is the PyTorch name of its shortcut convolution, if it has one."""
    rows = norm("norm1", "norm_0") + weighted("conv1", "conv_0", CONV)
    rows += norm("norm2", "norm_1") + weighted("conv2", "conv_1", CONV)
    return rows + (weighted(skip, "skip", POINTWISE_2D) if skip else [])


def _attention_rows(names: Mapping[str, str], layout: Layout) -> list[Row]:
    rows: list[Row] = []
    for torch, path in names.items():
        rows += norm(torch, path) if path == "norm" else weighted(torch, path, layout)
    return rows


def _quantization_rows() -> list[Row]:
    return weighted("quant_conv", "quant", POINTWISE_2D) + weighted("post_quant_conv", "post_quant", POINTWISE_2D)
