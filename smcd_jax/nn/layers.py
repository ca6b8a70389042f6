"""Layers of all networks: compute policy, norms, convolutions, feed-forward block and time embedding."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from smcd_jax.errors import SMCDError
from smcd_jax.nn.attention import Implementation
from smcd_jax.runtime.devices import require_devices

Reduction = Literal["sum", "dot", "moments"]


@dataclasses.dataclass(frozen=True)
class ComputePolicy:
    """Dtypes and kernels of every layer. Norm statistics and softmax are always float32."""

    params: Any = jnp.float32
    compute: Any = jnp.float32
    precision: str | None = "highest"  # of matrix products: on GPUs and TPUs anything less rounds float32 inputs
    attention: Implementation = "xla"
    reduction: Reduction = "sum"  # of norm statistics, see `group_normalised`
    groups: int = 32  # of every GroupNorm; set by `networks.network` from the component's config
    remat: bool = False  # recompute the activations of each UNet block for the gradient

    @classmethod
    def for_device(cls, dtype: str | None = None, platform: str | None = None) -> ComputePolicy:
        """bfloat16 on accelerators and float32 on CPU, or the given dtype.

        Raises:
            SMCDError: ``dtype`` is neither "float32" nor "bfloat16", or JAX finds no device.
        """
        if platform is None:
            require_devices()
            platform = jax.default_backend()
        if dtype not in (None, "", "float32", "bfloat16"):
            raise SMCDError(f"dtype must be float32 or bfloat16, got {dtype!r}", argument="dtype", value=dtype)
        chosen = jnp.dtype(dtype or ("float32" if platform == "cpu" else "bfloat16"))
        return cls(
            params=chosen,
            compute=chosen,
            precision="highest" if chosen == jnp.float32 else None,
            attention={"gpu": "cudnn", "cuda": "cudnn", "cpu": "mapped"}.get(platform, "xla"),
            reduction=_reduction(platform, chosen),
        )


def _reduction(platform: str, dtype: Any) -> Reduction:
    if platform == "cpu":
        return "dot"
    return "moments" if platform in ("gpu", "cuda") and dtype == jnp.bfloat16 else "sum"


def dense(
    features: int, policy: ComputePolicy, *, use_bias: bool = True, zero: bool = False, name: str | None = None
) -> nn.Dense:
    """A linear layer; ``zero`` starts it at zero."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=policy.compute,
        param_dtype=policy.params,
        precision=policy.precision,
        kernel_init=nn.initializers.zeros if zero else nn.linear.default_kernel_init,
        name=name,
    )


class Linear(nn.Module):
    """A linear layer like `dense`, whose bias a caller may replace.

    Attributes:
        inputs: Width of the input.
        features: Width of the output.
        policy: Dtypes and precision.
    """

    inputs: int
    features: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Kernel and bias, named and initialised as in `flax.linen.Dense`."""
        shape = (self.inputs, self.features)
        self.kernel = self.param("kernel", nn.linear.default_kernel_init, shape, self.policy.params)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,), self.policy.params)

    def scaled_bias(self, scale: Float[Array, ""]) -> Float[Array, " d"]:
        """The bias times a scalar, in the dtype of the computation."""
        return (scale * self.bias.astype(jnp.float32)).astype(self.policy.compute)

    def __call__(self, x: Float[Array, "... e"], bias: Float[Array, " d"] | None = None) -> Float[Array, "... d"]:
        """The product of x and the kernel, plus ``bias`` or else the layer's own."""
        dtype = self.policy.compute
        out = jnp.matmul(x.astype(dtype), self.kernel.astype(dtype), precision=self.policy.precision)
        return out + (self.bias if bias is None else bias).astype(dtype)


def conv(
    features: int,
    policy: ComputePolicy,
    *,
    kernel: int = 3,
    stride: int = 1,
    padding: Any = None,
    use_bias: bool = True,
    zero: bool = False,
    name: str | None = None,
) -> nn.Conv:
    """A square 2D convolution on [..., h, w, c], padded by kernel // 2 on every side by default."""
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=(stride, stride),
        padding=((kernel // 2, kernel // 2),) * 2 if padding is None else padding,
        use_bias=use_bias,
        dtype=policy.compute,
        param_dtype=policy.params,
        precision=policy.precision,
        kernel_init=nn.initializers.zeros if zero else nn.linear.default_kernel_init,
        name=name,
    )


def _layer_normalised(x: Array, epsilon: float) -> Array:
    plain = {"epsilon": epsilon, "use_scale": False, "use_bias": False, "use_fast_variance": False}
    return nn.LayerNorm(**plain, parent=None).apply({}, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def group_normalised(
    x: Float[Array, "b *axes c"], groups: int, epsilon: float, reduction: Reduction = "sum"
) -> Float[Array, "b ..."]:
    """(x - mean) / sqrt(variance + epsilon) in float32, with statistics over all axes but the first and the group.

    The gradient is explicit: it keeps one array of the size of x instead of three.

    Args:
        x: Array of any floating dtype.
        groups: Number of groups, a divisor of c.
        epsilon: Constant added to the variance.
        reduction: How the statistics are computed. "sum" takes the mean first and then the variance, "dot" does the
            same with sums by matrix products, which XLA computes 4 times as fast on CPUs in the gradient, and "moments"
            reads x once, which takes fewer kernels on GPUs.

    Returns:
        An array of the shape of x; with "moments" of shape ``[b, pixels, groups, c / groups]``, because XLA joins what
        follows in this shape with the last kernel.
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
    # of x only the dtype is needed
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
    """Mean, 1 / deviation and normalised pixels by group, from sums and sums of squares in one pass over x.

    The variance loses digits where the mean is many deviations from zero: a relative 2^-24 (mean / deviation)^2. The
    rounding of bfloat16 inputs costs 2^-18 (mean / deviation)^2 of it already, so this is for bfloat16 only.
    """
    b, c = x.shape[0], x.shape[-1]
    frames = x.shape[1] if x.ndim == 5 else 1
    by_frame = x.astype(jnp.float32).reshape(b, frames, -1, c)
    pixels = by_frame.reshape(b, -1, groups, c // groups)
    means, squares = (v.mean(axis=2).reshape(b, frames, groups, -1) for v in (by_frame, jnp.square(by_frame)))
    count = by_frame.shape[2]
    if count <= 64 <= frames * count:
        # XLA puts this form of the statistics, that of a softmax, into the kernel that normalises, at these sizes.
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


class Norm(nn.Module):
    """GroupNorm or LayerNorm, computed and returned in float32 for every dtype of input and weights.

    Attributes:
        policy: Compute policy, for the dtype of the weights.
        epsilon: Constant added to the variance.
        groups: Number of groups of channels, with statistics over all axes but the first; 0 normalises each token over
            its channels.
        silu: Whether the result passes through SiLU.
    """

    policy: ComputePolicy
    epsilon: float
    groups: int = 0
    silu: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b *axes c"]) -> Float[Array, "b *axes c"]:
        """The normalised array, of the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.policy.params).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.policy.params).astype(jnp.float32)
        if self.groups:
            normalised = group_normalised(x, self.groups, self.epsilon, self.policy.reduction)
            if self.policy.reduction == "moments":
                scale, bias = (vector.reshape(self.groups, -1) for vector in (scale, bias))
        else:
            normalised = _layer_normalised(x.astype(jnp.float32), self.epsilon)
        out = normalised * scale + bias
        return (nn.silu(out) if self.silu else out).reshape(x.shape)


def group_norm(policy: ComputePolicy, *, epsilon: float, silu: bool = False, name: str | None = None) -> Norm:
    """GroupNorm over every axis but the first and the group, followed by SiLU with ``silu``."""
    return Norm(policy, epsilon, policy.groups, silu, name=name)


def layer_norm(policy: ComputePolicy, *, name: str | None = None) -> Norm:
    """LayerNorm over channels."""
    return Norm(policy, 1e-5, name=name)


class Dropout(nn.Module):
    """Dropout whose mask is a hash of the index, so that it is computed where it is used and is never stored.

    The mask depends on the seed, the path of the module and the index in the whole array, and not on devices or mesh.

    Attributes:
        rate: Share of the elements that become zero, 0..1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, seed: UInt32[Array, " 2"] | None) -> Array:
        """The array with elements dropped and the rest divided by 1 - rate; as it is if ``seed`` is None."""
        if seed is None or self.rate == 0:
            return x
        layer = np.uint32(zlib.crc32("/".join(self.path).encode()))
        strides = np.cumprod([1, *x.shape[:0:-1]])[::-1]
        index = jnp.zeros((), jnp.uint32)
        for axis, stride in enumerate(strides):
            index = index + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * np.uint32(stride % 2**32)
        hashed = _mixed(_mixed(index ^ _mixed(seed[0] ^ layer)) + seed[1])
        keep = hashed >= np.uint32(self.rate * 2**32)
        return jnp.where(keep, x * jnp.asarray(1 / (1 - self.rate), x.dtype), jnp.zeros((), x.dtype))


def _mixed(bits: UInt32[Array, ...]) -> UInt32[Array, ...]:
    """The finalizer of MurmurHash3: every bit of the input changes half of the bits of the output."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return bits ^ (bits >> np.uint32(16))


def dropout_seed(key: PRNGKeyArray | None) -> UInt32[Array, " 2"] | None:
    """The seed of `Dropout` for all layers of a network, from the random key of the step; None stays None."""
    return None if key is None else jax.random.bits(key, (2,), jnp.uint32)


def gelu(x: Array) -> Array:
    """The exact (erf) form, as PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)


class TemporalConv(nn.Module):
    """A convolution of width 3 along frames only: PyTorch's Conv3d of kernel (3, 1, 1), padding (1, 0, 0)."""

    features: int
    policy: ComputePolicy
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b f p c"]) -> Float[Array, "b f p d"]:
        """Mixes each frame with its two neighbours; height and width are one axis of pixels."""
        return nn.Conv(
            self.features,
            (3, 1),
            padding=((1, 1), (0, 0)),
            dtype=self.policy.compute,
            param_dtype=self.policy.params,
            precision=self.policy.precision,
            kernel_init=nn.initializers.zeros if self.zero else nn.linear.default_kernel_init,
            name="conv",
        )(x)


class FeedForward(nn.Module):
    """GEGLU: Linear d -> 8d split into value and gate, value * gelu(gate), Linear 4d -> d (Shazeer 2020)."""

    width: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Two linear layers."""
        self.dense_in = dense(8 * self.width, self.policy)
        self.dense_out = Linear(4 * self.width, self.width, self.policy)

    def __call__(
        self,
        x: Float[Array, "... d"],
        *,
        scale: Float[Array, ""] | None = None,
        bias: Float[Array, " d"] | None = None,
    ) -> Float[Array, "... d"]:
        """The output for each token alone.

        Args:
            x: Tokens.
            scale: Factor of the hidden layer; None for 1.
            bias: Bias of the last layer, in place of its own.
        """
        value, gate = jnp.split(self.dense_in(x), 2, axis=-1)
        hidden = value * gelu(gate)
        if scale is not None:
            hidden = (hidden.astype(jnp.float32) * scale).astype(hidden.dtype)
        return self.dense_out(hidden, bias)


def sinusoid(timesteps: Float[Array, " b"], width: int) -> Float[Array, "b width"]:
    """Cosines, then sines, of frequencies 10000^(-i / half); an odd width ends in a zero column."""
    half = width // 2
    frequencies = np.power(10000.0, -np.arange(half) / half).astype(np.float32)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    pad = jnp.zeros((timesteps.shape[0], width % 2), jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles), pad], axis=-1)


class TimeEmbedding(nn.Module):
    """Sinusoid of ``width``, Linear width -> 4 width, SiLU, Linear: for diffusion time and frames per second."""

    width: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, timesteps: Float[Array, " b"]) -> Float[Array, "b d"]:
        """One vector per example."""
        hidden = dense(4 * self.width, self.policy, name="dense_in")(sinusoid(timesteps, self.width))
        return dense(4 * self.width, self.policy, name="dense_out")(nn.silu(hidden))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2, padded by 1 on every side."""

    features: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Halves height and width, rounding up."""
        return conv(self.features, self.policy, stride=2, name="conv")(x)


class Upsample(nn.Module):
    """Nearest neighbour x2, then a 3x3 convolution."""

    features: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Doubles height and width."""
        return conv(self.features, self.policy, name="conv")(x.repeat(2, axis=1).repeat(2, axis=2))


def on_frames(layer: Callable[[Array], Array], video: Float[Array, "b f h w c"]) -> Float[Array, "b f hh ww d"]:
    """Applies a layer for pictures to every frame: frames fold into the batch and out again."""
    frames = layer(video.reshape(-1, *video.shape[2:]))
    return frames.reshape(*video.shape[:2], *frames.shape[1:])
