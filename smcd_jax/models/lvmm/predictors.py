"""Region predictor, background predictor and flow predictor of the flow autoencoder (MRAA, arXiv 2104.11280).

Statistics and coordinates are float32 (or float64), whatever the dtype of the convolutions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
)
from smcd_jax.models.lvmm.blocks import Encoder, Hourglass
from smcd_jax.models.lvmm.geometry import affine_of_covariance, inverse, multiply, without_axis_swap
from smcd_jax.nn.layers import ComputePolicy, conv, dense
from smcd_jax.nn.warp import antialiased_downscale, corner_grid, grid_sample

_FREE_ENTRIES = {"shift": (2, 5), "affine": (0, 1, 2, 3, 4, 5), "perspective": (0, 1, 2, 3, 4, 5, 6, 7)}


class Regions(NamedTuple):
    """Regions of a picture, in coordinates -1..1.

    Attributes:
        shift: Centers (x, y).
        covariance: Covariances.
        affine: Affine maps from the unit circle to the regions; None for models without them.
        heatmap: Weight of each pixel in each region; sums to 1 over pixels.
    """

    shift: Float[Array, "b k 2"]
    covariance: Float[Array, "b k 2 2"]
    affine: Float[Array, "b k 2 2"] | None
    heatmap: Float[Array, "b h w k"] | None = None


class Flow(NamedTuple):
    """A motion field with its occlusion map.

    Attributes:
        grid: Position of each pixel in the source picture, (x, y) in -1..1.
        occlusion: Occlusion map in 0..1, 1 where the source is visible; None for models without it.
    """

    grid: Float[Array, "b h w 2"]
    occlusion: Float[Array, "b h w 1"] | None


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class RegionPredictor(nn.Module):
    """Hourglass that predicts heat maps of regions, whose moments describe the regions."""

    config: RegionPredictorConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, image: Float[Array, "b h w c"], *, train: bool = False) -> Regions:
        """Returns the regions of pictures in 0..1."""
        config, policy = self.config, self.policy
        x = antialiased_downscale(image, config.scale).astype(policy.compute)
        hidden = Hourglass(config, policy, name="hourglass")(x, train=train)
        padding = ((config.padding, config.padding),) * 2
        logits = _wide(conv(config.regions, policy, kernel=7, padding=padding, name="regions")(hidden))
        b, h, w, k = logits.shape
        heatmap = nn.softmax(logits.reshape(b, h * w, k) / config.temperature, axis=1)
        grid = corner_grid(h, w, heatmap.dtype).reshape(1, h * w, 1, 2)
        shift = (heatmap[..., None] * grid).sum(axis=1)
        offset = grid - shift[:, None]
        covariance = (heatmap[..., None, None] * offset[..., :, None] * offset[..., None, :]).sum(axis=1)
        affine = None
        if config.affine == "jacobian":
            start = nn.initializers.constant(jnp.array([1.0, 0.0, 0.0, 1.0]))
            regress = conv(4, policy, kernel=7, padding=padding, zero=True, bias_init=start, name="jacobian")
            entries = _wide(regress(hidden)).reshape(b, h * w, 4)
            affine = jnp.einsum("bpk,bpe->bke", heatmap, entries, precision="highest").reshape(b, k, 2, 2)
            covariance = multiply(affine, affine.swapaxes(-1, -2))
        elif config.affine == "pca":
            affine = affine_of_covariance(covariance)
        return Regions(shift, covariance, affine, heatmap.reshape(b, h, w, k))

    def dummy_call(self) -> Regions:
        """Runs the smallest input, so that initialisation creates every parameter."""
        return self(_blank(self.config, self.config.channels))


class BackgroundPredictor(nn.Module):
    """Predicts the motion of the background between two pictures, as a matrix on (x, y, 1)."""

    config: BackgroundPredictorConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(
        self, source: Float[Array, "b h w c"], driving: Float[Array, "b h w c"], *, train: bool = False
    ) -> Float[Array, "b 3 3"]:
        """Returns matrices from coordinates of the driving picture to the source; the identity at initialization."""
        pair = jnp.concatenate([source, driving], axis=-1).astype(self.policy.compute)
        deepest = Encoder(self.config, self.policy, name="encoder")(pair, train=train)[-1]
        pooled = deepest.mean(axis=(1, 2))
        free = _FREE_ENTRIES[self.config.motion]
        identity = jnp.eye(3).reshape(9)
        start = nn.initializers.constant(identity[jnp.array(free)])
        entries = _wide(dense(len(free), self.policy, zero=True, bias_init=start, name="fc")(pooled))
        rows = jnp.broadcast_to(identity.astype(entries.dtype), (entries.shape[0], 9))
        return rows.at[:, jnp.array(free)].set(entries).reshape(-1, 3, 3)

    def dummy_call(self) -> Float[Array, "1 3 3"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        image = _blank(self.config, self.config.channels)
        return self(image, image)


class FlowPredictor(nn.Module):
    """Predicts a motion field as a per-pixel mixture of the motions of regions and background."""

    config: FlowPredictorConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(
        self,
        source: Float[Array, "b h w c"],
        source_regions: Regions,
        driving_regions: Regions,
        background: Float[Array, "b 3 3"] | None = None,
        *,
        train: bool = False,
    ) -> Flow:
        """Returns the field from a driving picture to the source.

        Args:
            source: Source picture, 0..1.
            source_regions: Regions of the source picture.
            driving_regions: Regions of the driving picture.
            background: Motion of the background; None for a background that does not move.
            train: Whether BatchNorm uses the statistics of the batch.
        """
        config, policy = self.config, self.policy
        small = antialiased_downscale(source, config.scale)
        motions = self.motions(small, source_regions, driving_regions, background)
        heat = gaussians(config, small, driving_regions) - gaussians(config, small, source_regions)
        features = jnp.pad(heat, ((0, 0), (1, 0), (0, 0), (0, 0)))[..., None]  # the heat map of the background is zero
        if config.deformed_sources:
            deformed = grid_sample(small, motions, align_corners=config.align_corners)
            features = jnp.concatenate([features, deformed.astype(features.dtype)], axis=-1)
        by_pixel = jnp.moveaxis(features, 1, 3)
        by_pixel = by_pixel.reshape(*by_pixel.shape[:3], -1).astype(policy.compute)  # channels are grouped by region
        hidden = Hourglass(config, policy, name="hourglass")(by_pixel, train=train)
        mask = nn.softmax(_wide(conv(config.regions + 1, policy, kernel=7, name="mask")(hidden)), axis=-1)
        flow = (jnp.moveaxis(mask, -1, 1)[..., None] * motions).sum(axis=1)
        if not config.occlusion:
            return Flow(flow, None)
        return Flow(flow, nn.sigmoid(_wide(conv(1, policy, kernel=7, name="occlusion")(hidden))))

    def dummy_call(self) -> Flow:
        """Runs the smallest input, so that initialisation creates every parameter."""
        one = jnp.broadcast_to(jnp.eye(2), (1, self.config.regions, 2, 2))
        regions = Regions(jnp.zeros(one.shape[:3]), one, one)
        return self(_blank(self.config, self.config.channels), regions, regions)

    def motions(
        self,
        small: Float[Array, "b h w c"],
        source: Regions,
        driving: Regions,
        background: Float[Array, "b 3 3"] | None = None,
    ) -> Float[Array, "b m h w 2"]:
        """Returns the source coordinates of each pixel under each motion; the first motion is that of the background.

        Args:
            small: Picture of the size of the field.
            source: Regions of the source picture.
            driving: Regions of the driving picture.
            background: Motion of the background, or None.
        """
        grid = corner_grid(*small.shape[1:3], driving.shift.dtype)
        moved = grid - driving.shift[:, :, None, None]
        if driving.affine is not None and source.affine is not None:
            matrix = multiply(source.affine, inverse(driving.affine))
            if self.config.revert_axis_swap:
                matrix = without_axis_swap(matrix)
            moved = _transformed(matrix[:, :, None, None], moved)
        moved = moved + source.shift[:, :, None, None]
        behind = jnp.broadcast_to(grid, (moved.shape[0], 1, *grid.shape))
        if background is not None:
            matrix = background.astype(grid.dtype)[:, None, None, None]
            homogeneous = _transformed(matrix, jnp.concatenate([behind, jnp.ones_like(behind[..., :1])], axis=-1))
            behind = homogeneous[..., :2] / homogeneous[..., 2:]
        return jnp.concatenate([behind, moved], axis=1)


def gaussians(config: FlowPredictorConfig, small: Float[Array, "b h w c"], regions: Regions) -> Float[Array, "b k h w"]:
    """Returns Gaussians of height 1 at the regions, on the pixels of a picture."""
    grid = corner_grid(*small.shape[1:3], regions.shift.dtype)
    offset = grid - regions.shift[:, :, None, None]
    if not config.covariance_heatmap:
        return jnp.exp(-jnp.square(offset).sum(axis=-1) / (2 * config.region_variance))
    precision = inverse(regions.covariance)[:, :, None, None]
    return jnp.exp(-(offset * _transformed(precision, offset)).sum(axis=-1) / 2)


def _transformed(matrix: Float[Array, "... n m"], vector: Float[Array, "... m"]) -> Float[Array, "... n"]:
    return (matrix * vector[..., None, :]).sum(axis=-1)


def _blank(config: Any, channels: int) -> Float[Array, "1 h w c"]:
    """Returns the smallest blank picture that the hourglass accepts and whose unpadded heat maps are not empty."""
    side = round(max(2**config.levels, 8) / getattr(config, "scale", 1))
    return jnp.zeros((1, side, side, channels))
