"""Files of the flow autoencoder of LFDM and MRAA: configs from names and shapes, and tables with their prefixes."""

from __future__ import annotations

import os
import re
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundMotion,
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.models.lvmm.conversion.autoencoder_table import (
    background_predictor_rows,
    flow_predictor_rows,
    region_predictor_rows,
    renderer_rows,
)
from smcd_jax.models.tables.shapes import Tensors, TensorShapes
from smcd_jax.weights.conversion_table import Row

GROUPS = ("generator", "region_predictor", "bg_predictor", "avd_network")  # keys of the dictionaries in a file
AUTOENCODER_COMPONENTS = ("region_predictor", "flow_predictor", "renderer", "background_predictor")
_PREFIXES = ("region_predictor.", "generator.pixelwise_flow_predictor.", "generator.", "bg_predictor.")
_PREFIX_OF = dict(zip(AUTOENCODER_COMPONENTS, _PREFIXES, strict=True))
_TABLES = (region_predictor_rows, flow_predictor_rows, renderer_rows, background_predictor_rows)
_TABLE_OF = dict(zip(AUTOENCODER_COMPONENTS, _TABLES, strict=True))
_FREE: dict[int, BackgroundMotion] = {2: "shift", 6: "affine", 8: "perspective"}


def autoencoder_rows(component: str, config: Any) -> list[Row]:
    """Returns the conversion table of a component, with names as in a file that holds all components."""
    return [row._replace(torch=_PREFIX_OF[component] + row.torch) for row in _TABLE_OF[component](config)]


def autoencoder_configs(tensors: Tensors, *, padding: int, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the config of each component of a file of LFDM or MRAA; None for an absent background predictor.

    Shapes determine sizes and variants. Other settings are those of all published weights: temperature 0.1, Gaussians
    with covariance, reverted axis swaps, skips, and sampling without aligned corners.

    Args:
        tensors: Tensors by name; each name starts with the dictionary's key and a dot.
        padding: Padding of the convolution to heat maps.
        path: File, for error messages.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="flow autoencoder of LFDM or MRAA")
    found = {
        "region_predictor": _region_predictor(shapes, padding),
        "flow_predictor": _flow_predictor(shapes),
        "renderer": _renderer(shapes),
        "background_predictor": None,
    }
    if any(name.startswith("bg_predictor.") for name in tensors):
        found["background_predictor"] = _background_predictor(shapes, path)
    return found


def _region_predictor(shapes: TensorShapes, padding: int) -> RegionPredictorConfig:
    regions, _, _, _ = shapes["region_predictor.regions.weight"]
    return RegionPredictorConfig(
        regions=regions,
        channels=shapes["region_predictor.predictor.encoder.down_blocks.0.conv.weight"][1],
        **_hourglass(shapes, "region_predictor.predictor."),
        scale=_scale(shapes, "region_predictor.down.weight"),
        padding=padding,
        affine="jacobian" if "region_predictor.jacobian.weight" in shapes else "pca",
    )


def _flow_predictor(shapes: TensorShapes) -> FlowPredictorConfig:
    prefix = _PREFIX_OF["flow_predictor"]
    motions = shapes[f"{prefix}mask.weight"][0]
    channels = shapes["generator.first.conv.weight"][1]
    inputs = shapes[f"{prefix}hourglass.encoder.down_blocks.0.conv.weight"][1]
    return FlowPredictorConfig(
        regions=motions - 1,
        channels=channels,
        **_hourglass(shapes, f"{prefix}hourglass."),
        scale=_scale(shapes, f"{prefix}down.weight"),
        deformed_sources=inputs == motions * (channels + 1),
        occlusion=f"{prefix}occlusion.weight" in shapes,
        align_corners=False,
    )


def _renderer(shapes: TensorShapes) -> RendererConfig:
    levels = shapes.count(r"generator\.down_blocks\.(\d+)\.")
    base, channels = shapes["generator.first.conv.weight"][:2]
    return RendererConfig(
        channels=channels,
        base_channels=base,
        max_channels=shapes[f"generator.down_blocks.{levels - 1}.conv.weight"][0] if levels else base,
        levels=levels,
        residual_blocks=shapes.count(r"generator\.bottleneck\.r(\d+)\."),
        align_corners=False,
        without_occlusion="replace",
    )


def _background_predictor(shapes: TensorShapes, path: str | os.PathLike[str]) -> BackgroundPredictorConfig:
    outputs, _ = shapes["bg_predictor.fc.weight"]
    if outputs not in _FREE:
        message = f"{path}: bg_predictor.fc must have 2, 6 or 8 outputs, got {outputs}"
        raise SMCDError(message, path=path, value=outputs)
    levels = shapes.count(r"bg_predictor\.encoder\.down_blocks\.(\d+)\.")
    first, inputs = shapes["bg_predictor.encoder.down_blocks.0.conv.weight"][:2]
    return BackgroundPredictorConfig(
        channels=inputs // 2,
        base_channels=first // 2,
        max_channels=shapes[f"bg_predictor.encoder.down_blocks.{levels - 1}.conv.weight"][0],
        levels=levels,
        motion=_FREE[outputs],
    )


def _hourglass(shapes: TensorShapes, prefix: str) -> dict[str, int]:
    """Returns channels and levels; the deepest level has the largest number of channels."""
    levels = shapes.count(rf"{re.escape(prefix)}encoder\.down_blocks\.(\d+)\.")
    return {
        "levels": levels,
        "base_channels": shapes[f"{prefix}decoder.up_blocks.{levels - 1}.conv.weight"][0],
        "max_channels": shapes[f"{prefix}encoder.down_blocks.{levels - 1}.conv.weight"][0],
    }


def _scale(shapes: TensorShapes, name: str) -> float:
    """Returns the scale whose antialiasing blur has the stored kernel; 1 without a kernel."""
    return 4 / (shapes[name][-1] + 3) if name in shapes else 1.0
