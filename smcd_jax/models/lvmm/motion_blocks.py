"""Blocks of the motion UNet: residual blocks, one resolution, resampling, time embedding and heads."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcd_jax.models.lvmm.motion_attention import (
    CrossAttention,
    LinearAttention,
    SpatialAttention,
    TemporalAttention,
)
from smcd_jax.models.lvmm.unet_config import PIXEL_HEAD_DIM, MotionUNetConfig
from smcd_jax.nn.attention import KeysValues
from smcd_jax.nn.layers import ComputePolicy, conv, dense, gelu, group_norm, on_frames

_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def sine_first_sinusoid(numbers: Float[Array, " b"], width: int) -> Float[Array, "b width"]:
    """Returns sines, then cosines, of frequencies 10000^(-i / (half - 1)); ``width`` is even and at least 4."""
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1))
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = numbers.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class NumberEmbedding(nn.Module):
    """Embedding of timesteps or frame indices: `sine_first_sinusoid`, Linear width -> 4 width, GELU, Linear."""

    width: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, numbers: Float[Array, " b"]) -> Float[Array, "b d"]:
        """Returns one vector per example."""
        hidden = dense(4 * self.width, self.policy, name="dense_in")(sine_first_sinusoid(numbers, self.width))
        return dense(4 * self.width, self.policy, name="dense_out")(gelu(hidden))


class MotionResidualBlock(nn.Module):
    """Residual block with two layers of convolution, GroupNorm and SiLU; the embedding modulates the first norm.

    Statistics of the norms are computed over all frames of a clip.
    """

    channels: int
    policy: ComputePolicy

    @nn.compact
    def __call__(
        self, video: Float[Array, "b f h w c"], embedding: Float[Array, "b e"] | None = None
    ) -> Float[Array, "b f h w d"]:
        """Returns the video after the block; without an embedding, there is no modulation."""
        h = on_frames(conv(self.channels, self.policy, name="conv_in"), video)
        h = group_norm(self.policy, epsilon=1e-5, silu=embedding is None, name="norm_in")(h)
        if embedding is not None:
            scale_shift = dense(2 * self.channels, self.policy, name="time")(nn.silu(embedding)).astype(jnp.float32)
            scale, shift = jnp.split(scale_shift[:, None, None, None], 2, axis=-1)
            h = nn.silu(h * (scale + 1) + shift)
        h = on_frames(conv(self.channels, self.policy, name="conv_out"), h)
        h = group_norm(self.policy, epsilon=1e-5, silu=True, name="norm_out")(h)
        if video.shape[-1] != self.channels:
            video = dense(self.channels, self.policy, name="skip")(video)
        return video + h.astype(video.dtype)


class MotionDownsample(nn.Module):
    """A convolution with kernel size 4 and stride 2 on every frame."""

    channels: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f hh ww c"]:
        """Halves height and width."""
        layer = conv(self.channels, self.policy, kernel=4, stride=2, padding=((1, 1), (1, 1)), name="conv")
        return on_frames(layer, video)


class MotionUpsample(nn.Module):
    """A transposed convolution (kernel 4, stride 2) per frame, or nearest-neighbor upsampling and a convolution."""

    channels: int
    config: MotionUNetConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f hh ww c"]:
        """Doubles height and width."""
        return on_frames(self._deconv() if self.config.upsampling == "deconv" else self._nearest, video)

    def _deconv(self) -> nn.ConvTranspose:
        return nn.ConvTranspose(
            self.channels,
            (4, 4),
            strides=(2, 2),
            padding=((2, 2), (2, 2)),
            transpose_kernel=True,
            dtype=self.policy.compute,
            param_dtype=self.policy.params,
            precision=self.policy.precision,
            name="deconv",
        )

    def _nearest(self, frames: Float[Array, "bf h w c"]) -> Float[Array, "bf hh ww c"]:
        frames = frames.repeat(2, axis=1).repeat(2, axis=2)
        if self.config.padding == "zeros":
            return conv(self.channels, self.policy, name="conv")(frames)
        frames = jnp.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=_PAD_MODES[self.config.padding])
        return conv(self.channels, self.policy, padding="VALID", name="conv")(frames)


class MotionLevel(nn.Module):
    """Two residual blocks, linear spatial attention, cross-attention and temporal attention at one resolution.

    Attributes:
        channels: Channels of the output.
        config: Config of the network.
        policy: Compute policy.
    """

    channels: int
    config: MotionUNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the layers in the order in which they run."""
        config, policy = self.config, self.policy
        self.residual = [MotionResidualBlock(self.channels, policy) for _ in range(2)]
        self.linear_attention = LinearAttention(config.heads, policy)
        if config.condition == "tokens":
            self.cross_attention = CrossAttention(self.channels, config.heads, PIXEL_HEAD_DIM, policy)
        self.frame_attention = frame_attention(self.channels, config, policy)

    def keys_values(self, tokens: Float[Array, "b n d"]) -> KeysValues:
        """Returns keys and values of the condition's tokens."""
        return self.cross_attention.keys_values(tokens)

    def __call__(
        self,
        video: Float[Array, "b f h w c"],
        embedding: Float[Array, "b e"],
        context: KeysValues | None,
        bias: Float[Array, "#b heads f f"],
    ) -> Float[Array, "b f h w d"]:
        """Returns the video after the level; ``bias`` is that of temporal attention."""
        for block in self.residual:
            video = block(video, embedding)
        video = self.linear_attention(video)
        video = video if context is None else self.cross_attention(video, context)
        return self.frame_attention(video) if self.config.per_frame else self.frame_attention(video, bias)


class MotionMiddle(nn.Module):
    """The lowest resolution: spatial, cross- and temporal attention between two residual blocks."""

    channels: int
    config: MotionUNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the layers in the order in which they run."""
        config, policy = self.config, self.policy
        fused = config.condition == "vector"
        self.residual = [MotionResidualBlock(self.channels, policy) for _ in range(2)]
        self.spatial_attention = SpatialAttention(self.channels, config.heads, PIXEL_HEAD_DIM, policy, fused)
        if config.condition == "tokens":
            self.cross_attention = CrossAttention(self.channels, config.heads, PIXEL_HEAD_DIM, policy)
        self.frame_attention = frame_attention(self.channels, config, policy)

    def keys_values(self, tokens: Float[Array, "b n d"]) -> KeysValues:
        """Returns keys and values of the condition's tokens."""
        return self.cross_attention.keys_values(tokens)

    def __call__(
        self,
        video: Float[Array, "b f h w c"],
        embedding: Float[Array, "b e"],
        context: KeysValues | None,
        bias: Float[Array, "#b heads f f"],
    ) -> Float[Array, "b f h w c"]:
        """Returns the video after the middle block; arguments are those of `MotionLevel`."""
        video = self.spatial_attention(self.residual[0](video, embedding))
        video = video if context is None else self.cross_attention(video, context)
        video = self.frame_attention(video) if self.config.per_frame else self.frame_attention(video, bias)
        return self.residual[1](video, embedding)


class MotionHead(nn.Module):
    """A residual block without embedding, and a linear layer to the output's channels."""

    channels: int
    outputs: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f h w d"]:
        """Returns the output of the head for every pixel."""
        return dense(self.outputs, self.policy, name="out")(
            MotionResidualBlock(self.channels, self.policy, name="residual")(video)
        )


def frame_attention(channels: int, config: MotionUNetConfig, policy: ComputePolicy) -> nn.Module:
    """Returns temporal attention, or attention among the pixels of a frame for configs with ``per_frame``."""
    if config.per_frame:
        return SpatialAttention(channels, config.heads, PIXEL_HEAD_DIM, policy)
    return TemporalAttention(channels, config.heads, config.head_dim, policy, config.condition == "vector")
