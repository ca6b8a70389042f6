"""Sizes of DynamiCrafter's networks (ECCV 2024, arXiv 2310.12190). Defaults are those of the published 512 model."""

from __future__ import annotations

import dataclasses
from typing import Any

from smcd_jax.diffusion.prediction import PredictionType
from smcd_jax.nn.config import AutoencoderConfig, TextEncoderConfig, UNetConfig, VisionEncoderConfig


@dataclasses.dataclass(frozen=True)
class DynamiCrafterUNetConfig(UNetConfig):
    """The shared 3D UNet with dual cross-attention.

    Attributes:
        image_tokens_per_frame: Image tokens that each frame attends to.
        learned_image_scale: Whether the image half of the dual cross-attention is scaled by 1 + tanh(alpha) instead of
            1 (the 256 model).
    """

    image_latent: bool = True
    fps_embedding: bool = True
    image_tokens_per_frame: int = 16
    learned_image_scale: bool = False


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    """Queries that read the image tower's tokens and become image tokens of every frame.

    Attributes:
        width: Width of the queries.
        layers: Number of layers.
        heads: Number of attention heads.
        head_dim: Width of each head.
        queries: Number of queries, and of image tokens, per frame.
        frames: Number of frames.
        input_width: Width of the image tower's tokens.
        output_width: Width of the image tokens.
        hidden_factor: Width of the feed-forward layers as a multiple of ``width``.
    """

    width: int = 1024
    layers: int = 4
    heads: int = 12
    head_dim: int = 64
    queries: int = 16
    frames: int = 16
    input_width: int = 1280
    output_width: int = 1024
    hidden_factor: int = 4


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """One config per component, the noise schedule, and the defaults of sampling."""

    unet: DynamiCrafterUNetConfig = DynamiCrafterUNetConfig()
    resampler: ResamplerConfig = ResamplerConfig()
    image_tower: VisionEncoderConfig = VisionEncoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    prediction_type: PredictionType = "v_prediction"
    zero_terminal_snr: bool = True
    dynamic_rescale: float = 0.7  # 1 for none
    interpolation: bool = False  # the picture's latent at both ends and zeros between, for loops and in-betweens
    frame_rate: int = 24  # frames per second, or frame stride, that the network is told by default
    frames: int = 16
    height: int = 320  # pixels
    width: int = 512  # pixels
    max_objects: int = 0
    fps: int = 8  # of the videos written

    def components(self) -> dict[str, Any]:
        """Config of each component, by its name in the model folder."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if dataclasses.is_dataclass(value)}

    @property
    def text_length(self) -> int:
        """Tokens of a text."""
        return self.text_encoder.length

    @property
    def size_multiple(self) -> int:
        """Height and width in pixels must be multiples of this."""
        return self.autoencoder.downscale * 2 ** (len(self.unet.channel_mult) - 1)
