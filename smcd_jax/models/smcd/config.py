"""SMCD's networks by size, and the presets ``smcd`` (published) and ``tiny``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from smcd_jax.models.config import VideoConfig
from smcd_jax.nn.config import (
    AutoencoderConfig,
    PositionNetConfig,
    TextEncoderConfig,
    UNetConfig,
    VisionEncoderConfig,
)


@dataclasses.dataclass(frozen=True)
class ImageEncoderConfig:
    """Sizes of the network that turns the first frame's latent into image tokens.

    Attributes:
        latent_channels: Channels of the latent.
        stages: Channels of each stage; every stage but the first halves height and width.
        num_res_blocks: Residual blocks per stage.
    """

    latent_channels: int = 4
    stages: tuple[int, ...] = (256, 512, 1024, 1024)
    num_res_blocks: int = 3

    @property
    def downscale(self) -> int:
        """Latent pixels per token, along one side."""
        return 2 ** (len(self.stages) - 1)


@dataclasses.dataclass(frozen=True)
class ControlNetConfig:
    """Sizes of the ControlNet branch, a copy of the encoder of ``unet``."""

    unet: UNetConfig = UNetConfig()


@dataclasses.dataclass(frozen=True)
class ModelConfig(VideoConfig):
    """Config of each component (None if the model lacks it), and the size of videos.

    Attributes:
        unet: The denoising network.
        position_net: Network of the box tokens.
        image_encoder: Network of the image tokens.
        controlnet: ControlNet branch.
        autoencoder: Autoencoder of the frames.
        text_encoder: Text tower of prompts and labels.
        vision_encoder: Vision tower, which only evaluation uses.
        prediction_type: Meaning of the network's output.
        frames: Number of frames.
        height: Height in pixels.
        width: Width in pixels.
        max_objects: Number of boxes per frame; unused places hold the null token, as in training.
        fps: Frames per second of the videos written.
    """

    unet: UNetConfig = UNetConfig(gate="object_image", image_latent=True)
    position_net: PositionNetConfig | None = PositionNetConfig()
    image_encoder: ImageEncoderConfig | None = ImageEncoderConfig()
    controlnet: ControlNetConfig | None = None
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    vision_encoder: VisionEncoderConfig | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    frames: int = 8
    height: int = 256
    width: int = 256
    max_objects: int = 8
    fps: int = 8

    @property
    def size_multiple(self) -> int:
        """Number of pixels that must divide height and width."""
        levels = 2 ** (len(self.unet.channel_mult) - 1)
        tokens = self.image_encoder.downscale if self.image_encoder else 1
        return self.autoencoder.downscale * max(levels, tokens)


SMCD = ModelConfig()

TINY = ModelConfig(
    unet=UNetConfig(
        base_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_scales=(1.0, 0.5),
        head_dim=16,
        stem_heads=2,
        context_dim=64,
        object_width=64,
        image_width=64,
        gate="object_image",
        image_latent=True,
        groups=8,
    ),
    position_net=PositionNetConfig(label_width=64, token_width=64, hidden_width=64),
    image_encoder=ImageEncoderConfig(stages=(32, 64), num_res_blocks=1),
    autoencoder=AutoencoderConfig(
        base_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, groups=8, scaling_factor=0.64
    ),
    text_encoder=TextEncoderConfig(width=64, heads=2, layers=3, embed_width=64),
    prediction_type="v_prediction",
    height=32,
    width=32,
    max_objects=4,
)

PRESETS: Mapping[str, ModelConfig] = {"smcd": SMCD, "tiny": TINY}
