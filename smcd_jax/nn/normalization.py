"""Statistics of GroupNorm and LayerNorm in float32, in forms that suit CPUs, TPUs and GPUs."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Reduction = Literal["sum", "recomputed", "moments"]
STATISTICS = "norm_statistics"  # name of mean and 1 / deviation, for `jax.checkpoint_policies.save_only_these_names`
_PARTS = {True: 64, False: 8}  # parts of a clip or frame whose pixels GPUs sum in parallel for a gradient


def layer_normalised(x: Float[Array, "*axes c"], epsilon: float) -> Float[Array, "*axes c"]:
    """Returns (x - mean) / sqrt(variance + epsilon) over the last axis, for float32 input."""
    plain = {"epsilon": epsilon, "use_scale": False, "use_bias": False, "use_fast_variance": False}
    return nn.LayerNorm(**plain, parent=None).apply({}, x)


def group_normalised(
    x: Float[Array, "b *axes c"],
    groups: int,
    epsilon: float,
    reduction: Reduction = "sum",
    *,
    scale: Float[Array, " c"] | None = None,
    bias: Float[Array, " c"] | None = None,
    silu: bool = False,
) -> Float[Array, "b ..."]:
    """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias in float32, normalised by group.

    Mean and variance are taken over all axes except the first and the group. The gradient is explicit: it keeps one
    array of the size of x instead of three. Except with "sum", mean and 1 / deviation are named `STATISTICS`, so that a
    rematerialized block can store them.

    Args:
        x: Array of any floating dtype.
        groups: Number of groups, a divisor of c.
        epsilon: Constant added to the variance.
        reduction: How statistics and gradient are computed. "sum" takes the mean first and then the variance; so does
            "recomputed", whose gradient normalises x again instead of reading results in float32, which TPUs would have
            to store; "moments" reads x once, which takes fewer kernels on GPUs.
        scale: Factor of each channel, float32; None for 1.
        bias: Term of each channel, float32; None for 0.
        silu: Whether the result passes through SiLU.

    Returns:
        An array of the shape of x; with "moments" of shape ``[b, pixels, groups, c / groups]``, because XLA fuses
        operations that follow in this shape into the last kernel.
    """
    scale = jnp.ones(x.shape[-1], jnp.float32) if scale is None else scale
    bias = jnp.zeros(x.shape[-1], jnp.float32) if bias is None else bias
    if reduction == "moments":
        out = _by_moments(x, scale, bias, groups, epsilon)
        return nn.silu(out) if silu else out
    if reduction == "recomputed":
        return _recomputed(x, scale, bias, groups, epsilon, silu)
    out = _by_centring(x, groups, epsilon) * scale + bias
    return nn.silu(out) if silu else out


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _by_centring(x: Array, groups: int, epsilon: float) -> Array:
    return _centred(x, groups, epsilon)[0]


def _centred(x: Array, groups: int, epsilon: float) -> tuple[Array, Any]:
    pixels = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    group_mean = functools.partial(_group_mean, groups=groups)
    centred = pixels - group_mean(pixels)
    inverse = jax.lax.rsqrt(group_mean(jnp.square(centred)) + epsilon)
    normalised = (centred * inverse).reshape(x.shape)
    # only the dtype of x is needed
    return normalised, (jnp.zeros((), x.dtype), normalised, inverse)


def _centred_gradient(groups: int, epsilon: float, kept: tuple[Array, Array, Array], gradient: Array) -> tuple[Array]:
    x, normalised, inverse = kept
    given, normalised = (v.reshape(gradient.shape[0], -1, inverse.shape[-1]) for v in (gradient, normalised))
    mean = functools.partial(_group_mean, groups=groups)
    out = inverse * (given - mean(given) - normalised * mean(given * normalised))
    return (out.reshape(gradient.shape).astype(x.dtype),)


_by_centring.defvjp(_centred, _centred_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _recomputed(x: Array, scale: Array, bias: Array, groups: int, epsilon: float, silu: bool) -> Array:
    return _with_statistics(x, scale, bias, groups, epsilon, silu)[0]


def _with_statistics(
    x: Float[Array, "b *axes c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float,
    silu: bool,
) -> tuple[Float[Array, "b *axes c"], tuple[Array, ...]]:
    """Returns the output, and what the gradient needs: x itself, scale and bias, and the statistics."""
    pixels = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    mean = _group_mean(pixels, groups=groups)
    centred = pixels - mean
    inverse = jax.lax.rsqrt(_group_mean(jnp.square(centred), groups=groups) + epsilon)
    mean, inverse = (checkpoint_name(v, STATISTICS) for v in (mean, inverse))
    out = (pixels - mean) * inverse * scale + bias
    return (nn.silu(out) if silu else out).reshape(x.shape), (x, scale, bias, mean, inverse)


def _recomputed_gradient(
    groups: int, epsilon: float, silu: bool, kept: tuple[Array, ...], gradient: Float[Array, "b *axes c"]
) -> tuple[Array, Array, Array]:
    # The barrier makes XLA compute the normalised values again instead of storing them, and the sigmoid, in float32.
    x, scale, bias, mean, inverse = jax.lax.optimization_barrier(kept)
    given = gradient.reshape(x.shape[0], -1, x.shape[-1])
    normalised = (x.astype(jnp.float32).reshape(given.shape) - mean) * inverse
    if silu:
        out = normalised * scale + bias
        sigmoid = jax.nn.sigmoid(out)
        given = given * sigmoid * (1 + out * (1 - sigmoid))
    of_bias, of_scale = given.sum(axis=(0, 1)), (given * normalised).sum(axis=(0, 1))
    given = given * scale
    group_mean = functools.partial(_group_mean, groups=groups)
    out = inverse * (given - group_mean(given) - normalised * group_mean(given * normalised))
    return out.reshape(x.shape).astype(x.dtype), of_scale, of_bias


_recomputed.defvjp(_with_statistics, _recomputed_gradient)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _by_moments(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    return _with_moments(x, scale, bias, groups, epsilon)[0]


def _with_moments(
    x: Float[Array, "b *axes c"], scale: Float[Array, " c"], bias: Float[Array, " c"], groups: int, epsilon: float
) -> tuple[Float[Array, "b p g d"], tuple[Array, ...]]:
    """Returns the output, and what the gradient needs, from sums and sums of squares in one pass over x.

    The variance loses precision if the mean is many deviations from zero: its relative error is 2^-24 (mean /
    deviation)^2. Rounding inputs to bfloat16 already causes an error of 2^-18 (mean / deviation)^2, so this is for
    bfloat16 only.
    """
    frames = x.shape[1] if x.ndim == 5 else 1
    by_frame = x.astype(jnp.float32).reshape(x.shape[0], frames, -1, x.shape[-1])
    pixels = by_frame.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    means, squares = (
        v.mean(axis=2).reshape(x.shape[0], frames, *pixels.shape[2:]) for v in (by_frame, jnp.square(by_frame))
    )
    count = by_frame.shape[2]
    if count <= 64 <= frames * count:
        # At these sizes, XLA fuses statistics in this form, that of a softmax, into the kernel that normalises.
        center = means.mean(axis=1)
        spread = (squares - jnp.square(means) + jnp.square(means - center[:, None])).mean(axis=1)
        offset = center - center.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt((spread + jnp.square(offset)).mean(axis=-1, keepdims=True) + epsilon)
        normalised = (pixels - center[:, None] + offset[:, None]) * inverse[:, None]
        mean = center[..., :1] - offset[..., :1]
    else:
        # Two sums, which XLA fuses with the next two lines; it would not fuse the joint sum of `_group_sums`.
        mean, square = (v.mean(axis=(1, 3))[..., None] for v in (means, squares))
        inverse = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)
        mean, inverse = (checkpoint_name(v, STATISTICS) for v in (mean, inverse))
        normalised = (pixels - mean[:, None]) * inverse[:, None]
    out = normalised * scale.reshape(groups, -1) + bias.reshape(groups, -1)
    return out, (x, scale, mean, inverse)


def _moments_gradient(
    groups: int, epsilon: float, kept: tuple[Array, ...], gradient: Float[Array, "b p g d"]
) -> tuple[Array, Array, Array]:
    x, scale, mean, inverse = kept
    b, c = x.shape[0], x.shape[-1]
    # In this flat form, XLA computes gradient and pixels again for their second use and does not store them.
    flat = lambda v: jnp.broadcast_to(v, (b, groups, c // groups)).reshape(b, 1, c)  # noqa: E731
    inverse, scale = flat(inverse), scale.reshape(1, 1, c)
    normalised = (x.astype(jnp.float32).reshape(b, -1, c) - flat(mean)) * inverse
    given = gradient.reshape(b, -1, c)
    parts = math.gcd(given.shape[1], _PARTS[x.ndim == 5])
    by_part = lambda v: v.reshape(b, parts, -1, groups, c // groups).sum(axis=2)  # noqa: E731
    # Without the barrier, XLA sums all pixels again for the gradients of scale and bias.
    sums = jax.lax.optimization_barrier((by_part(given), by_part(given * normalised)))
    first, second = map(flat, _group_sums(*(v * scale.reshape(groups, -1) for v in sums)))
    out = inverse * (given * scale - (first + normalised * second) / (given.shape[1] * (c // groups)))
    of_bias, of_scale = (v.sum(axis=(0, 1)).reshape(c) for v in sums)
    return out.reshape(x.shape).astype(x.dtype), of_scale, of_bias


_by_moments.defvjp(_with_moments, _moments_gradient)


def _group_sums(
    a: Float[Array, "b parts g d"], b: Float[Array, "b parts g d"]
) -> tuple[Float[Array, "b g 1"], Float[Array, "b g 1"]]:
    """Returns the sums of two arrays over the parts and channels of each group, in one kernel on GPUs."""
    zero = jnp.zeros((), jnp.float32)
    first, second = jax.lax.reduce((a, b), (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), (1, 3))
    return first[..., None], second[..., None]


def _group_mean(x: Float[Array, "b p c"], *, groups: int) -> Float[Array, "b 1 c"]:
    b, p, c = x.shape
    by_channel = x.sum(axis=1, keepdims=True)
    by_group = by_channel.reshape(b, 1, groups, c // groups).sum(axis=-1, keepdims=True) / (p * (c // groups))
    return jnp.broadcast_to(by_group, (b, 1, groups, c // groups)).reshape(b, 1, c)
