"""Statistics of GroupNorm and LayerNorm in float32, in forms that suit CPUs, TPUs and GPUs."""

from __future__ import annotations

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Reduction = Literal["sum", "dot", "moments"]


def layer_normalised(x: Float[Array, "*axes c"], epsilon: float) -> Float[Array, "*axes c"]:
    """Returns (x - mean) / sqrt(variance + epsilon) over the last axis, for float32 input."""
    plain = {"epsilon": epsilon, "use_scale": False, "use_bias": False, "use_fast_variance": False}
    return nn.LayerNorm(**plain, parent=None).apply({}, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def group_normalised(
    x: Float[Array, "b *axes c"], groups: int, epsilon: float, reduction: Reduction = "sum"
) -> Float[Array, "b ..."]:
    """Returns (x - mean) / sqrt(variance + epsilon) in float32, normalised by group.

    Mean and variance are taken over all axes except the first and the group. The gradient is explicit: it keeps one
    array of the size of x instead of three.

    Args:
        x: Array of any floating dtype.
        groups: Number of groups, a divisor of c.
        epsilon: Constant added to the variance.
        reduction: How the statistics are computed. "sum" takes the mean first and then the variance; "dot" does the
            same but sums with matrix products, whose gradient is 4 times as fast on CPUs; "moments" reads x once, which
            takes fewer kernels on GPUs.

    Returns:
        An array of the shape of x; with "moments" of shape ``[b, pixels, groups, c / groups]``, because XLA fuses
        operations that follow in this shape into the last kernel.
    """
    return _group_normalised(x, groups, epsilon, reduction)[0]


def _group_normalised(x: Array, groups: int, epsilon: float, reduction: Reduction) -> tuple[Array, Any]:
    if reduction == "moments":
        mean, inverse, normalised = _normalised_by_moments(x, groups, epsilon)
        return normalised, (x, mean, inverse)
    pixels = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    group_mean = functools.partial(_group_mean, groups=groups, reduction=reduction)
    centred = pixels - group_mean(pixels)
    inverse = jax.lax.rsqrt(group_mean(jnp.square(centred)) + epsilon)
    normalised = (centred * inverse).reshape(x.shape)
    # only the dtype of x is needed
    return normalised, (jnp.zeros((), x.dtype), normalised, inverse)


def _group_gradient(
    groups: int, epsilon: float, reduction: Reduction, kept: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array]:
    x, other, inverse = kept
    given = gradient.reshape(gradient.shape[0], -1, inverse.shape[-1])
    if reduction == "moments":
        normalised = (x.astype(jnp.float32).reshape(given.shape) - other) * inverse
    else:
        normalised = other.reshape(given.shape)
    mean = functools.partial(_group_mean, groups=groups, reduction=reduction)
    out = inverse * (given - mean(given) - normalised * mean(given * normalised))
    return (out.reshape(x.shape if reduction == "moments" else gradient.shape).astype(x.dtype),)


group_normalised.defvjp(_group_normalised, _group_gradient)


def _normalised_by_moments(
    x: Float[Array, "b *axes c"], groups: int, epsilon: float
) -> tuple[Float[Array, "b 1 c"], Float[Array, "b 1 c"], Float[Array, "b p g d"]]:
    """Returns mean, 1 / deviation and normalised pixels by group, from sums and sums of squares in one pass over x.

    The variance loses precision if the mean is many deviations from zero: its relative error is 2^-24 (mean /
    deviation)^2. Rounding inputs to bfloat16 already causes an error of 2^-18 (mean / deviation)^2, so this is for
    bfloat16 only.
    """
    b, c = x.shape[0], x.shape[-1]
    frames = x.shape[1] if x.ndim == 5 else 1
    by_frame = x.astype(jnp.float32).reshape(b, frames, -1, c)
    pixels = by_frame.reshape(b, -1, groups, c // groups)
    means, squares = (v.mean(axis=2).reshape(b, frames, groups, -1) for v in (by_frame, jnp.square(by_frame)))
    count = by_frame.shape[2]
    if count <= 64 <= frames * count:
        # At these sizes, XLA fuses statistics in this form, that of a softmax, into the kernel that normalises.
        center = means.mean(axis=1)
        spread = (squares - jnp.square(means) + jnp.square(means - center[:, None])).mean(axis=1)
        offset = center - center.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt((spread + jnp.square(offset)).mean(axis=-1, keepdims=True) + epsilon)
        normalised = (pixels - center[:, None] + offset[:, None]) * inverse[:, None]
        mean = center - offset
    else:
        mean, square = (v.mean(axis=(1, 3))[..., None] for v in (means, squares))
        inverse = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)
        normalised = (pixels - mean[:, None]) * inverse[:, None]
    by_channel = lambda v: jnp.broadcast_to(v, (b, groups, c // groups)).reshape(b, 1, c)  # noqa: E731
    return by_channel(mean), by_channel(inverse), normalised


def _group_mean(x: Float[Array, "b p c"], *, groups: int, reduction: Reduction) -> Float[Array, "b 1 c"]:
    b, p, c = x.shape
    if reduction == "dot":
        by_channel = jnp.einsum("op,bpc->boc", jnp.ones((1, p), x.dtype), x, precision="highest")
    else:
        by_channel = x.sum(axis=1, keepdims=True)
    by_group = by_channel.reshape(b, 1, groups, c // groups).sum(axis=-1, keepdims=True) / (p * (c // groups))
    return jnp.broadcast_to(by_group, (b, 1, groups, c // groups)).reshape(b, 1, c)
