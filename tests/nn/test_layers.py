"""Layers that differ from Flax's: dropout by a hash of the element's index."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.nn.layers import Dropout, dropout_seed


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
