"""BatchNorm that stores its running statistics as parameters, and functions that update them.

The running mean and variance are leaves ``mean`` and ``variance`` of the parameter tree, so that model folders store
them. No gradient reaches them. In training, a network is applied with ``mutable=[STATISTICS]`` and also returns new
values of these leaves, at the same paths:

    out, changed = module.apply({"params": params}, x, train=True, mutable=[STATISTICS])
    params = with_statistics(params, changed[STATISTICS])
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import Params, flatten, unflatten

STATISTICS = "statistics"  # collection of the new running statistics
EPSILON = 1e-5
MOMENTUM = 0.1  # weight of the batch in the new running statistics


class BatchNorm(nn.Module):
    """BatchNorm over all axes but the last, with PyTorch's epsilon and momentum; statistics are at least float32.

    In training under `jax.jit` the mean is taken over the whole batch, even if it is split over devices.
    """

    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "... c"], *, train: bool = False) -> Float[Array, "... c"]:
        """Returns the array normalized by the running statistics, or with ``train`` by those of the batch."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        initial = {"scale": ones, "bias": zeros, "mean": zeros, "variance": ones}
        given = {name: self.param(name, start, x.shape[-1:], self.policy.params) for name, start in initial.items()}
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        scale, bias, mean, variance = (value.astype(dtype) for value in given.values())
        wide = x.astype(dtype)
        if train:
            axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
            old_mean, old_variance = lax.stop_gradient((mean, variance))
            mean = wide.mean(axis=axes)
            variance = jnp.square(wide - mean).mean(axis=axes)
            unbiased = variance * (count / max(count - 1, 1))
            self._return("mean", old_mean + MOMENTUM * (mean - old_mean), given["mean"].dtype)
            self._return("variance", old_variance + MOMENTUM * (unbiased - old_variance), given["variance"].dtype)
        normalized = (wide - mean) * (scale * lax.rsqrt(variance + EPSILON)) + bias
        return normalized.astype(self.policy.compute)

    def _return(self, name: str, value: Float[Array, " c"], dtype: Any) -> None:
        value = lax.stop_gradient(value).astype(dtype)
        self.sow(STATISTICS, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)


def with_statistics(params: Params, statistics: Params) -> Params:
    """Returns parameters in which the given running statistics replace those at the same paths."""
    return unflatten({**flatten(params), **flatten(statistics)})


def statistics_of(params: Params) -> Params:
    """Returns the running statistics of a parameter tree: its leaves ``mean`` and ``variance``."""
    leaves = flatten(params)
    return unflatten({path: leaf for path, leaf in leaves.items() if is_statistic(path)})


def is_statistic(path: str) -> bool:
    """Returns whether the leaf at this path is a running statistic, which no gradient reaches."""
    return path.rsplit("/", 1)[-1] in ("mean", "variance")
