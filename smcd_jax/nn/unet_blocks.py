"""Blocks of the UNet, residual (with temporal convolutions) and others, and the plan of their order."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.layers import (
    ComputePolicy,
    Downsample,
    Dropout,
    TemporalConv,
    Upsample,
    conv,
    dense,
    group_norm,
    on_frames,
)
from smcd_jax.nn.transformers import TEXT_ONLY, BlockContext, SpatialParts, SpatialTransformer, TemporalTransformer


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """One entry of the published ``input_blocks`` or ``output_blocks``, described by its contents."""

    kind: str  # "stem", "residual" or "downsample"
    channels: int  # of the output
    attention: bool = False  # whether spatial and temporal transformers follow the residual block
    upsample: bool = False


def encoder_plan(config: UNetConfig) -> tuple[BlockPlan, ...]:
    """Returns the encoder's blocks in order; each one's output is a skip connection."""
    plan = [BlockPlan("stem", config.base_channels)]
    scale = 1.0
    for level, multiplier in enumerate(config.channel_mult):
        channels = config.base_channels * multiplier
        plan += [BlockPlan("residual", channels, scale in config.attention_scales)] * config.num_res_blocks
        if level < len(config.channel_mult) - 1:
            plan.append(BlockPlan("downsample", channels))
            scale /= 2
    return tuple(plan)


def decoder_plan(config: UNetConfig) -> tuple[BlockPlan, ...]:
    """Returns the decoder's blocks in order; each takes the last skip connection not yet taken."""
    plan = []
    scale = 0.5 ** (len(config.channel_mult) - 1)
    for level, multiplier in reversed(list(enumerate(config.channel_mult))):
        channels, attention = config.base_channels * multiplier, scale in config.attention_scales
        plan += [BlockPlan("residual", channels, attention)] * config.num_res_blocks
        plan.append(BlockPlan("residual", channels, attention, upsample=level > 0))
        scale *= 2
    return tuple(plan)


def skip_downscales(config: UNetConfig) -> tuple[int, ...]:
    """Returns the downscaling factor of each encoder block's output, relative to the latents."""
    factors = [1]
    for plan in encoder_plan(config)[1:]:
        factors.append(factors[-1] * (2 if plan.kind == "downsample" else 1))
    return tuple(factors)


class TimeShift(NamedTuple):
    """The shift that a residual block adds to each channel, precomputed for all blocks together."""

    shift: Float[Array, "b c"]


Seed = UInt32[Array, " 2"] | None  # seed of dropout, see `smcd_jax.nn.layers.Dropout`; None for no dropout
Time = Float[Array, "b e"] | TimeShift  # an embedding, from which each block computes its shift, or the shift itself


class TemporalConvBlock(nn.Module):
    """Four times GroupNorm, SiLU, (dropout,) convolution along frames, added to the input; the last starts at zero."""

    channels: int
    policy: ComputePolicy
    dropout: float = 0.1  # fixed in the reference, whatever rate the rest of the network has

    @nn.compact
    def __call__(self, video: Float[Array, "b f h w c"], *, dropout: Seed = None) -> Float[Array, "b f h w c"]:
        """Returns the video; norm statistics run over the whole clip."""
        b, f, h, w, c = video.shape
        # one axis of pixels throughout, so that XLA can add the input in the last convolution
        x = video = video.reshape(b, f, h * w, c)
        for index in range(4):
            # the norm sees the frames as a separate axis, see `group_normalised`
            norm = group_norm(self.policy, epsilon=1e-5, silu=True, name=f"norm_{index}")
            x = norm(x.reshape(b, f, 1, h * w, c)).reshape(b, f, h * w, c)
            if index > 0:
                x = Dropout(self.dropout)(x, dropout)
            x = TemporalConv(self.channels, self.policy, zero=index == 3, name=f"conv_{index}")(x)
        return (video + x).reshape(b, f, h, w, c)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv; + time; GroupNorm, SiLU, dropout, conv; + skip; then the temporal convolutions."""

    channels: int
    policy: ComputePolicy
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "b f h w c"],
        time: Time,
        *,
        temporal: bool = True,
        dropout: Seed = None,
    ) -> Float[Array, "b f h w d"]:
        """Returns the video. Norm statistics run over a frame, in the temporal part (not for stills) over the clip."""
        batch, frames = video.shape[:2]
        x = video.reshape(-1, *video.shape[2:])
        h = group_norm(self.policy, epsilon=1e-5, silu=True, name="norm_in")(x)
        h = conv(self.channels, self.policy, name="conv_in")(h)
        shift = time.shift if isinstance(time, TimeShift) else self._time_layer(time)
        # added in float32, so that XLA does it in the norm's kernels instead of writing a separate array
        h = h.astype(jnp.float32) + shift.astype(jnp.float32).repeat(frames, axis=0)[:, None, None, :]
        h = group_norm(self.policy, epsilon=1e-5, silu=True, name="norm_out")(h)
        h = Dropout(self.dropout)(h, dropout)
        h = conv(self.channels, self.policy, zero=True, name="conv_out")(h)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, self.policy, name="skip")(x)
        x = (x + h).reshape(batch, frames, *h.shape[1:])
        if temporal:
            x = TemporalConvBlock(self.channels, self.policy, name="temporal_conv")(x, dropout=dropout)
        return x

    def _time_layer(self, time: Float[Array, "b e"]) -> Float[Array, "b c"]:
        return dense(self.channels, self.policy, name="time")(nn.silu(time))


class StemBlock(nn.Module):
    """The first block: a convolution on every frame and a temporal transformer with a separate inner width."""

    config: UNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the layers; the convolution takes its input channels from its first input."""
        self.conv = conv(self.config.base_channels, self.policy)
        self.temporal = TemporalTransformer(
            self.config.base_channels, self.config.stem_heads, self.config.head_dim, self.policy
        )

    def __call__(self, video: Float[Array, "b f h w c"], *, temporal: bool = True) -> Float[Array, "b f h w d"]:
        """Returns the video; without ``temporal`` (still images) the transformer is left out."""
        video = on_frames(self.conv, video)
        return self.temporal(video) if temporal else video


class UNetBlock(nn.Module):
    """Residual block, then, if planned, spatial transformer, temporal transformer and upsampling."""

    config: UNetConfig
    plan: BlockPlan
    policy: ComputePolicy
    parts: SpatialParts = TEXT_ONLY

    def setup(self) -> None:
        """Creates the layers of the plan."""
        channels = self.plan.channels
        self.residual = ResidualBlock(channels, self.policy, self.config.dropout)
        if self.plan.attention:
            heads = channels // self.config.head_dim
            self.spatial = SpatialTransformer(channels, heads, self.policy, self.parts)
            self.temporal = TemporalTransformer(channels, heads, self.config.head_dim, self.policy)
        if self.plan.upsample:
            self.upsample = Upsample(channels, self.policy)

    def __call__(
        self,
        video: Float[Array, "b f h w c"],
        time: Time,
        context: BlockContext | None,
        *,
        temporal: bool = True,
        dropout: Seed = None,
    ) -> Float[Array, "b f hh ww d"]:
        """Returns the video; ``context`` is None if the plan has no attention."""
        video = self.residual(video, time, temporal=temporal, dropout=dropout)
        if self.plan.attention:
            video = on_frames(lambda frames: self.spatial(frames, context), video)
            video = self.temporal(video) if temporal else video
        return on_frames(self.upsample, video) if self.plan.upsample else video


class DownBlock(nn.Module):
    """Halves height and width of every frame."""

    channels: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates one convolution of stride 2."""
        self.downsample = Downsample(self.channels, self.policy)

    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f hh ww c"]:
        """Returns the video at half the height and width."""
        return on_frames(self.downsample, video)
