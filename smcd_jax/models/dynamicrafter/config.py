"""Sizes of DynamiCrafter's networks (ECCV 2024, arXiv 2310.12190). Defaults are those of the published 512 model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from smcd_jax.diffusion.prediction import PredictionType
from smcd_jax.models import leftovers
from smcd_jax.models.config import VideoConfig
from smcd_jax.nn.config import (
    AutoencoderConfig,
    PositionNetConfig,
    TextEncoderConfig,
    UNetConfig,
    VisionEncoderConfig,
)


@dataclasses.dataclass(frozen=True)
class DynamiCrafterUNetConfig(UNetConfig):
    """The shared 3D UNet with dual cross-attention.

    Attributes:
        image_tokens_per_frame: Number of image tokens that each frame attends to.
        learned_image_scale: Whether the image half of the dual cross-attention is scaled by 1 + tanh(alpha) instead of
            1 (the 256 model).
    """

    image_latent: bool = True
    fps_embedding: bool = True
    image_tokens_per_frame: int = 16
    learned_image_scale: bool = False


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    """The resampler, whose queries attend to the image tower's tokens and become image tokens of every frame.

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
class LeftoversConfig(leftovers.LeftoversConfig):
    """Arrays of a file that no network reads.

    Attributes:
        framestride_names: Whether the file calls the embedding of the frame rate ``framestride_embed``.
    """

    framestride_names: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig(VideoConfig):
    """One config per component, the noise schedule, and the defaults of sampling and training.

    Attributes:
        unet: The UNet; with ``gate="object"`` and a position net it follows boxes.
        resampler: The resampler.
        image_tower: The CLIP tower that reads the picture.
        text_encoder: The text tower.
        autoencoder: The KL autoencoder.
        position_net: Network of the box tokens, for models with gates.
        leftovers: Arrays kept for conversion only.
        prediction_type: Meaning of the network's output.
        zero_terminal_snr: Whether the last timestep is pure noise.
        dynamic_rescale: `smcd_jax.diffusion.schedule.NoiseSchedule.dynamic_rescale`; 1 for none.
        interpolation: Whether the pictures' latents are concatenated to the first and the last frame, with zeros in
            between, for interpolation and loops; otherwise one picture's latent is concatenated to every frame.
        reads_stride: Whether ``frame_rate`` is a frame stride (the 256 model), not frames per second.
        frame_rate: Default frames per second, or default frame stride.
        condition_frame: Frame that conditions a clip in training: drawn for each clip, drawn once for the batch as
            published, or the first.
        frames: Number of frames.
        height: Height in pixels.
        width: Width in pixels.
        max_objects: Number of boxes per frame; models without gates ignore the boxes.
        fps: Frames per second of the videos written.
        decode_chunk_size: Frames decoded at once.
    """

    unet: DynamiCrafterUNetConfig = DynamiCrafterUNetConfig()
    resampler: ResamplerConfig = ResamplerConfig()
    image_tower: VisionEncoderConfig = VisionEncoderConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    position_net: PositionNetConfig | None = None
    leftovers: LeftoversConfig | None = None
    prediction_type: PredictionType = "v_prediction"
    zero_terminal_snr: bool = True
    dynamic_rescale: float = 0.7
    interpolation: bool = False
    reads_stride: bool = False
    frame_rate: int = 24
    condition_frame: Literal["clip", "batch", "first"] = "clip"
    frames: int = 16
    height: int = 320
    width: int = 512
    max_objects: int = 1
    fps: int = 8
    decode_chunk_size: int = 4

    @property
    def size_multiple(self) -> int:
        """Number of pixels that must divide height and width."""
        return self.autoencoder.downscale * 2 ** (len(self.unet.channel_mult) - 1)


DYNAMICRAFTER_512 = ModelConfig()
DYNAMICRAFTER_256 = ModelConfig(
    unet=DynamiCrafterUNetConfig(learned_image_scale=True),
    prediction_type="epsilon",
    zero_terminal_snr=False,
    dynamic_rescale=1.0,
    reads_stride=True,
    frame_rate=3,
    height=256,
    width=256,
    decode_chunk_size=8,
)
DYNAMICRAFTER_1024 = ModelConfig(dynamic_rescale=0.3, frame_rate=10, height=576, width=1024, decode_chunk_size=1)
DYNAMICRAFTER_512_INTERP = ModelConfig(interpolation=True, frame_rate=5)

TINY = ModelConfig(
    unet=DynamiCrafterUNetConfig(
        base_channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_scales=(1.0, 0.5),
        head_dim=16,
        stem_heads=2,
        context_dim=64,
        object_width=64,
        image_tokens_per_frame=4,
        groups=8,
    ),
    resampler=ResamplerConfig(
        width=64, layers=2, heads=4, head_dim=16, queries=4, frames=8, input_width=64, output_width=64
    ),
    image_tower=VisionEncoderConfig(picture_size=32, patch=8, width=64, heads=4, layers=2, embed_width=64),
    text_encoder=TextEncoderConfig(width=64, heads=2, layers=3, embed_width=64),
    autoencoder=AutoencoderConfig(
        base_channels=32, channel_mult=(1, 2, 2), num_res_blocks=1, groups=8, scaling_factor=0.64
    ),
    frame_rate=8,
    frames=8,
    height=32,
    width=32,
    decode_chunk_size=8,
)

PRESETS: Mapping[str, ModelConfig] = {
    "dynamicrafter_256": DYNAMICRAFTER_256,
    "dynamicrafter_512": DYNAMICRAFTER_512,
    "dynamicrafter_1024": DYNAMICRAFTER_1024,
    "dynamicrafter_512_interp": DYNAMICRAFTER_512_INTERP,
    "dynamicrafter_tiny": TINY,
}
