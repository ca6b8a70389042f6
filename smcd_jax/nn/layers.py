"""Layers of all networks: compute policy, norms, convolutions, feed-forward block and time embedding."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcd_jax.errors import SMCDError
from smcd_jax.nn.attention import Implementation
from smcd_jax.runtime.devices import require_devices

Reduction = Literal["sum", "dot"]


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
            reduction="dot" if platform == "cpu" else "sum",
        )


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
) -> Float[Array, "b *axes c"]:
    """(x - mean) / sqrt(variance + epsilon) with statistics over all axes but the first and the group, in float32.

    The gradient is explicit: it keeps the result and one number per group instead of three arrays as large as x.

    Args:
        x: Array, float32.
        groups: Number of groups, a divisor of c.
        epsilon: Constant added to the variance.
        reduction: How pixels are summed; "dot" sums by a matrix product, which XLA does 4 times as fast on CPUs in the
            gradient.
    """
    return _group_normalised(x, groups, epsilon, reduction)[0]


def _group_normalised(x: Array, groups: int, epsilon: float, reduction: Reduction) -> tuple[Array, Any]:
    pixels = x.reshape(x.shape[0], -1, x.shape[-1])
    mean = functools.partial(_group_mean, groups=groups, reduction=reduction)
    centred = pixels - mean(pixels)
    inverse = jax.lax.rsqrt(mean(jnp.square(centred)) + epsilon)
    normalised = centred * inverse
    return normalised.reshape(x.shape), (normalised, inverse)


def _group_gradient(
    groups: int, epsilon: float, reduction: Reduction, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    normalised, inverse = kept
    mean = functools.partial(_group_mean, groups=groups, reduction=reduction)
    given = gradient.reshape(normalised.shape)
    out = inverse * (given - mean(given) - normalised * mean(given * normalised))
    return (out.reshape(gradient.shape),)


group_normalised.defvjp(_group_normalised, _group_gradient)


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
    """

    policy: ComputePolicy
    epsilon: float
    groups: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b *axes c"]) -> Float[Array, "b *axes c"]:
        """The normalised array, of the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.policy.params)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.policy.params)
        normalised = self._by_group(x) if self.groups else _layer_normalised(x.astype(jnp.float32), self.epsilon)
        return normalised * scale.astype(jnp.float32) + bias.astype(jnp.float32)

    def _by_group(self, x: Array) -> Array:
        return group_normalised(x.astype(jnp.float32), self.groups, self.epsilon, self.policy.reduction)


def group_norm(policy: ComputePolicy, *, epsilon: float, name: str | None = None) -> Norm:
    """GroupNorm over every axis but the first and the group."""
    return Norm(policy, epsilon, policy.groups, name=name)


def layer_norm(policy: ComputePolicy, *, name: str | None = None) -> Norm:
    """LayerNorm over channels."""
    return Norm(policy, 1e-5, name=name)


def gelu(x: Array) -> Array:
    """The exact (erf) form, as PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)


class TemporalConv(nn.Module):
    """A convolution of width 3 along frames only: PyTorch's Conv3d of kernel (3, 1, 1), padding (1, 0, 0)."""

    features: int
    policy: ComputePolicy
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w d"]:
        """Mixes each frame with its two neighbours."""
        b, f, h, w, c = x.shape
        flat = nn.Conv(
            self.features,
            (3, 1),
            padding=((1, 1), (0, 0)),
            dtype=self.policy.compute,
            param_dtype=self.policy.params,
            precision=self.policy.precision,
            kernel_init=nn.initializers.zeros if self.zero else nn.linear.default_kernel_init,
            name="conv",
        )(x.reshape(b, f, h * w, c))
        return flat.reshape(b, f, h, w, self.features)


class FeedForward(nn.Module):
    """GEGLU: Linear d -> 8d split into value and gate, value * gelu(gate), Linear 4d -> d (Shazeer 2020)."""

    width: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Acts on each token alone."""
        value, gate = jnp.split(dense(8 * self.width, self.policy, name="dense_in")(x), 2, axis=-1)
        return dense(self.width, self.policy, name="dense_out")(value * gelu(gate))


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
