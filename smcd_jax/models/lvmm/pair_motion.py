"""Networks that are not part of the published code: motion between two pictures, and projection of appearance.

The published predictor composes a field from regions; trained from scratch on little data, it predicts no motion for a
long time. A plain hourglass on both pictures has the same output and learns faster.
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

_REACH = 0.25  # displacement for a network output of 1, in units in which the picture spans -1..1
_VISIBLE = 2.0  # initial logit of the confidence, for a confidence of 0.88


class PairMotion(nn.Module):
    """Hourglass that predicts the field from a driving picture to a source picture, and its confidence."""

    config: PairMotionConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(
        self, source: Float[Array, "b h w c"], driving: Float[Array, "b h w c"], *, train: bool = False
    ) -> Flow:
        """Returns the field, which is zero motion at initialization.

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
        """Runs the smallest input, so that initialisation creates every parameter."""
        side = round(2**self.config.levels / self.config.scale)
        picture = jnp.zeros((1, side, side, self.config.channels))
        return self(picture, picture)


class RegionMotion(nn.Module):
    """The same field from the published networks, composed from regions of both pictures and the background."""

    config: RegionMotionConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the networks, named as in the published weights except for the background predictor."""
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
        """Runs the smallest input, so that initialisation creates every parameter."""
        side = round(max(2**self.config.levels, 8) / self.config.scale)
        picture = jnp.zeros((1, side, side, self.config.region_predictor.channels))
        return self(picture, picture)


class Appearance(nn.Module):
    """Learned pointwise projection of features to a few channels."""

    config: AppearanceConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, features: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns the projected features."""
        return dense(self.config.channels, self.policy, name="project")(features.astype(self.policy.compute))

    def dummy_call(self) -> Any:
        """Runs the smallest input, so that initialisation creates every parameter."""
        return self(jnp.zeros((1, 1, 1, self.config.features)))
