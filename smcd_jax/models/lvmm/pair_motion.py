"""Networks of this project beside the published ones: motion between two pictures, and the projection of appearance.

The published predictor composes a field from regions; started from scratch on little data it stays at no motion for
long. A plain hourglass on both pictures has the same output and moves at once.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.lvmm.blocks import Hourglass
from smcd_jax.models.lvmm.config import AppearanceConfig, PairMotionConfig, RegionMotionConfig
from smcd_jax.models.lvmm.predictors import BackgroundPredictor, Flow, FlowPredictor, RegionPredictor
from smcd_jax.nn.layers import ComputePolicy, conv, dense
from smcd_jax.nn.warp import antialiased_downscale, corner_grid

_REACH = 0.25  # displacement of an output of 1, of a picture that spans -1..1
_VISIBLE = 2.0  # logit of the confidence at the start: 0.88


class PairMotion(nn.Module):
    """The field from a driving picture back to a source, and where the source shows what the driving picture shows."""

    config: PairMotionConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(
        self, source: Float[Array, "b h w c"], driving: Float[Array, "b h w c"], *, train: bool = False
    ) -> Flow:
        """The field; no motion at initialization.

        Args:
            source: Source picture, 0..1.
            driving: Driving picture, 0..1.
            train: Whether BatchNorm uses the statistics of the batch.
        """
        pair = antialiased_downscale(jnp.concatenate([source, driving], axis=-1), self.config.scale)
        hidden = Hourglass(self.config, self.policy, name="hourglass")(pair.astype(self.policy.compute), train=train)
        out = conv(3, self.policy, kernel=7, zero=True, name="out")(hidden).astype(jnp.float32)
        grid = corner_grid(*out.shape[1:3]) + _REACH * out[..., :2]
        return Flow(grid, nn.sigmoid(out[..., 2:] + _VISIBLE))

    def dummy_call(self) -> Any:
        """Uses every parameter once."""
        side = round(2**self.config.levels / self.config.scale)
        picture = jnp.zeros((1, side, side, self.config.channels))
        return self(picture, picture)


class RegionMotion(nn.Module):
    """The same field by the published networks: regions of both pictures, the background, and their composition."""

    config: RegionMotionConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Named as in the published weights, but for the background."""
        config, policy = self.config, self.policy
        self.region_predictor = RegionPredictor(config.region_predictor, policy)
        self.flow_predictor = FlowPredictor(config.flow_predictor, policy)
        if config.background_predictor is not None:
            self.background_predictor = BackgroundPredictor(config.background_predictor, policy)

    def __call__(
        self, source: Float[Array, "b h w c"], driving: Float[Array, "b h w c"], *, train: bool = False
    ) -> Flow:
        """See `PairMotion`. Without an occlusion map, the source is visible everywhere."""
        of_source, of_driving = (self.region_predictor(picture, train=train) for picture in (source, driving))
        background = None
        if self.config.background_predictor is not None:
            background = self.background_predictor(source, driving, train=train)
        flow = self.flow_predictor(source, of_source, of_driving, background, train=train)
        visible = jnp.ones_like(flow.grid[..., :1]) if flow.occlusion is None else flow.occlusion
        return Flow(flow.grid, visible)

    def dummy_call(self) -> Any:
        """Uses every parameter once."""
        side = round(max(2**self.config.levels, 8) / self.config.scale)
        picture = jnp.zeros((1, side, side, self.config.region_predictor.channels))
        return self(picture, picture)


class Appearance(nn.Module):
    """A learned projection of features to a few channels, pixel by pixel."""

    config: AppearanceConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """The projected features."""
        return dense(self.config.channels, self.policy, name="project")(features.astype(self.policy.compute))

    def dummy_call(self) -> Any:
        """Uses every parameter once."""
        return self(jnp.zeros((1, 1, 1, self.config.features)))
