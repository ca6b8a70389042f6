"""Parameters cast and gathered once per step, and their gradients scattered once (as in ZeRO-2)."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import NamedSharding
from jaxtyping import Array


def gather(params: Any, *, shards: Any, whole: Any, dtype: Any) -> Any:
    """Returns parameters gathered to other shardings; the gradient has the shardings of the parameters.

    Vectors and scalars whose two shardings are equal stay as they are. The others are cast to ``dtype`` before they are
    gathered, and gradients are scattered in this dtype.

    Args:
        params: Tree of arrays.
        shards: Tree of their `NamedSharding`s.
        whole: Tree of the `NamedSharding`s to gather them to.
        dtype: Dtype of the gathered arrays.
    """

    def gathered(x: Array, shard: NamedSharding, target: NamedSharding) -> Array:
        return x if x.ndim < 2 and shard.spec == target.spec else _gather(x, shard, target, dtype)

    return jax.tree.map(gathered, params, shards, whole)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(x: Array, shard: NamedSharding, target: NamedSharding, dtype: Any) -> Array:
    cast = jax.lax.with_sharding_constraint(x.astype(dtype), shard)
    return jax.lax.with_sharding_constraint(cast, target)


def _forward(x: Array, shard: NamedSharding, target: NamedSharding, dtype: Any) -> tuple[Array, Array]:
    return _gather(x, shard, target, dtype), x[:0].astype(x.dtype)


def _backward(shard: NamedSharding, target: NamedSharding, dtype: Any, example: Array, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(_row_major(gradient), shard).astype(example.dtype),)


def _row_major(gradient: Array) -> Array:
    """Returns the gradient in the layout of its parameter on GPUs.

    cuDNN returns gradients of convolutions in another layout. Without the constraint, the compiler brings the parameter
    and its moments to that layout for the update, and back.
    """
    if gradient.ndim < 3:
        return gradient
    layout = Layout(major_to_minor=tuple(range(gradient.ndim)))
    return jax.lax.platform_dependent(gradient, cuda=lambda x: with_layout_constraint(x, layout), default=lambda x: x)


_gather.defvjp(_forward, _backward)
