"""Scaled dot-product attention behind one function: plain XLA, or a fused kernel where it supports the inputs.

The fused kernels are cuDNN's for GPUs and JAX's FlashAttention for TPUs. They never write the scores to memory.
"""

from __future__ import annotations

import logging
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from smcd_jax.runtime.sharding import BATCH_AXES, WHOLE_AXES

logger = logging.getLogger(__name__)

Implementation = Literal["xla", "cudnn", "cudnn_train", "flash", "mapped"]
CUDNN = ("cudnn", "cudnn_train")  # cuDNN's gradient supports only even numbers of queries and keys
# Scores per head from which they should not be written to memory: 1 MB in float32, half of a CPU's typical L2 cache. A
# TPU's compiler keeps fewer in on-chip memory by itself.
LARGE_SCORES = 2**18
FLASH_KEYS = 256  # keys from which the TPU kernel is used; with fewer, most of a block would be padding
LANES, FLASH_BLOCK = 128, 512  # unit of the TPU kernel's blocks, and their largest number of queries or keys
SMALL_SCORES = 16 * 16  # largest frames x frames for which sums replace matrix products on GPUs


class KeysValues(NamedTuple):
    """Keys and values of one attention layer, computed once if their source is the same at every step."""

    keys: Float[Array, "b l heads width"]
    values: Float[Array, "b l heads width"]

    def scaled(self, factor: Float[Array, ""]) -> KeysValues:
        """Returns the same keys, with the values multiplied by a factor."""
        return KeysValues(self.keys, (self.values.astype(jnp.float32) * factor).astype(self.values.dtype))

    def append(self, other: KeysValues) -> KeysValues:
        """Returns both sets of tokens concatenated, this one first."""
        return KeysValues(*(jnp.concatenate(pair, axis=1) for pair in zip(self, other, strict=True)))


def attend(
    queries: Float[Array, "b q heads width"],
    context: KeysValues,
    *,
    mask: Bool[Array, "#b #q k"] | None = None,
    implementation: Implementation = "xla",
    precision: str | None = None,
) -> Float[Array, "b q heads width"]:
    """Returns softmax(q k^T / sqrt(width)) v, with the softmax in float32.

    The context's leading axis may be a divisor of the queries' leading axis (one text for all frames of a clip). Frames
    are then merged into the query axis, so keys and values are never repeated.

    Args:
        queries: One query per token and head.
        context: Keys and values; leading axis b, or a divisor of it.
        mask: True where a query may attend to a key; every query needs at least one. Axes of length 1 are broadcast.
        implementation: "cudnn" and "flash" use the fused kernel where it supports the inputs, "cudnn_train" only where
            it supports their gradient too; XLA computes the rest. "flash" computes each device's rows and heads there.
        precision: Precision of the two matrix products, as in `jax.lax.Precision`.
    """
    folded = queries.reshape(context.keys.shape[0], -1, *queries.shape[2:])
    even = folded.shape[1] % 2 == 0 and context.keys.shape[1] % 2 == 0
    fits = implementation == "cudnn" or (implementation == "cudnn_train" and even)
    if fits and _cudnn_takes(folded, context.keys):
        heads_mask = None if mask is None else mask[:, None]
        out = jax.nn.dot_product_attention(folded, *context, mask=heads_mask, implementation="cudnn")
    elif implementation == "flash" and mask is None and _flash_takes(folded, context.keys):
        out = _attend_flash(folded, context)
    elif implementation == "mapped" and mask is None and folded.shape[1] * context.keys.shape[1] >= LARGE_SCORES:
        out = _attend_mapped(folded, context, precision=precision)
    else:
        out = _attend_xla(folded, context, mask=mask, precision=precision)
    return out.reshape(queries.shape)


def attend_frames(
    queries: Float[Array, "b f p heads width"],
    context: KeysValues,
    *,
    bias: Float[Array, "#b heads f g"] | None = None,
    implementation: Implementation = "xla",
    precision: str | None = None,
) -> Float[Array, "b f p heads width"]:
    """Returns the attention of each pixel's frames to the frames of the same pixel, with the softmax in float32.

    Args:
        queries: Queries.
        context: Keys and values, ``[b, g, p, heads, width]``.
        bias: Bias added to the attention logits of frames f and g, shared by all pixels, in float32.
        implementation: With "cudnn", small numbers of frames are computed by sums that read queries, keys and values in
            place; matrix products of 8 rows would need a transposed copy of each.
        precision: Precision of the two matrix products, as in `jax.lax.Precision`.
    """
    scale = queries.shape[-1] ** -0.5
    if implementation in CUDNN and queries.shape[1] * context.keys.shape[1] <= SMALL_SCORES:
        wide = lambda x: x.astype(jnp.float32)  # noqa: E731
        # the axis of attended frames comes before the width, so that XLA fuses all of this into one kernel
        keys, values = (wide(part).transpose(0, 2, 3, 1, 4)[:, None] for part in context)
        scores = (wide(queries)[:, :, :, :, None] * scale * keys).sum(-1)
        scores = scores if bias is None else scores + bias.transpose(0, 2, 1, 3)[:, :, None]
        weights = jax.nn.softmax(scores, axis=-1)
        return (weights[..., None] * values).sum(-2).astype(context.values.dtype)
    logits = jnp.einsum(
        "bfphd,bgphd->bphfg",
        queries * jnp.asarray(scale, queries.dtype),
        context.keys,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    logits = logits if bias is None else logits + bias[:, None]
    weights = jax.nn.softmax(logits, axis=-1).astype(context.values.dtype)
    return jnp.einsum("bphfg,bgphd->bfphd", weights, context.values, precision=precision)


def _attend_xla(
    queries: Float[Array, "b q heads width"],
    context: KeysValues,
    *,
    mask: Bool[Array, "#b #q k"] | None,
    precision: str | None,
) -> Float[Array, "b q heads width"]:
    scale = jnp.asarray(queries.shape[-1] ** -0.5, queries.dtype)
    logits = jnp.einsum(
        "bqhd,bkhd->bhqk", queries * scale, context.keys, precision=precision, preferred_element_type=jnp.float32
    )
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(context.values.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, context.values, precision=precision)


def _attend_flash(queries: Float[Array, "b q heads width"], context: KeysValues) -> Float[Array, "b q heads width"]:
    place = PartitionSpec(_axes(BATCH_AXES), None, _axes(WHOLE_AXES))
    if place == PartitionSpec(None, None, None):
        return _flash(queries, *context)
    return jax.shard_map(_flash, in_specs=(place,) * 3, out_specs=place, check_vma=False)(queries, *context)


def _flash(queries: Array, keys: Array, values: Array) -> Array:
    """Returns the attention of one device's rows and heads by JAX's kernel, with the keys padded to whole blocks."""
    from jax.experimental.pallas.ops.tpu.flash_attention import BlockSizes, SegmentIds, flash_attention

    rows, length = keys.shape[:2]
    padding, count = -length % LANES, queries.shape[1]
    heads_first = lambda x: x.transpose(0, 2, 1, 3)  # noqa: E731
    padded = lambda x: jnp.pad(heads_first(x), ((0, 0), (0, 0), (0, padding), (0, 0)))  # noqa: E731
    segments = None
    if padding:  # queries attend to keys of their own segment, 0
        of_keys = (jnp.arange(length + padding) >= length).astype(jnp.int32)
        segments = SegmentIds(jnp.zeros((rows, count), jnp.int32), jnp.tile(of_keys, (rows, 1)))
    q, k = _block(count), _block(length + padding)
    of_queries = ("block_q", "block_q_major_dkv", "block_q_dkv", "block_q_dq")
    of_keys_too = ("block_k_major", "block_k", "block_k_major_dkv", "block_k_dkv", "block_k_major_dq", "block_k_dq")
    sizes = BlockSizes(block_b=1, **dict.fromkeys(of_queries, q), **dict.fromkeys(of_keys_too, k))
    scale = queries.shape[-1] ** -0.5
    out = flash_attention(
        heads_first(queries), padded(keys), padded(values), segment_ids=segments, sm_scale=scale, block_sizes=sizes
    )
    return heads_first(out)


def _block(length: int) -> int:
    """Returns the largest multiple of `LANES` up to `FLASH_BLOCK` that divides a length, itself a multiple."""
    return max(size for size in range(LANES, FLASH_BLOCK + 1, LANES) if length % size == 0)


def _flash_takes(queries: jax.Array, keys: jax.Array) -> bool:
    """Returns whether the TPU kernel takes the inputs: many scores in bfloat16, divided evenly by the current mesh."""
    (rows, length, heads, width), count = keys.shape, queries.shape[1]
    if queries.dtype != jnp.bfloat16 or width > LANES or count % LANES:
        return False
    mesh = jax.sharding.get_abstract_mesh()
    parts = [math.prod(mesh.shape[axis] for axis in _axes(names) or ()) for names in (BATCH_AXES, WHOLE_AXES)]
    divided = rows % parts[0] == heads % parts[1] == 0
    return divided and length >= FLASH_KEYS and count * length >= LARGE_SCORES


def _axes(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Returns those of the axes that the current mesh splits; None for none."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(name for name in names if not mesh.empty and mesh.shape.get(name, 1) > 1) or None


def _attend_mapped(
    queries: Float[Array, "b q heads width"], context: KeysValues, *, precision: str | None
) -> Float[Array, "b q heads width"]:
    batch, length, heads, width = queries.shape
    by_head = lambda x: x.transpose(0, 2, 1, 3).reshape(batch * heads, -1, width)  # noqa: E731
    scale = jnp.asarray(width**-0.5, queries.dtype)

    def one_head(parts: tuple[Array, Array, Array]) -> Array:
        query, key, value = parts
        logits = jnp.matmul(query * scale, key.T, precision=precision, preferred_element_type=jnp.float32)
        scores = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
        mixed = jnp.matmul(scores.astype(value.dtype), value, precision=precision, preferred_element_type=jnp.float32)
        # dividing the few outputs instead of the many scores saves a pass over memory
        return (mixed / scores.sum(axis=-1, keepdims=True)).astype(value.dtype)

    out = jax.lax.map(one_head, (by_head(queries), *map(by_head, context)))
    return out.reshape(batch, heads, length, width).transpose(0, 2, 1, 3)


def _cudnn_takes(queries: jax.Array, keys: jax.Array) -> bool:
    """Returns whether cuDNN's kernel supports the inputs: half precision, and a width up to 128 that 8 divides."""
    width = queries.shape[-1]
    takes = queries.dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128
    if not takes and keys.shape[1] >= 128:
        logger.warning("attention of %s %s is not for cuDNN; XLA computes it", queries.dtype, queries.shape)
    return takes
