"""Sizes of the UNet that denoises motion: LVMM's, LFDM's (arXiv 2303.13744), and LVMM's for features of one frame."""

from __future__ import annotations

import dataclasses
from typing import Literal

PIXEL_HEAD_DIM = 32  # head width of linear, spatial and cross-attention, independent of ``head_dim``


@dataclasses.dataclass(frozen=True)
class MotionUNetConfig:
    """The 3D UNet. Defaults are the size of LVMM's published code.

    Attributes:
        input_channels: Channels of the input: the noisy motion, and the features concatenated to it.
        grid_channels: Channels of the first head; the displacements in the published networks.
        confidence_channels: Channels of the second head; 0 for a single head.
        base_channels: Width of the first level, even and at least 4.
        channel_mult: Width of each level as a multiple of ``base_channels``.
        heads: Number of heads of every attention.
        head_dim: Width of each head of temporal attention.
        condition: Form of the condition: "tokens" for cross-attention, or one "vector" concatenated to the time
            embedding (LFDM).
        context_dim: Width of the tokens or of the vector.
        learned_null: Whether a learned row replaces dropped conditions; zeros otherwise.
        upsampling: "deconv" for transposed convolutions, "nearest" for nearest neighbours and a convolution.
        padding: Padding of the convolution of "nearest".
        groups: Number of groups of every GroupNorm.
        per_frame: Whether the network reads one frame and its index: attention among the pixels of the frame replaces
            temporal attention, except at the input.
    """

    input_channels: int = 6
    grid_channels: int = 4
    confidence_channels: int = 2
    base_channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    heads: int = 8
    head_dim: int = 32
    condition: Literal["tokens", "vector"] = "tokens"
    context_dim: int = 1024
    learned_null: bool = False
    upsampling: Literal["deconv", "nearest"] = "deconv"
    padding: Literal["zeros", "reflect", "replicate", "circular"] = "zeros"
    groups: int = 8
    per_frame: bool = False

    @property
    def output_channels(self) -> int:
        """Channels of both heads."""
        return self.grid_channels + self.confidence_channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the largest resolution down."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_mult)

    @property
    def downscale(self) -> int:
        """Number of pixels that must divide height and width."""
        return 2 ** (len(self.channel_mult) - 1)


# The diffusion models of LFDM for MUG, MHAD and NATOPS: 3 channels of motion and 256 of the renderer's features.
LFDM_UNET = MotionUNetConfig(
    input_channels=259,
    grid_channels=2,
    confidence_channels=1,
    channel_mult=(1, 2, 4, 8),
    condition="vector",
    context_dim=768,
)
LVMM_UNET = MotionUNetConfig()
LVMM_FRAME_UNET = MotionUNetConfig(
    input_channels=1024,
    grid_channels=512,
    confidence_channels=0,
    base_channels=128,
    channel_mult=(1, 2),
    context_dim=512,
    per_frame=True,
)
