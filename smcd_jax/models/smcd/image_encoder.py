"""Image tokens from the first frame's latent: stages of plain residual convolutions, no norms (after T2I-Adapter)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.smcd.config import ImageEncoderConfig
from smcd_jax.nn.layers import ComputePolicy, Downsample, conv


class EncoderBlock(nn.Module):
    """Residual block: optional stride-2 convolution, 3x3 convolution, then 3x3, ReLU, 3x3 with a skip connection."""

    channels: int
    downsample: bool
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Returns features; the stride-2 convolution does not change the number of channels."""
        if self.downsample:
            x = Downsample(x.shape[-1], self.policy, name="downsample")(x)
        x = conv(self.channels, self.policy, name="conv_in")(x)
        h = nn.relu(conv(self.channels, self.policy, name="conv_0")(x))
        return x + conv(self.channels, self.policy, name="conv_1")(h)


class ImageEncoder(nn.Module):
    """Image tokens for the gates, the same for every frame of a video."""

    config: ImageEncoderConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, latent: Float[Array, "b h w c"]) -> Float[Array, "b m d"]:
        """Returns tokens in row-major order; at the published size, 16 tokens for a 32 x 32 latent."""
        config = self.config
        x = conv(config.stages[0], self.policy, name="conv_in")(latent)
        for stage, channels in enumerate(config.stages):
            for index in range(config.num_res_blocks):
                block = stage * config.num_res_blocks + index
                downsample = stage > 0 and index == 0
                x = EncoderBlock(channels, downsample, self.policy, name=f"block_{block}")(x)
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def dummy_call(self) -> Float[Array, "1 m d"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        side = self.config.downscale
        return self(jnp.zeros((1, side, side, self.config.latent_channels)))
