"""The KL autoencoder of Stable Diffusion (Rombach et al. 2022): pictures to latents of 1/8 size and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, PRNGKeyArray, UInt8

from smcd_jax.nn.attention import KeysValues, attend
from smcd_jax.nn.config import AutoencoderConfig
from smcd_jax.nn.cosine_code import cosine_code
from smcd_jax.nn.layers import ComputePolicy, Upsample, conv, dense, group_norm

# Subtracted from the log variance if there is a linear shortcut, so that training starts with little noise.
_FIRST_PRECISION = 6.0


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents, unscaled."""

    mean: Float[Array, "b h w c"]
    log_variance: Float[Array, "b h w c"]  # clipped to -30..20

    def sample(self, key: PRNGKeyArray) -> Float[Array, "b h w c"]:
        """Returns one sample."""
        return self.with_noise(jax.random.normal(key, self.mean.shape, self.mean.dtype))

    def with_noise(self, noise: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the sample that corresponds to this standard normal noise."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


class VAEResidualBlock(nn.Module):
    """GroupNorm (eps 1e-6), SiLU and convolution, applied twice and added to the input."""

    channels: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns the output; the skip connection is a 1x1 convolution if the number of channels changes."""
        h = conv(self.channels, self.policy, name="conv_0")(
            nn.silu(group_norm(self.policy, epsilon=1e-6, name="norm_0")(x))
        )
        h = conv(self.channels, self.policy, name="conv_1")(
            nn.silu(group_norm(self.policy, epsilon=1e-6, name="norm_1")(h))
        )
        if x.shape[-1] != self.channels:
            x = dense(self.channels, self.policy, name="skip")(x)
        return x + h


class PixelAttention(nn.Module):
    """Self-attention among pixels with one head, added to the input."""

    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the pixels after attention, which is used at the lowest resolution only."""
        b, h, w, c = x.shape
        normed = group_norm(self.policy, epsilon=1e-6, name="norm")(x).reshape(b, h * w, c)
        query, key, value = (
            dense(c, self.policy, name=name)(normed)[:, :, None, :] for name in ("query", "key", "value")
        )
        how = {"implementation": self.policy.attention, "precision": self.policy.precision}
        mixed = attend(query, KeysValues(key, value), **how)
        return x + dense(c, self.policy, name="out")(mixed[:, :, 0]).reshape(b, h, w, c)


class MiddleStage(nn.Module):
    """Residual block, attention, residual block."""

    channels: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns an array of the same shape."""
        x = VAEResidualBlock(self.channels, self.policy, name="residual_0")(x)
        x = PixelAttention(self.policy, name="attention")(x)
        return VAEResidualBlock(self.channels, self.policy, name="residual_1")(x)


class Encoder(nn.Module):
    """Maps pictures to the moments of the posterior."""

    config: AutoencoderConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, picture: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Returns the moments; downsampling pads one row and column at the bottom and right only, as published."""
        config, policy = self.config, self.policy
        x = conv(config.base_channels, policy, name="conv_in")(_to_patches(picture, config.patch))
        for level, multiplier in enumerate(config.channel_mult):
            for index in range(config.num_res_blocks):
                channels = config.base_channels * multiplier
                x = VAEResidualBlock(channels, policy, name=f"down_{level}_residual_{index}")(x)
            if level < len(config.channel_mult) - 1:
                padding = ((0, 1), (0, 1))
                x = conv(x.shape[-1], policy, stride=2, padding=padding, name=f"down_{level}_downsample")(x)
        x = MiddleStage(x.shape[-1], policy, name="middle")(x)
        x = nn.silu(group_norm(policy, epsilon=1e-6, name="norm_out")(x))
        return conv(2 * config.latent_channels, policy, name="conv_out")(x)


class Decoder(nn.Module):
    """Maps latents to pictures."""

    config: AutoencoderConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Returns pictures; levels are numbered from the highest resolution, as in the published weights."""
        config, policy = self.config, self.policy
        x = conv(config.base_channels * config.channel_mult[-1], policy, name="conv_in")(latents)
        x = MiddleStage(x.shape[-1], policy, name="middle")(x)
        for level, multiplier in reversed(list(enumerate(config.channel_mult))):
            for index in range(config.num_res_blocks + 1):
                x = VAEResidualBlock(config.base_channels * multiplier, policy, name=f"up_{level}_residual_{index}")(x)
            if level > 0:
                x = Upsample(x.shape[-1], policy, name=f"up_{level}_upsample")(x)
        x = nn.silu(group_norm(policy, epsilon=1e-6, name="norm_out")(x))
        channels = config.picture_channels * config.patch**2
        x = conv(channels, policy, name="conv_out", zero=config.linear_shortcut)(x)
        return _from_patches(x, config.patch)


def _to_patches(picture: Float[Array, "b h w c"], side: int) -> Float[Array, "b hh ww d"]:
    """Moves the pixels of each square of this side into channels (space to depth)."""
    b, h, w, c = picture.shape
    squares = picture.reshape(b, h // side, side, w // side, side, c).swapaxes(2, 3)
    return squares.reshape(b, h // side, w // side, side * side * c)


def _from_patches(x: Float[Array, "b h w d"], side: int) -> Float[Array, "b hh ww c"]:
    """Inverts `_to_patches`."""
    b, h, w, d = x.shape
    squares = x.reshape(b, h, w, side, side, d // side**2).swapaxes(2, 3)
    return squares.reshape(b, h * side, w * side, d // side**2)


class AutoencoderKL(nn.Module):
    """Encoder, decoder and the 1x1 convolutions between them and the latent space."""

    config: AutoencoderConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the layers; the 1x1 convolutions are linear layers here."""
        self.encoder = Encoder(self.config, self.policy)
        self.decoder = Decoder(self.config, self.policy)
        config = self.config
        self.quant = dense(2 * config.latent_channels, self.policy, zero=config.linear_shortcut)
        self.post_quant = dense(config.latent_channels, self.policy)
        if config.linear_shortcut:
            inwards, outwards = cosine_code(config.downscale, config.latent_channels)
            self.shortcut_in = _linear(np.pad(inwards, ((0, 0), (0, config.latent_channels))), self.policy)
            self.shortcut_out = _linear(outwards, self.policy)

    def dummy_call(self) -> Float[Array, "1 h w c"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        side = self.config.downscale
        picture = jnp.zeros((1, side, side, self.config.picture_channels))
        return self.decode_unscaled(self.posterior(picture).mean)

    def posterior(self, picture: Float[Array, "b h w c"]) -> Posterior:
        """Returns the unscaled posterior of pictures in -1..1."""
        moments = self.quant(self.encoder(picture)).astype(jnp.float32)
        if self.config.linear_shortcut:
            moments += self.shortcut_in(_to_patches(picture, self.config.downscale)).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        if self.config.linear_shortcut:
            log_variance -= _FIRST_PRECISION
        return Posterior(mean, jnp.clip(log_variance, -30.0, 20.0))

    def encode(self, picture: Float[Array, "b h w c"], noise: Float[Array, "b hh ww d"]) -> Float[Array, "b hh ww d"]:
        """Returns scaled latents, sampled with this noise (the reference also samples and does not take the mean)."""
        return self.posterior(picture).with_noise(noise) * self.config.scaling_factor

    def decode(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Returns pictures, approximately in -1..1, from scaled latents."""
        return self.decode_unscaled(latents / self.config.scaling_factor)

    def decode_unscaled(self, latents: Float[Array, "b h w c"]) -> Float[Array, "b hh ww d"]:
        """Returns pictures, approximately in -1..1, from unscaled latents."""
        picture = self.decoder(self.post_quant(latents)).astype(jnp.float32)
        if self.config.linear_shortcut:
            picture += _from_patches(self.shortcut_out(latents).astype(jnp.float32), self.config.downscale)
        return picture


def _linear(matrix: Float32[np.ndarray, "c d"], policy: ComputePolicy) -> nn.Dense:
    """Creates a linear layer that is initialized with this matrix."""
    return nn.Dense(
        matrix.shape[1],
        dtype=policy.compute,
        param_dtype=policy.params,
        precision=policy.precision,
        kernel_init=lambda key, shape, dtype: jnp.asarray(matrix, dtype).reshape(shape),
    )


def to_model_range(frames: UInt8[Array, "m h w c"]) -> Float[Array, "m h w c"]:
    """Returns pixels in 0..255 scaled to -1..1, as `smcd_jax.media.to_model_range` does on the host."""
    return (frames.astype(jnp.float32) / jnp.float32(255) - jnp.float32(0.5)) / jnp.float32(0.5)


def sampled_latents(
    module: AutoencoderKL, params: Any, frames: UInt8[Array, "m h w c"], keys: PRNGKeyArray
) -> Float[Array, "m hh ww d"]:
    """Returns scaled latents of frames, drawn from the posterior without gradient; ``keys[i]`` is for frame i."""
    posterior = module.apply({"params": params}, to_model_range(frames), method="posterior")
    noise = jax.vmap(lambda key: jax.random.normal(key, posterior.mean.shape[1:]))(keys)
    return jax.lax.stop_gradient(posterior.with_noise(noise) * module.config.scaling_factor)


def autoencoder_losses(
    module: AutoencoderKL,
    params: Any,
    video: UInt8[Array, "b f h w c"],
    key: PRNGKeyArray,
    *,
    weights: Mapping[str, float],
) -> Float[Array, " b"]:
    """Returns the loss of each example: errors of frames and of their edges, and the posterior's KL divergence.

    An error is the absolute plus the squared difference. Edges are differences between neighbouring pixels; without
    them a small decoder blurs details that a tracker needs. The divergence is from a unit Gaussian.

    Args:
        module: The autoencoder.
        params: Parameters of the autoencoder.
        video: Frames in 0..255.
        key: Random key for sampling the posterior.
        weights: Weights of "edge" and "kl", relative to the reconstruction error.
    """
    pictures = to_model_range(video.reshape(-1, *video.shape[2:]))
    posterior = module.apply({"params": params}, pictures, method="posterior")
    decoded = module.apply({"params": params}, posterior.sample(key), method="decode_unscaled")
    error = decoded - pictures
    edges = _picture_error(jnp.diff(error, axis=1)) + _picture_error(jnp.diff(error, axis=2))
    divergence = 0.5 * (
        jnp.square(posterior.mean) + jnp.exp(posterior.log_variance) - 1.0 - posterior.log_variance
    ).mean(axis=(1, 2, 3))
    loss = _picture_error(error) + weights["edge"] * edges + weights["kl"] * divergence
    return loss.reshape(len(video), -1).mean(axis=1)


def _picture_error(error: Float[Array, "m h w c"]) -> Float[Array, " m"]:
    return jnp.mean(jnp.abs(error) + jnp.square(error), axis=(1, 2, 3))
