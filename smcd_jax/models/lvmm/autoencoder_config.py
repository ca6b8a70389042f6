"""Sizes of the networks of the flow autoencoder. Defaults are those that LFDM published for faces (MUG).

Every hourglass and encoder has ``base_channels`` channels at full size, and each of its ``levels`` doubles the channels
up to ``max_channels``.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

AffineForm = Literal["pca", "jacobian", "none"]
BackgroundMotion = Literal["shift", "affine", "perspective"]


@dataclasses.dataclass(frozen=True)
class RegionPredictorConfig:
    """The network that finds regions in a picture.

    Attributes:
        regions: Number of regions.
        channels: Channels of the picture.
        base_channels: Channels at full size.
        max_channels: Largest number of channels.
        levels: Number of levels of the hourglass.
        temperature: Temperature of the softmax over pixels.
        scale: Scale of the picture that the hourglass reads, 0..1.
        padding: Padding of the 7x7 convolution to heat maps: 3 keeps their size, 0 reduces each axis by 6 pixels.
        affine: Source of the affine map of a region: principal axes of its heat map, a regressed Jacobian, or none.
    """

    regions: int = 10
    channels: int = 3
    base_channels: int = 32
    max_channels: int = 1024
    levels: int = 5
    temperature: float = 0.1
    scale: float = 0.25
    padding: int = 3
    affine: AffineForm = "pca"


@dataclasses.dataclass(frozen=True)
class BackgroundPredictorConfig:
    """The network that estimates the motion of the background from two pictures.

    Attributes:
        channels: Channels of one picture.
        base_channels: Channels at full size.
        max_channels: Largest number of channels.
        levels: Number of levels of the encoder.
        motion: Number of free entries of the matrix: 2 for a shift, 6 for an affine map, 8 for a perspective map.
    """

    channels: int = 3
    base_channels: int = 32
    max_channels: int = 1024
    levels: int = 5
    motion: BackgroundMotion = "affine"


@dataclasses.dataclass(frozen=True)
class FlowPredictorConfig:
    """The network that composes a motion field from the motions of regions and background.

    Attributes:
        regions: Number of regions.
        channels: Channels of the picture.
        base_channels: Channels at full size.
        max_channels: Largest number of channels.
        levels: Number of levels of the hourglass.
        scale: Scale of the picture and of the field, 0..1.
        covariance_heatmap: Whether Gaussians use the covariance of their region instead of ``region_variance``.
        region_variance: Variance of the Gaussians without covariance, in units of the coordinates -1..1.
        deformed_sources: Whether the hourglass also reads the picture warped by each motion.
        occlusion: Whether an occlusion map is predicted.
        revert_axis_swap: Whether the sign of a region's map is chosen so that its first entry is positive.
        align_corners: Argument of `smcd_jax.nn.warp.grid_sample`; False for the weights of LFDM and MRAA.
    """

    regions: int = 10
    channels: int = 3
    base_channels: int = 64
    max_channels: int = 1024
    levels: int = 5
    scale: float = 0.25
    covariance_heatmap: bool = True
    region_variance: float = 0.01
    deformed_sources: bool = True
    occlusion: bool = True
    revert_axis_swap: bool = True
    align_corners: bool = True


@dataclasses.dataclass(frozen=True)
class RendererConfig:
    """The network that renders a picture from another picture and a motion field.

    Attributes:
        channels: Channels of the picture.
        base_channels: Channels at full size.
        max_channels: Largest number of channels.
        levels: Number of levels, each of half the size.
        residual_blocks: Number of residual blocks at the smallest size.
        skips: Whether warped features of each level are blended into the result.
        align_corners: Argument of `smcd_jax.nn.warp.grid_sample`; False for the weights of LFDM and MRAA.
        without_occlusion: Use of warped features if no occlusion map is given: they are added to the
            result (LVMM) or replace it (LFDM, MRAA).
    """

    channels: int = 3
    base_channels: int = 64
    max_channels: int = 512
    levels: int = 2
    residual_blocks: int = 6
    skips: bool = True
    align_corners: bool = True
    without_occlusion: Literal["add", "replace"] = "add"
