"""Layers that differ from Flax's: dropout by a hash of the element's index, and group norms with their own gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.nn.layers import ComputePolicy, Dropout, dropout_seed, group_norm


class Pair(nn.Module):
    """Two dropouts on the same input."""

    @nn.compact
    def __call__(self, x, seed):
        return Dropout(0.3)(x, seed), Dropout(0.3)(x, seed)


def masks(key: int, shape: tuple[int, ...] = (64, 32, 32)) -> np.ndarray:
    return np.stack(Pair().apply({}, jnp.ones(shape), dropout_seed(jax.random.key(key))))


def test_dropout_keeps_the_mean_and_drops_the_rate():
    first, second = masks(0)
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.7)}
    # the mean of 65,536 draws has a standard deviation of 0.0018
    np.testing.assert_allclose([(first == 0).mean(), (second == 0).mean()], 0.3, atol=0.006)
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert np.abs((first == 0).mean(axis=axes) - 0.3).max() < 0.06  # 4 standard deviations or more


def test_dropout_masks_of_layers_and_steps_are_independent():
    first, second = (part == 0 for part in masks(0))
    other, _ = (part == 0 for part in masks(1))
    neighbours = (first[:, :, 1:], first[:, :, :-1])
    for a, b in ((first, second), (first, other), neighbours):
        np.testing.assert_allclose((a & b).mean(), 0.09, atol=0.005)


def test_dropout_depends_on_the_seed_alone():
    np.testing.assert_array_equal(masks(3), masks(3))
    assert Dropout(0.3).apply({}, jnp.ones(4), None).tolist() == [1, 1, 1, 1]
    assert dropout_seed(None) is None


@pytest.mark.parametrize("reduction", ["sum", "recomputed", "moments"])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 4, 16), (2, 3, 1, 8, 16)])
def test_a_group_norm_has_output_and_gradients_of_flax(reduction, silu, shape):
    norm = group_norm(ComputePolicy(groups=4, reduction=reduction), epsilon=1e-5, silu=silu)
    plain = nn.GroupNorm(num_groups=4, epsilon=1e-5, use_fast_variance=False)
    drawn = lambda seed, *axes: jnp.asarray(np.random.default_rng(seed).standard_normal(axes), jnp.float32)  # noqa: E731
    params = {"params": {"scale": drawn(0, 16), "bias": drawn(1, 16)}}
    x, weight = drawn(2, *shape), drawn(3, *shape)

    def by_flax(params, x):
        out = plain.apply(params, x)
        return nn.silu(out) if silu else out

    def output_and_gradients(function):
        def loss(params, x):
            out = function(params, x)
            return (jnp.tanh(out) * weight).sum(), out

        gradients, out = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return jax.tree.leaves((out, gradients))

    for got, want in zip(output_and_gradients(norm.apply), output_and_gradients(by_flax), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
