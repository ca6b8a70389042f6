"""The renderer: warps features of one picture by a motion field and fills in what the occlusion map hides."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.lvmm.autoencoder_config import RendererConfig
from smcd_jax.models.lvmm.blocks import ConvBlock, ResidualBlock, level_channels
from smcd_jax.nn.layers import ComputePolicy, conv
from smcd_jax.nn.warp import corner_grid, grid_sample, resize_bilinear

Levels = list[Array]  # feature maps of a picture, from full size to the smallest


class Rendered(NamedTuple):
    """A rendered picture.

    Attributes:
        prediction: Rendered picture, in 0..1 if an occlusion map is given.
        deformed: The source picture, warped.
        deformed_features: Warped features that enter the residual blocks.
    """

    prediction: Float[Array, "b h w c"]
    deformed: Float[Array, "b h w c"]
    deformed_features: Float[Array, "b hh ww d"]


class Renderer(nn.Module):
    """Renders pictures from a source picture, a motion field and an occlusion map (the generator of LFDM and MRAA)."""

    config: RendererConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the downsampling levels, the residual blocks and the upsampling levels."""
        config, policy = self.config, self.policy
        channels = [level_channels(config, level) for level in range(config.levels + 1)]
        self.first = ConvBlock(channels[0], policy, kernel=7)
        self.down = [ConvBlock(width, policy, "down") for width in channels[1:]]
        self.residual = [ResidualBlock(policy) for _ in range(config.residual_blocks)]
        self.up = [ConvBlock(width, policy, "up") for width in channels[-2::-1]]
        self.final = conv(config.channels, policy, kernel=7)

    def levels(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Levels:
        """Returns feature maps of a picture in 0..1, from full size to the smallest; LFDM's diffusion uses the last.

        Height and width must be multiples of 2^levels.
        """
        levels = [self.first(image.astype(self.policy.compute), train=train)]
        for block in self.down:
            levels.append(block(levels[-1], train=train))
        return levels

    def render(
        self,
        image: Float[Array, "b h w c"],
        levels: Levels,
        flow: Float[Array, "b y x 2"],
        occlusion: Float[Array, "b y x 1"] | None,
        *,
        train: bool = False,
    ) -> Rendered:
        """Renders a picture from the result of `levels`, which can be reused for many fields.

        Args:
            image: Source picture, 0..1.
            levels: Feature maps of the source picture.
            flow: Motion field of any size.
            occlusion: Occlusion map of the size of the field, 0..1: 1 selects the warped source, 0 what the network
                paints. None for models without occlusion maps.
            train: Whether BatchNorm uses the statistics of the batch.
        """
        skips = self.config.skips
        warped = [self._warped(level, flow) for level in levels]
        y = features = self._blend(warped[-1], None, occlusion)
        for block in self.residual:
            y = block(y, train=train)
        for level, block in zip(reversed(warped[1:]), self.up, strict=True):
            y = self._blend(level, y, occlusion) if skips else y
            y = block(y, train=train)
        y = self._blend(warped[0], y, occlusion) if skips else y
        painted = nn.sigmoid(self.final(y))
        deformed = self._warped(image, flow)
        prediction = self._blend(deformed, painted, occlusion) if skips else painted
        return Rendered(prediction, deformed, features)

    def __call__(
        self,
        image: Float[Array, "b h w c"],
        flow: Float[Array, "b y x 2"],
        occlusion: Float[Array, "b y x 1"] | None,
        *,
        train: bool = False,
    ) -> Rendered:
        """Applies `levels` and `render`."""
        return self.render(image, self.levels(image, train=train), flow, occlusion, train=train)

    def dummy_call(self) -> Rendered:
        """Runs the smallest input, so that initialisation creates every parameter."""
        size = 2**self.config.levels
        return self(jnp.zeros((1, size, size, self.config.channels)), corner_grid(1, 1)[None], jnp.ones((1, 1, 1, 1)))

    def _warped(self, x: Float[Array, "b h w c"], flow: Float[Array, "b y x 2"]) -> Float[Array, "b h w c"]:
        grid = resize_bilinear(flow, *x.shape[1:3])
        return grid_sample(x, grid, align_corners=self.config.align_corners)

    def _blend(self, warped: Array, painted: Array | None, occlusion: Array | None) -> Array:
        """Returns warped values where the map is 1 and painted ones where it is 0; None means zeros."""
        if occlusion is None:
            added = painted is not None and self.config.without_occlusion == "add"
            return warped + painted if added else warped
        visible = resize_bilinear(occlusion, *warped.shape[1:3]).astype(warped.dtype)
        return visible * warped if painted is None else visible * warped + (1 - visible) * painted.astype(warped.dtype)
