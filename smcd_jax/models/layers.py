"""What all networks are made of: compute policy, norms, convolutions, feed-forward block and time embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcd_jax.attention import Implementation

GROUPS = 32  # of every GroupNorm in the published networks


@dataclasses.dataclass(frozen=True)
class ComputePolicy:
    """Dtypes and kernels, handed down to every layer. Norm statistics and softmax are float32 whatever it says."""

    params: Any = jnp.float32
    compute: Any = jnp.float32
    precision: str | None = "highest"  # of matrix products: on GPUs and TPUs anything less rounds float32 inputs
    attention: Implementation = "xla"

    @classmethod
    def for_device(cls, dtype: str | None = None, platform: str | None = None) -> ComputePolicy:
        """bfloat16 on accelerators and float32 on CPU, or the dtype asked for ("float32" or "bfloat16")."""
        platform = platform or jax.default_backend()
        chosen = jnp.dtype(dtype or ("float32" if platform == "cpu" else "bfloat16"))
        return cls(
            params=chosen,
            compute=chosen,
            precision="highest" if chosen == jnp.float32 else None,
            attention={"gpu": "cudnn", "cuda": "cudnn", "cpu": "mapped"}.get(platform, "xla"),
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
    """A square 2D convolution on [..., h, w, c], padded by kernel // 2 on every side unless told otherwise."""
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


class Norm(nn.Module):
    """GroupNorm or LayerNorm in float32, whatever the dtype of input and weights; the result is float32.

    Attributes:
        policy: of the weights' dtype.
        epsilon: added to the variance.
        groups: of channels, with statistics over all axes but the first; 0 normalises each token over its channels.
    """

    policy: ComputePolicy
    epsilon: float
    groups: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b *axes c"]) -> Float[Array, "b *axes c"]:
        """Shape stays."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.policy.params)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.policy.params)
        plain = {"epsilon": self.epsilon, "use_scale": False, "use_bias": False, "use_fast_variance": False}
        normalise = nn.GroupNorm(self.groups, **plain) if self.groups else nn.LayerNorm(**plain)
        return normalise(x.astype(jnp.float32)) * scale.astype(jnp.float32) + bias.astype(jnp.float32)


def group_norm(policy: ComputePolicy, *, epsilon: float, name: str | None = None) -> Norm:
    """GroupNorm over every axis but the first and the group."""
    return Norm(policy, epsilon, GROUPS, name=name)


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
