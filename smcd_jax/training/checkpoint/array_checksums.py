"""Checksums of sharded arrays, computed on their devices: equal for equal bits on any mesh and number of processes.

Every element's bits are mixed with its index in the whole array by a bijection of 32-bit words (the finaliser of
MurmurHash3), and the results are summed modulo 2^32 in two lanes. A change within one element always changes both
sums; any other change is missed with a probability of about 2^-64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped, UInt32

LANE_SEEDS = (0x9E3779B9, 0x7F4A7C15)
# Unsigned type per element size; an element of 8 bytes is two words, in an extra axis.
_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}


def array_checksums(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """Returns a checksum of 16 hexadecimal digits per array, the same on all processes, which must all call this.

    Each device sums its own shards without a collective: on fake CPU devices, hundreds of small programs that wait for
    each other would exhaust the threads. A program is compiled once per shape, dtype and sharding; a single program for
    all arrays would take longer to compile than all of these together.

    Args:
        arrays: Arrays by name, each on one device or with a `NamedSharding`.
    """
    sums = [_program(array.sharding)(array) for array in arrays.values()]
    for partial in sums:
        partial.copy_to_host_async()
    pairs = zip(arrays.values(), sums, strict=True)
    lanes = np.stack([_sum_of_shards(array, partial) for array, partial in pairs]) if sums else np.zeros((0, 2))
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import process_allgather

        lanes = np.asarray(process_allgather(lanes)).sum(axis=0, dtype=np.uint32)
    return {name: f"{first:08x}{second:08x}" for name, (first, second) in zip(arrays, lanes.tolist(), strict=True)}


def _sum_of_shards(array: jax.Array, partial: jax.Array) -> np.ndarray:
    """Sums the local part of the sums per device, uint32 ``[devices, 2]``, with each shard counted once."""
    counted = {shard.device for shard in array.addressable_shards if shard.replica_id == 0}
    sums = [np.asarray(shard.data) for shard in partial.addressable_shards if shard.device in counted]
    return np.concatenate([*sums, np.zeros((1, 2), np.uint32)]).sum(axis=0, dtype=np.uint32)


@functools.cache
def _program(sharding: jax.sharding.Sharding) -> Callable[[jax.Array], jax.Array]:
    """Returns the program that computes the sums per device, uint32 ``[devices, 2]``, for a sharding."""
    if not isinstance(sharding, NamedSharding):
        if len(sharding.device_set) > 1:
            raise TypeError(f"arrays must be on one device or have a NamedSharding, got {sharding}")
        return jax.jit(lambda array: _lanes(array, jnp.zeros(array.ndim, jnp.uint32), array.shape)[None])
    mesh, spec = sharding.mesh, sharding.spec

    def local_sums(shard: Shaped[Array, "*shape"]) -> UInt32[Array, "device lanes"]:
        axes = [*spec, *[None] * (shard.ndim - len(spec))]
        counts = [_size(mesh, axis) for axis in axes]
        starts = [
            jnp.uint32(0) if not axis else jax.lax.axis_index(axis).astype(jnp.uint32) * jnp.uint32(size)
            for axis, size in zip(axes, shard.shape, strict=True)
        ]
        whole = tuple(size * count for size, count in zip(shard.shape, counts, strict=True))
        return _lanes(shard, starts, whole)[None]

    per_device = PartitionSpec(mesh.axis_names)
    return jax.jit(jax.shard_map(local_sums, mesh=mesh, in_specs=spec, out_specs=per_device, check_vma=False))


def _size(mesh: Mesh, axis: str | tuple[str, ...] | None) -> int:
    names = () if axis is None else (axis,) if isinstance(axis, str) else axis
    return math.prod(mesh.shape[name] for name in names)


def _lanes(shard: Shaped[Array, "*shape"], starts: list | Array, whole: tuple[int, ...]) -> UInt32[Array, " lanes"]:
    """Returns the two sums over a shard that starts at index ``starts`` of an array of shape ``whole``."""
    words = _bits(shard)
    index = jnp.zeros(words.shape, jnp.uint32)
    strides = [math.prod(whole[axis + 1 :]) * (2 if words.ndim > shard.ndim else 1) for axis in range(shard.ndim)]
    for axis, stride in enumerate(strides):
        position = starts[axis] + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index += position * jnp.uint32(stride % 2**32)
    if words.ndim > shard.ndim:
        index += jax.lax.broadcasted_iota(jnp.uint32, words.shape, shard.ndim)
    mixed = [_mix(words ^ _mix(index ^ jnp.uint32(seed))) for seed in LANE_SEEDS]
    return jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in mixed])


def _bits(array: Shaped[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    words = jax.lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize])
    return words.astype(jnp.uint32)


def _mix(word: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Applies a bijection of 32-bit words in which every output bit depends on every input bit."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)
