"""Losses that train the flow autoencoder of LVMM, LFDM and MRAA on pairs of frames, as published.

One of two frames of a clip is rendered from the other. The perceptual loss compares the rendered frame with the true
one; the equivariance losses require that the regions move with a warped frame. `smcd_jax.models.lvmm.objectives`
has losses that need no weights of VGG19; they are not those of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from smcd_jax.models.lvmm.equivariance import Warp, warp_frames, warp_jacobian, warp_points
from smcd_jax.models.lvmm.geometry import inverse, multiply, without_axis_swap
from smcd_jax.models.lvmm.predictors import Flow, Regions
from smcd_jax.models.lvmm.renderer import Rendered
from smcd_jax.nn.batch_norm import STATISTICS, with_statistics
from smcd_jax.nn.networks import Network, Params
from smcd_jax.nn.warp import antialiased_downscale

SCALES = (1.0, 0.5, 0.25, 0.125)
FEATURE_WEIGHTS = (10.0,) * 5  # weights of relu1_1 to relu5_1
EQUIVARIANCE_WEIGHT = 10.0  # weight of each of the two equivariance losses
Features = Callable[[Array], list[Array]]


class ReconstructionLosses(NamedTuple):
    """Losses of each example, with the published weights applied.

    Attributes:
        perceptual: Difference of VGG19's features.
        equivariance_shift: Distance of the regions' centers from the points to which the warp moves them.
        equivariance_affine: Difference of the regions' affine maps.
    """

    perceptual: Float[Array, " b"]
    equivariance_shift: Float[Array, " b"]
    equivariance_affine: Float[Array, " b"]


class Reconstruction(NamedTuple):
    """Outputs of the networks in one training step.

    Attributes:
        losses: Losses of each example.
        flow: Motion field and occlusion map.
        rendered: The rendered frame.
        statistics: New running statistics by component.
    """

    losses: ReconstructionLosses
    flow: Flow
    rendered: Rendered
    statistics: Params


def perceptual_loss(
    features: Features,
    predicted: Float[Array, "b h w 3"],
    target: Float[Array, "b h w 3"],
    *,
    scales: Sequence[float] = SCALES,
    weights: Sequence[float] = FEATURE_WEIGHTS,
) -> Float[Array, " b"]:
    """Returns the weighted mean difference of features, summed over feature maps and scales.

    Args:
        features: Function that returns the feature maps of pictures (`smcd_jax.nn.vgg19.VGG19` with its parameters).
        predicted: Predicted pictures, 0..1.
        target: True pictures, 0..1; no gradient flows through their features.
        scales: Scales at which the pictures are compared.
        weights: Weight of each feature map.
    """
    total = jnp.zeros(len(predicted), predicted.dtype)
    for scale in scales:
        ours, true = (features(antialiased_downscale(images, scale)) for images in (predicted, target))
        for weight, mine, other in zip(weights, ours, true, strict=True):
            difference = jnp.abs(mine - lax.stop_gradient(other)).astype(total.dtype)
            total = total + weight * difference.mean(axis=(1, 2, 3))
    return total


def equivariance_losses(
    driving: Regions, warped: Regions, warp: Warp, *, revert_axis_swap: bool = True
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Returns the equivariance losses of centers and of affine maps; the latter is 0 for regions without affine maps.

    Args:
        driving: Regions of a frame.
        warped: Regions of the same frame after `smcd_jax.models.lvmm.equivariance.warp_frames`.
        warp: The warp.
        revert_axis_swap: Whether the sign of each map is chosen as in the flow predictor.
    """
    moved = warp_points(warp, warped.shift)
    shift = jnp.abs(driving.shift - moved).mean(axis=(1, 2))
    if driving.affine is None or warped.affine is None:
        return shift, jnp.zeros_like(shift)
    expected = multiply(warp_jacobian(warp, warped.shift), warped.affine)
    relative = multiply(inverse(driving.affine), expected)
    if revert_axis_swap:
        relative = without_axis_swap(relative)
    return shift, jnp.abs(jnp.eye(2, dtype=relative.dtype) - relative).mean(axis=(1, 2, 3))


def reconstruct(
    networks: Mapping[str, Network],
    params: Params,
    source: Float[Array, "b h w 3"],
    driving: Float[Array, "b h w 3"],
    warp: Warp,
    *,
    features: Features,
    scales: Sequence[float] = SCALES,
) -> Reconstruction:
    """Returns losses, outputs and new running statistics of one training step on pairs of frames.

    The region predictor runs on source, driving and warped frame, each with its own batch statistics; its running
    statistics change three times, in this order.

    Args:
        networks: Networks by component: "region_predictor", "flow_predictor", "renderer" and, for a background that
            moves, "background_predictor".
        params: Parameters by component.
        source: Source frames, 0..1.
        driving: Driving frames of the same clips, 0..1.
        warp: One random warp per example.
        features: Features of the perceptual loss.
        scales: Scales of the perceptual loss.
    """
    statistics: Params = {}

    def run(name: str, *args: Any) -> Any:
        own = with_statistics(params[name], statistics.get(name, {}))
        out, changed = networks[name].apply({"params": own}, *args, train=True, mutable=[STATISTICS])
        statistics[name] = changed.get(STATISTICS, {})
        return out

    regions = [run("region_predictor", frame) for frame in (source, driving)]
    background = run("background_predictor", source, driving) if "background_predictor" in networks else None
    flow = run("flow_predictor", source, *regions, background)
    rendered = run("renderer", source, *flow)
    config = networks["flow_predictor"].config
    warped = run("region_predictor", warp_frames(warp, driving, align_corners=config.align_corners))
    equivariance = equivariance_losses(regions[1], warped, warp, revert_axis_swap=config.revert_axis_swap)
    losses = ReconstructionLosses(
        perceptual_loss(features, rendered.prediction, driving, scales=scales),
        *(EQUIVARIANCE_WEIGHT * loss for loss in equivariance),
    )
    return Reconstruction(losses, flow, rendered, statistics)
