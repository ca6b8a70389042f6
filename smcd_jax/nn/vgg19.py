"""The convolutions of VGG19 (Simonyan and Zisserman 2015), whose features the perceptual loss compares."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.nn.layers import ComputePolicy, conv

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # channel statistics of ImageNet for images in 0..1


@dataclasses.dataclass(frozen=True)
class VGG19Config:
    """Channels and number of 3x3 convolutions per block, up to the last feature map."""

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    convolutions: tuple[int, ...] = (2, 2, 4, 4, 1)


class VGG19(nn.Module):
    """Features of pictures after the first ReLU of each block (relu1_1 to relu5_1)."""

    config: VGG19Config
    policy: ComputePolicy

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Array]:
        """Returns one feature map per block for pictures in 0..1; each has half the size of the one before."""
        dtype = self.policy.compute
        x = (images.astype(dtype) - jnp.asarray(_MEAN, dtype)) / jnp.asarray(_DEVIATION, dtype)
        features = []
        for block, (channels, count) in enumerate(zip(self.config.channels, self.config.convolutions, strict=True)):
            if block:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for index in range(count):
                x = nn.relu(conv(channels, self.policy, name=f"conv_{block}_{index}")(x))
                if index == 0:
                    features.append(x)
        return features

    def dummy_call(self) -> list[Array]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        side = 2 ** (len(self.config.channels) - 1)
        return self(jnp.zeros((1, side, side, 3)))
