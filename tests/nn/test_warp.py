"""Sampling of pictures at coordinate fields, compared with PyTorch's operators of the same names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.errors import SMCDError
from smcd_jax.nn.warp import antialiased_downscale, corner_grid, grid_sample, resize_bilinear

torch = pytest.importorskip("torch")

TOLERANCE = 1e-5  # rounding of float32 pixel coordinates times the slope of a random picture


def arrays(seed=0, *, reach=1.6):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, 5, 9, 3)).astype(np.float32)
    grid = rng.uniform(-reach, reach, (2, 4, 6, 2)).astype(np.float32)
    return image, grid


@pytest.mark.parametrize(
    ("padding", "align"), [("zeros", True), ("zeros", False), ("reflection", True), ("reflection", False)]
)
def test_values_and_gradients_are_those_of_torch(padding, align):
    image, grid = arrays()
    given = torch.tensor(image.transpose(0, 3, 1, 2), requires_grad=True)
    at = torch.tensor(grid, requires_grad=True)
    want = torch.nn.functional.grid_sample(given, at, padding_mode=padding, align_corners=align)
    weights = np.random.default_rng(1).normal(size=(2, 4, 6, 3)).astype(np.float32)
    (want.permute(0, 2, 3, 1) * torch.tensor(weights)).sum().backward()

    def total(image, grid):
        got = grid_sample(image, grid, padding=padding, align_corners=align)
        return (got * weights).sum(), got

    gradient_of = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, got), (of_image, of_grid) = gradient_of(jnp.asarray(image), jnp.asarray(grid))
    np.testing.assert_allclose(got, want.detach().permute(0, 2, 3, 1), atol=TOLERANCE)
    np.testing.assert_allclose(of_image, given.grad.permute(0, 2, 3, 1), atol=TOLERANCE)
    np.testing.assert_allclose(of_grid, at.grad, atol=10 * TOLERANCE)


def test_the_identity_field_returns_the_picture():
    image, _ = arrays()
    grid = jnp.broadcast_to(corner_grid(5, 9), (2, 5, 9, 2))
    np.testing.assert_allclose(jax.jit(grid_sample)(image, grid), image, atol=TOLERANCE)


def test_a_reflected_picture_of_one_pixel_has_its_value():
    _, grid = arrays(reach=9)
    one = jnp.full((2, 1, 1, 1), 3.0)
    np.testing.assert_array_equal(grid_sample(one, jnp.asarray(grid), padding="reflection"), np.full((2, 4, 6, 1), 3.0))


def test_values_have_the_dtype_of_the_picture_and_precise_coordinates():
    image, grid = arrays()
    rounded = jnp.asarray(image, jnp.bfloat16)
    got = grid_sample(rounded, jnp.asarray(grid))
    assert got.dtype == jnp.bfloat16
    exact = grid_sample(rounded.astype(jnp.float32), jnp.asarray(grid))
    np.testing.assert_array_equal(got, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("size", [(12, 7), (3, 4), (5, 9)])
def test_resizing_is_that_of_torch(size):
    image, _ = arrays()
    given = torch.tensor(image.transpose(0, 3, 1, 2))
    want = torch.nn.functional.interpolate(given, size=size, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(image), *size), want.permute(0, 2, 3, 1), atol=TOLERANCE)


def test_downscaling_is_a_blur_and_every_nth_pixel():
    """Computed by matrix products, it agrees with a convolution with the two-dimensional kernel."""
    from smcd_jax.nn.warp import gaussian_kernel

    image = np.random.default_rng(2).normal(size=(1, 18, 11, 1)).astype(np.float32)
    kernel = gaussian_kernel(0.25)
    weights = torch.tensor(np.outer(kernel, kernel)[None, None].astype(np.float32))
    blurred = torch.nn.functional.conv2d(torch.tensor(image.transpose(0, 3, 1, 2)), weights, padding=len(kernel) // 2)
    want = blurred[0, 0, ::4, ::4]
    np.testing.assert_allclose(antialiased_downscale(jnp.asarray(image), 0.25)[0, ..., 0], want, atol=TOLERANCE)


def test_scale_must_be_in_range():
    with pytest.raises(SMCDError) as caught:
        antialiased_downscale(jnp.zeros((1, 4, 4, 1)), 2.0)
    assert (caught.value.argument, caught.value.value) == ("scale", 2.0)
