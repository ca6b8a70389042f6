"""Conversion table of the motion UNet in LVMM's ``UNet3D.pth`` and, under ``denoise_fn.``, in LFDM's files."""

from __future__ import annotations

import itertools

from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.weights.conversion_table import (
    FRAMEWISE,
    LINEAR,
    POINTWISE_2D,
    POINTWISE_3D,
    Layout,
    Row,
    array,
    norm,
    under,
    weighted,
)

GAMMA = Layout(ones=(0, 2, 3, 4))  # [1, c, 1, 1, 1] -> [c]


def motion_unet_rows(config: MotionUNetConfig) -> list[Row]:
    """Returns the table of the network's parameters; `rotary_names` lists the buffers."""
    rows = array("time_rel_pos_bias.relative_attention_bias.weight", "relative_bias")
    rows += array("null_cond_emb", "null_condition") if config.learned_null else []
    rows += weighted("init_conv", "conv_in", FRAMEWISE) + number_embedding_rows("time_mlp", "time_embedding")
    rows += number_embedding_rows("seq_mlp", "index_embedding") if config.per_frame else []
    fused = config.condition == "vector"
    rows += under("init_temporal_attn", "input_attention", attention_rows(fused=fused))
    widths = (config.base_channels, *config.widths)
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        rows += under(f"downs.{index}", f"encoder_{index}", _level_rows(config, skip=inputs != outputs))
        if index < len(config.widths) - 1:
            rows += weighted(f"downs.{index}.{_resampler(config)}", f"downsample_{index}/conv", FRAMEWISE)
    rows += under("mid_block1", "middle/residual_0", residual_rows())
    rows += under("mid_spatial_attn", "middle/spatial_attention", attention_rows(fused=fused))
    if not fused:
        rows += under("mid_cross_attn", "middle/cross_attention", attention_rows())
    rows += under("mid_temporal_attn", "middle/frame_attention", attention_rows(fused=fused))
    rows += under("mid_block2", "middle/residual_1", residual_rows())
    for index in range(len(config.widths)):
        rows += under(f"ups.{index}", f"decoder_{index}", _level_rows(config, skip=True))
        if index < len(config.widths) - 1:
            rows += upsample_rows(config, f"ups.{index}.{_resampler(config)}", f"upsample_{index}")
    for torch, path, outputs in (
        ("final_conv", "grid_head", config.grid_channels),
        ("occlusion_map", "confidence_head", config.confidence_channels),
    ):
        if outputs:
            rows += under(f"{torch}.0", f"{path}/residual", residual_rows(skip=True, time=False))
            rows += weighted(f"{torch}.1", f"{path}/out", POINTWISE_3D)
    return rows


def rotary_names(config: MotionUNetConfig) -> list[str]:
    """Returns the names of the buffers of rotary frequencies, the same constants in each temporal attention."""
    names = ["init_temporal_attn"]
    if not config.per_frame:
        layer, levels = _resampler(config) - 1, range(len(config.widths))
        names += [f"downs.{index}.{layer}" for index in levels] + ["mid_temporal_attn"]
        names += [f"ups.{index}.{layer}" for index in levels]
    return [f"{name}.fn.fn.fn.rotary_emb.freqs" for name in names]


def number_embedding_rows(torch: str, path: str) -> list[Row]:
    """Returns the rows of the embedding of a number."""
    return weighted(f"{torch}.1", f"{path}/dense_in", LINEAR) + weighted(f"{torch}.3", f"{path}/dense_out", LINEAR)


def residual_rows(*, skip: bool = False, time: bool = True) -> list[Row]:
    """Returns the rows of a residual block, with a convolution of its input and a layer for the embedding."""
    rows = weighted("block1.proj", "conv_in", FRAMEWISE) + norm("block1.norm", "norm_in")
    rows += weighted("block2.proj", "conv_out", FRAMEWISE) + norm("block2.norm", "norm_out")
    rows += weighted("mlp.1", "time", LINEAR) if time else []
    return rows + (weighted("res_conv", "skip", POINTWISE_3D) if skip else [])


def attention_rows(*, fused: bool = False) -> list[Row]:
    """Returns the rows of an attention layer and its norm."""
    names = {"to_qkv": "query_key_value"} if fused else {"to_q": "query", "to_kv": "key_value"}
    rows = array("fn.norm.gamma", "norm/scale", GAMMA)
    for torch, path in {**names, "to_out": "out"}.items():
        rows += weighted(f"fn.fn.fn.{torch}", path, LINEAR, bias=False)
    return rows


def linear_attention_rows() -> list[Row]:
    """Returns the rows of linear spatial attention and its norm."""
    rows = array("fn.norm.gamma", "norm/scale", GAMMA)
    rows += weighted("fn.fn.to_qkv", "query_key_value", POINTWISE_2D, bias=False)
    return rows + weighted("fn.fn.to_out", "out", POINTWISE_2D)


def upsample_rows(config: MotionUNetConfig, torch: str, path: str) -> list[Row]:
    """Returns the rows of an upsampling layer."""
    if config.upsampling == "deconv":
        return weighted(torch, f"{path}/deconv", FRAMEWISE)
    return weighted(f"{torch}.1", f"{path}/conv", FRAMEWISE)


def _level_rows(config: MotionUNetConfig, *, skip: bool) -> list[Row]:
    rows = under("0", "residual_0", residual_rows(skip=skip)) + under("1", "residual_1", residual_rows())
    rows += under("2", "linear_attention", linear_attention_rows())
    fused = config.condition == "vector"
    rows += [] if fused else under("3", "cross_attention", attention_rows())
    return rows + under("3" if fused else "4", "frame_attention", attention_rows(fused=fused))


def _resampler(config: MotionUNetConfig) -> int:
    """Returns the index of the resampling layer among the layers of a level."""
    return 4 if config.condition == "vector" else 5
