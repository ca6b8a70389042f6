"""Conversion tables of the flow autoencoder, with the names of LVMM, LFDM and MRAA."""

from __future__ import annotations

from typing import Any

from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.weights.conversion_table import CONV, LINEAR, Row, array, norm, under, weighted


def region_predictor_rows(config: RegionPredictorConfig) -> list[Row]:
    """Returns the rows of the region predictor."""
    rows = under("predictor", "hourglass", hourglass_rows(config)) + weighted("regions", "regions", CONV)
    return rows + (weighted("jacobian", "jacobian", CONV) if config.affine == "jacobian" else [])


def background_predictor_rows(config: BackgroundPredictorConfig) -> list[Row]:
    """Returns the rows of the background predictor."""
    return under("encoder", "encoder", encoder_rows(config)) + weighted("fc", "fc", LINEAR)


def flow_predictor_rows(config: FlowPredictorConfig) -> list[Row]:
    """Returns the rows of the flow predictor, without the prefix that it has in a generator."""
    rows = under("hourglass", "hourglass", hourglass_rows(config)) + weighted("mask", "mask", CONV)
    return rows + (weighted("occlusion", "occlusion", CONV) if config.occlusion else [])


def renderer_rows(config: RendererConfig) -> list[Row]:
    """Returns the rows of the renderer: those of a generator without its flow predictor."""
    rows = conv_block_rows("first", "first") + weighted("final", "final", CONV)
    for level in range(config.levels):
        for way in ("down", "up"):
            rows += conv_block_rows(f"{way}_blocks.{level}", f"{way}_{level}")
    for block in range(config.residual_blocks):
        rows += under(f"bottleneck.r{block}", f"residual_{block}", residual_block_rows())
    return rows


def hourglass_rows(config: Any) -> list[Row]:
    """Returns the rows of an hourglass."""
    rows = under("encoder", "encoder", encoder_rows(config))
    for level in range(config.levels):
        rows += conv_block_rows(f"decoder.up_blocks.{level}", f"up_{level}")
    return rows


def encoder_rows(config: Any) -> list[Row]:
    """Returns the rows of an encoder."""
    return [row for level in range(config.levels) for row in conv_block_rows(f"down_blocks.{level}", f"down_{level}")]


def conv_block_rows(torch: str, path: str) -> list[Row]:
    """Returns the rows of a convolution with BatchNorm."""
    return weighted(f"{torch}.conv", f"{path}/conv", CONV) + batch_norm_rows(f"{torch}.norm", f"{path}/norm")


def residual_block_rows() -> list[Row]:
    """Returns the rows of a residual block."""
    rows: list[Row] = []
    for index in (1, 2):
        rows += weighted(f"conv{index}", f"conv_{index}", CONV) + batch_norm_rows(f"norm{index}", f"norm_{index}")
    return rows


def batch_norm_rows(torch: str, path: str) -> list[Row]:
    """Returns the rows of a BatchNorm, without ``num_batches_tracked``, which no computation uses."""
    statistics = array(f"{torch}.running_mean", f"{path}/mean") + array(f"{torch}.running_var", f"{path}/variance")
    return norm(torch, path) + statistics
