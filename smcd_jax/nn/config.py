"""Sizes of the networks that models share, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Gate = Literal["none", "object", "object_image", "parallel", "double", "merge"]
Activation = Literal["gelu", "quick_gelu"]  # in CLIP's towers: exact in OpenCLIP's ViT-H/14, quick in OpenAI's
# For fields that were added after the first model folders. They are written only if they differ from the default, so
# that older and newer configs of the same arrays compare equal (feature caches identify encoders by their configs).
_UNLESS_DEFAULT: Mapping[str, bool] = {"unless_default": True}


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The denoising 3D UNet. Defaults are the published size without gates (ModelScope text-to-video)."""

    latent_channels: int = 4  # channels of the noisy video, both input and output
    base_channels: int = 320
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2  # per level
    attention_scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    head_dim: int = 64
    stem_heads: int = 8  # heads of the first block's temporal transformer, whose inner width is stem_heads * head_dim
    context_dim: int = 1024
    object_width: int = 1024  # of a box token
    image_width: int = 1024  # of an image token
    gate: Gate = "none"
    image_latent: bool = False  # concatenates the first frame's latent to the input channels (zero convolution, ZC)
    fps_embedding: bool = False
    control: bool = False  # adds ControlNet features to the skip connections
    dropout: float = 0.1
    # groups of every GroupNorm; widths near 32 need fewer, because a group of one channel loses its mean (the colour)
    groups: int = dataclasses.field(default=32, metadata=_UNLESS_DEFAULT)

    @property
    def input_channels(self) -> int:
        """Channels of the first convolution: the video's, and the first frame's if it is concatenated."""
        return self.latent_channels * (2 if self.image_latent else 1)

    @property
    def uses_objects(self) -> bool:
        """Whether box tokens enter the network."""
        return self.gate != "none"

    @property
    def uses_image_tokens(self) -> bool:
        """Whether image tokens enter the network through the gates."""
        return self.gate in ("object_image", "parallel", "double", "merge")


@dataclasses.dataclass(frozen=True)
class PositionNetConfig:
    """The network that makes box tokens from label embeddings and boxes."""

    label_width: int = 1024
    token_width: int = 1024
    hidden_width: int = 512
    frequencies: int = 8
    temperature: float = 100.0


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """The KL autoencoder of Stable Diffusion (f = 8)."""

    base_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    picture_channels: int = 3
    scaling_factor: float = 0.18215
    groups: int = dataclasses.field(default=32, metadata=_UNLESS_DEFAULT)  # groups of every GroupNorm, as in the UNet
    # side of the patches that the first convolution reads and the last one returns; larger patches are cheaper
    patch: int = dataclasses.field(default=1, metadata=_UNLESS_DEFAULT)
    # whether encoder and decoder are added to a linear code of patches (`nn.cosine_code`)
    linear_shortcut: bool = dataclasses.field(default=False, metadata=_UNLESS_DEFAULT)

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel, along one side."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """The OpenCLIP text tower (ViT-H/14)."""

    vocabulary: int = 49408
    length: int = 77
    width: int = 1024
    heads: int = 16
    layers: int = 24
    embed_width: int = 1024  # width of the joint text-image space; 0 if the weights lack the projection to it
    skip_last: int = 1  # number of last layers that conditioning skips; 1 is "penultimate"
    activation: Activation = dataclasses.field(default="gelu", metadata=_UNLESS_DEFAULT)
    epsilon: float = dataclasses.field(default=1e-5, metadata=_UNLESS_DEFAULT)  # of every norm; ImageBind has 1e-6


@dataclasses.dataclass(frozen=True)
class VisionEncoderConfig:
    """The OpenCLIP vision tower (ViT-H/14)."""

    picture_size: int = 224
    patch: int = 14
    width: int = 1280
    heads: int = 16
    layers: int = 32
    embed_width: int = 1024
    activation: Activation = dataclasses.field(default="gelu", metadata=_UNLESS_DEFAULT)
    epsilon: float = dataclasses.field(default=1e-5, metadata=_UNLESS_DEFAULT)  # of every norm; ImageBind has 1e-6
    # number of copies of the picture that form a video for the patch embedding: 2 in ImageBind
    patch_frames: int = dataclasses.field(default=1, metadata=_UNLESS_DEFAULT)


@dataclasses.dataclass(frozen=True)
class DINOConfig:
    """A vision transformer trained by DINO, whose features measure first-frame fidelity. Defaults are ViT-S/16."""

    picture_size: int = 224
    patch: int = 16
    width: int = 384
    heads: int = 6
    layers: int = 12
