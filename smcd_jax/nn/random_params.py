"""Random parameters made on the device, for benchmarks: full size in seconds, and nothing is sent from the host."""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import Params, abstract_params, flatten, unflatten


def random_params(config: Any, policy: ComputePolicy) -> Params:
    """Returns parameters of a component with values that keep activations near unit variance.

    Kernels are uniform with variance 1 / fan-in, scales lie in 0.9..1.1, biases in -0.1..0.1 and gates in 0.3..0.9, so
    that a full sampling loop stays finite: arithmetic on zeros, infinities or NaN takes less power and less time.

    Args:
        config: Config of the component, such as `UNetConfig`.
        policy: Dtypes; the parameters have ``policy.params``.
    """
    return random_of(abstract_params(config, policy))


def random_of(shapes: Params) -> Params:
    """Returns parameters with the shapes, dtypes and, if given, shardings of `ShapeDtypeStruct`, as `random_params`."""
    made = {path: (_leaf(path, shape), shape.sharding) for path, shape in flatten(shapes).items()}
    return unflatten({path: leaf if to is None else jax.device_put(leaf, to) for path, (leaf, to) in made.items()})


def random_like(tree: Any) -> Any:
    """Returns arrays of unit variance with the shapes and dtypes of a tree of `ShapeDtypeStruct`; booleans are True."""
    leaves, structure = jax.tree.flatten(tree)
    made = [
        jnp.ones(leaf.shape, bool)
        if leaf.dtype == bool
        else uniform(np.uint32(index), 0.0, math.sqrt(3), shape=leaf.shape, dtype=leaf.dtype)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, made)


def _leaf(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    name, shape = path.rsplit("/", 1)[-1], leaf.shape
    if name == "scale":
        centre, radius = 1.0, 0.1
    elif not shape:  # a gate
        centre, radius = 0.6, 0.3
    elif len(shape) == 1:
        centre, radius = 0.0, 0.1
    else:
        centre, radius = 0.0, math.sqrt(3 / math.prod(shape[:-1]))
    return uniform(np.uint32(zlib.crc32(path.encode())), centre, radius, shape=shape, dtype=leaf.dtype)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def uniform(seed: Any, centre: Any, radius: Any, *, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Returns centre + radius * u with u uniform in [-1, 1), from a hash of the index (the finalizer of MurmurHash3).

    A hash compiles faster than a random number generator, and one program serves all arrays of a shape.

    Args:
        seed: Seed as `numpy.uint32`.
        centre: Middle of the range.
        radius: Half of the range.
        shape: Shape of the array, of fewer than 2^32 values.
        dtype: Dtype of the array.
    """
    hashed = jax.lax.iota(jnp.uint32, math.prod(shape)) + seed * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashed = (hashed ^ (hashed >> jnp.uint32(shift))) * jnp.uint32(factor)
    hashed = hashed ^ (hashed >> jnp.uint32(16))
    values = (hashed >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-23) - jnp.float32(1)
    scaled = jnp.asarray(centre, jnp.float32) + jnp.asarray(radius, jnp.float32) * values
    return scaled.astype(dtype).reshape(shape)
