"""Parameters gathered once per step, and their gradients scattered once (ZeRO-2 in the forward and backward pass)."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import NamedSharding
from jaxtyping import Array


def gather(params: Any, *, shards: Any, whole: Any, dtype: Any) -> Any:
    """Returns parameters gathered to other shardings; the gradient has the shardings of the parameters.

    Leaves whose two shardings are equal are returned unchanged. The others are cast to ``dtype`` before they are
    gathered, and gradients are scattered in this dtype.

    Args:
        params: Tree of arrays.
        shards: Tree of their `NamedSharding`s.
        whole: Tree of the `NamedSharding`s to gather them to.
        dtype: Dtype of the gathered arrays.
    """

    def gathered(x: Array, shard: NamedSharding, target: NamedSharding) -> Array:
        return x if shard.spec == target.spec else _gather(x, shard, target, dtype)

    return jax.tree.map(gathered, params, shards, whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(x: Array, shard: NamedSharding, target: NamedSharding, dtype: Any) -> Array:
    cast = jax.lax.with_sharding_constraint(x.astype(dtype), shard)
    return jax.lax.with_sharding_constraint(cast, target)


def _forward(x: Array, shard: NamedSharding, target: NamedSharding, dtype: Any) -> tuple[Array, Array]:
    return _gather(x, shard, target, dtype), x[:0].astype(x.dtype)


def _backward(shard: NamedSharding, target: NamedSharding, dtype: Any, example: Array, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, shard).astype(example.dtype),)


_gather.defvjp(_forward, _backward)
