"""Names of ModelScope text-to-video in the diffusers layout: UNet3DConditionModel, AutoencoderKL and CLIPTextModel."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from smcd_jax.conversion.unet_table import temporal_conv_rows, transformer_rows
from smcd_jax.errors import SMCDError
from smcd_jax.nn.config import AutoencoderConfig, UNetConfig
from smcd_jax.weights.conversion_engine import Shaped
from smcd_jax.weights.conversion_table import CONV, LINEAR, POINTWISE_2D, Row, norm, under, weighted
from smcd_jax.weights.tensor_files import LazyTensor


def unet_rows(config: UNetConfig) -> list[Row]:
    """Every array of the UNet; diffusers groups blocks by level where the original numbers them through."""
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


def autoencoder_rows(config: AutoencoderConfig) -> list[Row]:
    """Every array of the autoencoder; the decoder's levels are numbered from the lowest resolution here."""
    rows, width, top = [], config.base_channels, len(config.channel_mult) - 1
    for level, multiplier in enumerate(config.channel_mult):
        for part in range(config.num_res_blocks):
            skip, width = width != config.base_channels * multiplier, config.base_channels * multiplier
            torch, path = f"encoder.down_blocks.{level}.resnets.{part}", f"encoder/down_{level}_residual_{part}"
            rows += under(torch, path, _picture_residual_rows(skip=skip))
        if level < top:
            torch = f"encoder.down_blocks.{level}.downsamplers.0.conv"
            rows += weighted(torch, f"encoder/down_{level}_downsample", CONV)
    for place, level in enumerate(reversed(range(top + 1))):
        for part in range(config.num_res_blocks + 1):
            channels = config.base_channels * config.channel_mult[level]
            skip, width = width != channels, channels
            torch, path = f"decoder.up_blocks.{place}.resnets.{part}", f"decoder/up_{level}_residual_{part}"
            rows += under(torch, path, _picture_residual_rows(skip=skip))
        if level > 0:
            torch = f"decoder.up_blocks.{place}.upsamplers.0.conv"
            rows += weighted(torch, f"decoder/up_{level}_upsample/conv", CONV)
    for side in ("encoder", "decoder"):
        rows += weighted(f"{side}.conv_in", f"{side}/conv_in", CONV)
        for part in range(2):
            torch, path = f"{side}.mid_block.resnets.{part}", f"{side}/middle/residual_{part}"
            rows += under(torch, path, _picture_residual_rows(skip=False))
        rows += under(f"{side}.mid_block.attentions.0", f"{side}/middle/attention", _picture_attention_rows())
        rows += norm(f"{side}.conv_norm_out", f"{side}/norm_out") + weighted(
            f"{side}.conv_out", f"{side}/conv_out", CONV
        )
    return (
        rows + weighted("quant_conv", "quant", POINTWISE_2D) + weighted("post_quant_conv", "post_quant", POINTWISE_2D)
    )


def openclip_names(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors of transformers' CLIPTextModel under OpenCLIP's names, queries, keys and values joined as there.

    Raises:
        SMCDError: a name that belongs to no CLIP text model.
    """
    renamed: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix("text_model.")
        if short == "embeddings.position_ids":
            continue
        if found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", short):
            layer, which, kind = found.groups()
            if which == "q":
                parts = [tensors[name.replace(".q_proj.", f".{other}_proj.")] for other in "qkv"]
                renamed[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = _joined(parts)
            continue
        renamed[_openclip_name(short)] = tensor
    return renamed


def autoencoder_tensors(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors under today's names: files made before diffusers 0.18 call the attention's layers otherwise."""
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    pattern = re.compile(r"(.*\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)")
    today = lambda name: f"{f[1]}.{old[f[2]]}.{f[3]}" if (f := pattern.fullmatch(name)) else name  # noqa: E731
    return {today(name): tensor for name, tensor in tensors.items()}


def unet_config(described: Mapping[str, object], *, where: str) -> UNetConfig:
    """Our config from a ``unet/config.json``.

    Raises:
        SMCDError: a class or option that this family of UNets does not have.
    """
    if described.get("_class_name", "UNet3DConditionModel") != "UNet3DConditionModel":
        raise SMCDError(
            f"{where} is of a {described['_class_name']}; the diffusers layout of ModelScope text-to-video is needed"
        )
    widths = list(described["block_out_channels"])
    attended = tuple(
        0.5**level for level, kind in enumerate(described["down_block_types"]) if kind.startswith("CrossAttn")
    )
    head = described["attention_head_dim"]
    return UNetConfig(
        latent_channels=described["out_channels"],
        base_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=described["layers_per_block"],
        attention_scales=attended,
        head_dim=head,
        stem_heads=8,
        context_dim=described["cross_attention_dim"],
        image_latent=described["in_channels"] == 2 * described["out_channels"],
    )


def autoencoder_config(described: Mapping[str, object]) -> AutoencoderConfig:
    """Our config from a ``vae/config.json``."""
    widths = list(described["block_out_channels"])
    return AutoencoderConfig(
        base_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=described["layers_per_block"],
        latent_channels=described["latent_channels"],
        picture_channels=described["in_channels"],
        scaling_factor=described.get("scaling_factor", 0.18215),
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


def _picture_residual_rows(*, skip: bool) -> list[Row]:
    rows = norm("norm1", "norm_0") + weighted("conv1", "conv_0", CONV)
    rows += norm("norm2", "norm_1") + weighted("conv2", "conv_1", CONV)
    return rows + (weighted("conv_shortcut", "skip", POINTWISE_2D) if skip else [])


def _picture_attention_rows() -> list[Row]:
    rows = norm("group_norm", "norm")
    for torch, path in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "out")):
        rows += weighted(torch, path, LINEAR)
    return rows


def _openclip_name(short: str) -> str:
    whole = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    if short in whole:
        return whole[short]
    parts = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", short)
    if found is None or found[2] not in parts:
        raise SMCDError(f"text_encoder: {short} belongs to no CLIP text model; is this the right folder?")
    return f"transformer.resblocks.{found[1]}.{parts[found[2]]}.{found[3]}"


def _joined(parts: list[Shaped]) -> LazyTensor:
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return LazyTensor(shape, lambda: np.concatenate([part.numpy() for part in parts]))
