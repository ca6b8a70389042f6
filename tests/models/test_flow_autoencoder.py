"""The flow autoencoder of LVMM: geometry of regions, and properties of its networks without trained weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.errors import SMCDError
from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.models.lvmm.equivariance import Warp, draw_warp, warp_frames, warp_points
from smcd_jax.models.lvmm.geometry import affine_of_covariance, inverse, principal_axes, without_axis_swap
from smcd_jax.models.lvmm.predictors import Regions
from smcd_jax.models.lvmm.reconstruction import equivariance_losses, perceptual_loss
from smcd_jax.nn.networks import init_params, network
from smcd_jax.nn.warp import antialiased_downscale, corner_grid

SMALL = {"base_channels": 4, "max_channels": 8, "levels": 2}


def apply(config):
    """Applies the network under jit, which avoids compiling each operation separately."""
    return jax.jit(network(config).apply)


def covariances(count=200):
    factors = np.random.default_rng(0).normal(size=(count, 2, 2)).astype(np.float32)
    return factors @ factors.swapaxes(-1, -2)


def test_principal_axes_are_lapacks_with_signs():
    """Axes and variances equal those of torch's SVD on the CPU, which calls LAPACK, including the signs."""
    torch = pytest.importorskip("torch")
    matrices = covariances()
    axes, variances = jax.jit(principal_axes)(matrices)
    u, s, _ = torch.svd(torch.tensor(matrices.astype(np.float64)))
    np.testing.assert_allclose(variances, s, atol=2e-5)
    np.testing.assert_allclose(axes, u, atol=2e-4)  # rounding errors rotate the axes of nearly circular regions


def test_gradients_are_finite_for_round_and_empty_regions():
    """At equal or zero variances the derivative is undefined; lower bounds in the code keep it finite."""
    regions = jnp.stack([jnp.eye(2), jnp.zeros((2, 2)), jnp.array([[0.3, 1e-9], [1e-9, 0.3]])])

    def total(covariance):
        affine = affine_of_covariance(covariance)
        return (affine + inverse(affine)).sum()

    assert np.isfinite(jax.jit(jax.grad(total))(regions)).all()


def test_the_sign_of_a_map_whose_first_entry_is_zero_is_kept():
    matrix = jnp.array([[[0.0, -2.0], [3.0, 1.0]], [[-1.0, 2.0], [3.0, 4.0]]])
    np.testing.assert_array_equal(without_axis_swap(matrix), matrix * jnp.array([1.0, -1.0])[:, None, None])


def test_equal_regions_and_a_still_background_give_the_identity():
    config = FlowPredictorConfig(regions=3, scale=0.5, **SMALL)
    params = init_params(config, jax.random.key(0))
    shift = jax.random.uniform(jax.random.key(1), (2, 3, 2), minval=-0.5, maxval=0.5)
    covariance = jnp.asarray(covariances(6).reshape(2, 3, 2, 2)) * 0.1
    regions = Regions(shift, covariance, affine_of_covariance(covariance))
    image = jax.random.uniform(jax.random.key(2), (2, 16, 24, 3))
    flow = apply(config)({"params": params}, image, regions, regions)
    np.testing.assert_allclose(flow.grid, np.broadcast_to(corner_grid(8, 12), (2, 8, 12, 2)), atol=1e-4)
    assert flow.occlusion.shape == (2, 8, 12, 1)


def test_an_untrained_background_does_not_move():
    config = BackgroundPredictorConfig(motion="perspective", **SMALL)
    params = init_params(config, jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (2, 2, 16, 16, 3))
    np.testing.assert_array_equal(apply(config)({"params": params}, *images), np.tile(np.eye(3), (2, 1, 1)))


def test_untrained_jacobians_are_the_identity():
    config = RegionPredictorConfig(regions=3, scale=1.0, affine="jacobian", **SMALL)
    params = init_params(config, jax.random.key(0))
    regions = apply(config)({"params": params}, jax.random.uniform(jax.random.key(1), (2, 16, 16, 3)))
    np.testing.assert_allclose(regions.affine, np.tile(np.eye(2), (2, 3, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(regions.heatmap.sum(axis=(1, 2)), 1, atol=1e-5)


def test_a_visible_source_is_only_warped():
    config = RendererConfig(base_channels=4, max_channels=8, residual_blocks=1)
    params = init_params(config, jax.random.key(0))
    image = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
    still, shown = corner_grid(4, 4)[None], jnp.ones((1, 4, 4, 1))
    got = apply(config)({"params": params}, image, still, shown)
    np.testing.assert_allclose(got.prediction, got.deformed, atol=1e-6)
    hidden = apply(config)({"params": params}, image, still, jnp.zeros_like(shown))
    assert np.abs(hidden.prediction - got.prediction).max() > 0.01


def test_rendering_from_stored_levels_is_the_same():
    config = RendererConfig(base_channels=4, max_channels=8, residual_blocks=1)
    variables, module = {"params": init_params(config, jax.random.key(0))}, network(config)
    image = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
    motion = 0.5 * corner_grid(4, 4)[None], jnp.full((1, 4, 4, 1), 0.3)
    levels = module.apply(variables, image, method="levels")
    got = module.apply(variables, image, levels, *motion, method="render")
    np.testing.assert_array_equal(got.prediction, module.apply(variables, image, *motion).prediction)


def test_sizes_that_the_hourglass_cannot_halve_are_refused():
    config = RegionPredictorConfig(scale=1.0, **SMALL)
    params = init_params(config, jax.random.key(0))
    with pytest.raises(SMCDError) as caught:
        apply(config)({"params": params}, jnp.zeros((1, 18, 16, 3)))
    assert (caught.value.argument, caught.value.value) == ("size", (18, 16))


def test_a_warp_without_deviation_changes_nothing():
    still = draw_warp(jax.random.key(0), 2, sigma_affine=0.0, sigma_spline=0.0)
    frames = jax.random.uniform(jax.random.key(1), (2, 8, 12, 3))
    np.testing.assert_allclose(jax.jit(warp_frames)(still, frames), frames, atol=1e-5)
    drawn: Warp = draw_warp(jax.random.key(0), 2)
    assert np.abs(warp_points(drawn, jnp.ones((2, 4, 2))) - 1).max() > 0.01


def test_regions_that_move_with_the_warp_lose_nothing():
    warp = Warp(jnp.array([[[0.9, 0.2, 0.1], [-0.1, 1.1, -0.2]]]), jnp.zeros((1, 25)))
    covariance = jnp.asarray(covariances(3)[None])
    seen = Regions(jnp.array([[[0.1, 0.2], [0.4, -0.3], [0.0, 0.0]]]), covariance, affine_of_covariance(covariance))
    moved = Regions(warp_points(warp, seen.shift), covariance, warp.theta[:, None, :, :2] @ seen.affine)
    losses = jax.jit(equivariance_losses)
    np.testing.assert_allclose(losses(moved, seen, warp), 0, atol=1e-5)
    shift, affine = losses(seen, seen, warp)
    assert shift > 0.05
    assert affine > 0.05


def test_the_perceptual_loss_is_that_of_features_at_each_scale():
    """With the picture as its only feature map, the loss is a weighted mean difference of the scaled pictures."""
    one, other = jax.random.uniform(jax.random.key(0), (2, 2, 16, 16, 3))
    loss = lambda a, b: perceptual_loss(lambda x: [x], a, b, scales=(1.0, 0.5), weights=(3.0,))  # noqa: E731
    wanted = sum(
        3 * jnp.abs(antialiased_downscale(one, scale) - antialiased_downscale(other, scale)).mean(axis=(1, 2, 3))
        for scale in (1.0, 0.5)
    )
    np.testing.assert_allclose(loss(one, other), wanted, rtol=1e-5)
    assert not jax.grad(lambda b: loss(one, b).sum())(other).any()


def test_every_form_has_the_parameters_of_its_table():
    """The tables are complete for every variant, so that published files convert."""
    from smcd_jax.models.lvmm.conversion import autoencoder_table as tables
    from smcd_jax.nn.networks import abstract_params, flatten

    forms = {
        tables.region_predictor_rows: [RegionPredictorConfig(affine=form, **SMALL) for form in ("pca", "jacobian")],
        tables.background_predictor_rows: [
            BackgroundPredictorConfig(motion=form, **SMALL) for form in ("shift", "affine")
        ],
        tables.flow_predictor_rows: [FlowPredictorConfig(occlusion=form, **SMALL) for form in (True, False)],
        tables.renderer_rows: [RendererConfig(levels=levels) for levels in (1, 3)],
    }
    for rows, configs in forms.items():
        for config in configs:
            paths = [row.path for row in rows(config)]
            assert sorted(paths) == sorted(flatten(abstract_params(config))), dataclasses.asdict(config)
