"""Blocks of the flow autoencoder: convolution with BatchNorm, pre-activation residual block, encoder and hourglass."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.errors import SMCDError
from smcd_jax.nn.batch_norm import BatchNorm
from smcd_jax.nn.layers import ComputePolicy, conv


class ConvBlock(nn.Module):
    """Convolution, BatchNorm and ReLU, after 2x nearest-neighbor upsampling or before 2x2 average pooling.

    Attributes:
        features: Channels of the output.
        policy: Compute policy.
        resample: "up", "down", or "" to keep the size.
        kernel: Size of the convolution.
    """

    features: int
    policy: ComputePolicy
    resample: Literal["", "up", "down"] = ""
    kernel: int = 3

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b hh ww d"]:
        """Applies the block to feature maps."""
        if self.resample == "up":
            x = x.repeat(2, axis=1).repeat(2, axis=2)
        x = conv(self.features, self.policy, kernel=self.kernel, name="conv")(x)
        x = nn.relu(BatchNorm(self.policy, name="norm")(x, train=train))
        if self.resample != "down":
            return x
        b, h, w, c = x.shape
        return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


class ResidualBlock(nn.Module):
    """Residual block whose branch applies BatchNorm, ReLU and a 3x3 convolution twice."""

    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """Applies the block to feature maps."""
        hidden = x
        for index in (1, 2):
            hidden = nn.relu(BatchNorm(self.policy, name=f"norm_{index}")(hidden, train=train))
            hidden = conv(x.shape[-1], self.policy, name=f"conv_{index}")(hidden)
        return x + hidden


def level_channels(config: Any, level: int) -> int:
    """Returns the channels of a level: twice those of the level before, at most ``max_channels``."""
    return min(config.max_channels, config.base_channels * 2**level)


class Encoder(nn.Module):
    """Encoder whose levels halve the size. The config has ``base_channels``, ``max_channels`` and ``levels``."""

    config: Any
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> list[Array]:
        """Returns the input followed by the feature maps of each level.

        Raises:
            SMCDError: 2^levels does not divide height and width.
        """
        config, multiple = self.config, 2**self.config.levels
        if x.shape[1] % multiple or x.shape[2] % multiple:
            raise SMCDError(
                f"height and width of feature maps must be multiples of {multiple}, got {x.shape[1]} x {x.shape[2]}",
                argument="size",
                value=tuple(x.shape[1:3]),
            )
        levels = [x]
        for level in range(config.levels):
            block = ConvBlock(level_channels(config, level + 1), self.policy, "down", name=f"down_{level}")
            levels.append(block(levels[-1], train=train))
        return levels


class Hourglass(nn.Module):
    """Encoder and decoder with skip connections at every level; the output has base_channels + c channels."""

    config: Any
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w d"]:
        """Returns decoded feature maps concatenated with the input; errors are those of `Encoder`."""
        *skips, x = Encoder(self.config, self.policy, name="encoder")(x, train=train)
        for index, skip in enumerate(reversed(skips)):
            channels = level_channels(self.config, len(skips) - 1 - index)
            x = ConvBlock(channels, self.policy, "up", name=f"up_{index}")(x, train=train)
            x = jnp.concatenate([x, skip.astype(x.dtype)], axis=-1)
        return x
