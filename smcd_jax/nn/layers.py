"""Layers of all networks: compute policy, norms, convolutions, feed-forward block and time embedding."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from smcd_jax.errors import SMCDError
from smcd_jax.nn.attention import Implementation
from smcd_jax.nn.normalization import STATISTICS, Reduction, group_normalised, layer_normalised
from smcd_jax.runtime.devices import require_devices

Initializer = Callable[..., Array]  # (key, shape, dtype), as in `flax.linen.initializers`


@dataclasses.dataclass(frozen=True)
class ComputePolicy:
    """Dtypes and kernels of every layer. Norm statistics and softmax are always float32."""

    params: Any = jnp.float32
    compute: Any = jnp.float32
    precision: str | None = "highest"  # for matrix products; on GPUs and TPUs anything less rounds float32 inputs
    attention: Implementation = "xla"
    reduction: Reduction = "sum"  # how norm statistics are computed, see `group_normalised`
    groups: int = 32  # groups of every GroupNorm; set by `networks.network` from the component's config
    remat: bool = False  # recompute the activations of each UNet block for the gradient

    @classmethod
    def for_device(cls, dtype: str | None = None, platform: str | None = None) -> ComputePolicy:
        """Returns the policy for a device: bfloat16 on accelerators and float32 on CPU, unless ``dtype`` is set.

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
            attention={"gpu": "cudnn", "cuda": "cudnn", "tpu": "flash", "cpu": "mapped"}.get(platform, "xla"),
            reduction=_reduction(platform, chosen),
        )


def _reduction(platform: str, dtype: Any) -> Reduction:
    if platform == "tpu":
        return "recomputed"
    return "moments" if platform in ("gpu", "cuda") and dtype == jnp.bfloat16 else "sum"


def dense(
    features: int,
    policy: ComputePolicy,
    *,
    use_bias: bool = True,
    zero: bool = False,
    bias_init: Initializer = nn.initializers.zeros,
    name: str | None = None,
) -> nn.Dense:
    """Returns a linear layer; ``zero`` initialises its kernel to zero."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=policy.compute,
        param_dtype=policy.params,
        precision=policy.precision,
        kernel_init=nn.initializers.zeros if zero else nn.linear.default_kernel_init,
        bias_init=bias_init,
        name=name,
    )


class Linear(nn.Module):
    """A linear layer like `dense`, whose bias can be replaced in a call.

    Attributes:
        inputs: Width of the input.
        features: Width of the output.
        policy: Dtypes and precision.
    """

    inputs: int
    features: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates kernel and bias, named and initialised as in `flax.linen.Dense`."""
        shape = (self.inputs, self.features)
        self.kernel = self.param("kernel", nn.linear.default_kernel_init, shape, self.policy.params)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,), self.policy.params)

    def scaled_bias(self, scale: Float[Array, ""]) -> Float[Array, " d"]:
        """Returns the bias times a scalar, in the compute dtype."""
        return (scale * self.bias.astype(jnp.float32)).astype(self.policy.compute)

    def __call__(self, x: Float[Array, "... e"], bias: Float[Array, " d"] | None = None) -> Float[Array, "... d"]:
        """Returns the product of x and the kernel plus ``bias``, by default the layer's own."""
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
    bias_init: Initializer = nn.initializers.zeros,
    name: str | None = None,
) -> nn.Conv:
    """Returns a square 2D convolution on [..., h, w, c], padded by kernel // 2 on every side by default."""
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
        bias_init=bias_init,
        name=name,
    )


class Norm(nn.Module):
    """GroupNorm or LayerNorm, computed and returned in float32 for every dtype of input and weights.

    Attributes:
        policy: Compute policy, for the dtype of the weights.
        epsilon: Constant added to the variance.
        groups: Number of groups of channels, with statistics over all axes but the first; 0 normalises each token over
            its channels.
        silu: Whether the result passes through SiLU.
        use_bias: Whether a learned bias is added.
    """

    policy: ComputePolicy
    epsilon: float
    groups: int = 0
    silu: bool = False
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b *axes c"]) -> Float[Array, "b *axes c"]:
        """Returns the normalised array, of the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.policy.params).astype(jnp.float32)
        bias = jnp.zeros((), jnp.float32)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], self.policy.params).astype(jnp.float32)
        if self.groups:
            weights = {"scale": scale, "bias": jnp.broadcast_to(bias, scale.shape)}
            out = group_normalised(x, self.groups, self.epsilon, self.policy.reduction, silu=self.silu, **weights)
            return out.reshape(x.shape)
        out = layer_normalised(x.astype(jnp.float32), self.epsilon) * scale + bias
        return nn.silu(out) if self.silu else out


def group_norm(policy: ComputePolicy, *, epsilon: float, silu: bool = False, name: str | None = None) -> Norm:
    """Returns a GroupNorm over every axis but the first and the group, followed by SiLU if ``silu`` is set."""
    return Norm(policy, epsilon, policy.groups, silu, name=name)


def layer_norm(policy: ComputePolicy, *, use_bias: bool = True, name: str | None = None) -> Norm:
    """Returns a LayerNorm over channels."""
    return Norm(policy, 1e-5, use_bias=use_bias, name=name)


def recomputed(call: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of a module that stores only the statistics of its norms for the gradient."""
    return nn.remat(call, policy=jax.checkpoint_policies.save_only_these_names(STATISTICS))


class Dropout(nn.Module):
    """Dropout whose mask is a hash of the index, so that it is computed where it is used and is never stored.

    The mask depends on the seed, the path of the module and the index in the global array, not on devices or mesh.

    Attributes:
        rate: Share of the elements that become zero, 0..1.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, seed: UInt32[Array, " 2"] | None) -> Array:
        """Returns the array with elements dropped and the rest divided by 1 - rate; unchanged if ``seed`` is None."""
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
    """Returns MurmurHash3's finalizer of the bits: every input bit changes about half of the output bits."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return bits ^ (bits >> np.uint32(16))


def dropout_seed(key: PRNGKeyArray | None) -> UInt32[Array, " 2"] | None:
    """Returns the seed of `Dropout` for all layers of a network, from the key of a step; None if there is no key."""
    return None if key is None else jax.random.bits(key, (2,), jnp.uint32)


def gelu(x: Array) -> Array:
    """Returns the exact (erf) form, PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)


class TemporalConv(nn.Module):
    """A convolution of width 3 along frames: PyTorch's Conv3d with kernel (3, 1, 1) and padding (1, 0, 0)."""

    features: int
    policy: ComputePolicy
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b f p c"]) -> Float[Array, "b f p d"]:
        """Mixes each frame with its two neighbours; height and width form one axis of pixels."""
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
        """Creates two linear layers."""
        self.dense_in = dense(8 * self.width, self.policy)
        self.dense_out = Linear(4 * self.width, self.width, self.policy)

    def __call__(
        self,
        x: Float[Array, "... d"],
        *,
        scale: Float[Array, ""] | None = None,
        bias: Float[Array, " d"] | None = None,
    ) -> Float[Array, "... d"]:
        """Returns the output, computed for each token separately.

        Args:
            x: Tokens.
            scale: Factor of the hidden layer; None for 1.
            bias: Bias that replaces that of the last layer; None to keep it.
        """
        value, gate = jnp.split(self.dense_in(x), 2, axis=-1)
        hidden = value * gelu(gate)
        if scale is not None:
            hidden = (hidden.astype(jnp.float32) * scale).astype(hidden.dtype)
        return self.dense_out(hidden, bias)


def sinusoid(timesteps: Float[Array, " b"], width: int) -> Float[Array, "b width"]:
    """Returns cosines, then sines, with frequencies 10000^(-i / half); an odd width ends in a zero column."""
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
        """Returns one vector per example."""
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
    """Applies an image layer to every frame, with frames folded into the batch axis."""
    frames = layer(video.reshape(-1, *video.shape[2:]))
    return frames.reshape(*video.shape[:2], *frames.shape[1:])
