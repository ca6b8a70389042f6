"""LVMM's networks by size, and the presets ``lvmm`` (the paper's sizes) and ``lvmm_tiny``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from smcd_jax.models.config import VideoConfig
from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.nn.config import AutoencoderConfig, TextEncoderConfig, VisionEncoderConfig


@dataclasses.dataclass(frozen=True)
class PairMotionConfig:
    """The hourglass that reads two pictures and returns the motion field between them.

    Attributes:
        channels: Channels of one picture.
        base_channels: Channels at full size.
        max_channels: Largest number of channels.
        levels: Number of levels of the hourglass.
        scale: Scale of the pictures and of the field, 0..1.
    """

    channels: int = 3
    base_channels: int = 64
    max_channels: int = 1024
    levels: int = 5
    scale: float = 0.25


@dataclasses.dataclass(frozen=True)
class RegionMotionConfig:
    """The published prediction of a field from the regions of both pictures and the motion of the background.

    Attributes:
        region_predictor: Network that finds regions in a picture.
        background_predictor: Network of the background's motion; None for a background that does not move.
        flow_predictor: Network that composes the field.
    """

    region_predictor: RegionPredictorConfig = RegionPredictorConfig()
    background_predictor: BackgroundPredictorConfig | None = BackgroundPredictorConfig()
    flow_predictor: FlowPredictorConfig = FlowPredictorConfig()

    @property
    def scale(self) -> float:
        """Scale of the field relative to the picture."""
        return self.flow_predictor.scale

    @property
    def levels(self) -> int:
        """Largest number of levels of its networks at the scale of the field."""
        return max(self.region_predictor.levels, self.flow_predictor.levels)


@dataclasses.dataclass(frozen=True)
class AppearanceConfig:
    """The projection of the renderer's features that is concatenated to the motion latents.

    Attributes:
        features: Channels of the renderer's smallest feature maps.
        channels: Channels of the projection.
    """

    features: int = 256
    channels: int = 16


@dataclasses.dataclass(frozen=True)
class LVMMConfig(VideoConfig):
    """Config of each component (None if the model lacks it), and sizes of videos and fields.

    Attributes:
        unet: The network that denoises motion latents.
        pair_motion: Hourglass that predicts the field between two pictures; None with ``region_motion``.
        region_motion: Published networks that predict this field from regions; None with ``pair_motion``.
        renderer: Network that renders a picture with a motion field.
        motion_vae: Autoencoder of fields: residual displacement in units of ``field_scale``, and 2 c - 1 of the
            confidence c.
        appearance: Projection of the renderer's features; None for a model that reads the picture from tokens only.
        text_encoder: Text tower of the prompt; None for a model without prompt.
        vision_encoder: Vision tower of the picture; None for a model without image token.
        field_scale: Standard deviation of the displacements over the training set, in units in which the picture spans
            -1..1.
        prediction_type: Meaning of the network's output.
        frames: Number of frames, K + 1: the picture and the K frames after it.
        height: Height in pixels.
        width: Width in pixels.
        max_objects: Largest number of boxes per frame that guidance reads.
        fps: Frames per second of the videos written.
    """

    unet: MotionUNetConfig = MotionUNetConfig(input_channels=24, grid_channels=4, confidence_channels=0)
    pair_motion: PairMotionConfig | None = PairMotionConfig()
    region_motion: RegionMotionConfig | None = None
    renderer: RendererConfig = RendererConfig()
    motion_vae: AutoencoderConfig = AutoencoderConfig(base_channels=64, scaling_factor=1.0)
    appearance: AppearanceConfig | None = AppearanceConfig()
    text_encoder: TextEncoderConfig | None = TextEncoderConfig()
    vision_encoder: VisionEncoderConfig | None = VisionEncoderConfig()
    field_scale: float = 1.0
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    frames: int = 9
    height: int = 512
    width: int = 512
    max_objects: int = 8
    fps: int = 8

    @property
    def motion_part(self) -> str:
        """Name of the component that predicts the field between two pictures."""
        return "pair_motion" if self.pair_motion is not None else "region_motion"

    @property
    def scale(self) -> float:
        """Scale of fields relative to the picture."""
        return getattr(self, self.motion_part).scale

    @property
    def size_multiple(self) -> int:
        """Number of pixels that must divide height and width."""
        motion, latent = getattr(self, self.motion_part), self.motion_vae.downscale * self.unet.downscale
        return round(max(2**self.renderer.levels, latent / self.scale, 2**motion.levels / motion.scale))


LVMM = LVMMConfig()

LVMM_TINY = LVMMConfig(
    unet=MotionUNetConfig(
        input_channels=24,
        grid_channels=4,
        confidence_channels=0,
        base_channels=32,
        channel_mult=(1, 2),
        heads=4,
        context_dim=32,
    ),
    pair_motion=PairMotionConfig(base_channels=16, max_channels=96, levels=3, scale=0.5),
    renderer=RendererConfig(base_channels=12, max_channels=48, residual_blocks=2),
    motion_vae=AutoencoderConfig(
        base_channels=16, channel_mult=(1, 2, 2), num_res_blocks=1, groups=8, scaling_factor=1.0
    ),
    appearance=AppearanceConfig(features=48, channels=16),
    text_encoder=TextEncoderConfig(width=32, heads=2, layers=2, embed_width=32),
    vision_encoder=None,
    height=64,
    width=64,
    max_objects=4,
)

PRESETS: Mapping[str, LVMMConfig] = {"lvmm": LVMM, "lvmm_tiny": LVMM_TINY}
