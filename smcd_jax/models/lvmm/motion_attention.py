"""Attention layers of the motion UNet: temporal, spatial, linear spatial and cross-attention, each added to its input.

Queries, keys, values and outputs have no bias, so that zero tokens leave the input of cross-attention unchanged.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.lvmm.unet_config import PIXEL_HEAD_DIM
from smcd_jax.nn.attention import KeysValues, attend, attend_frames
from smcd_jax.nn.frame_positions import rotate_by_frame
from smcd_jax.nn.layers import ComputePolicy, dense, layer_norm, on_frames

ROTATED_CHANNELS = 32  # number of rotated channels per head, or all channels of narrower heads


class MotionAttention(nn.Module):
    """Attention layer that normalizes its input by a LayerNorm without bias, and projects it without bias.

    Attributes:
        width: Channels of the input.
        heads: Number of heads.
        head_dim: Width of each head.
        policy: Compute policy.
        fused: Whether one kernel computes queries, keys and values (LFDM); otherwise queries have a separate kernel.
    """

    width: int
    heads: int
    head_dim: int
    policy: ComputePolicy
    fused: bool = False

    def setup(self) -> None:
        """Creates the norm and the linear layers."""
        inner = self.heads * self.head_dim
        self.norm = layer_norm(self.policy, use_bias=False)
        if self.fused:
            self.query_key_value = dense(3 * inner, self.policy, use_bias=False)
        else:
            self.query = dense(inner, self.policy, use_bias=False)
            self.key_value = dense(2 * inner, self.policy, use_bias=False)
        self.out = dense(self.width, self.policy, use_bias=False)

    def keys_values(self, tokens: Float[Array, "b *n e"]) -> KeysValues:
        """Returns keys and values of the tokens to attend to."""
        return KeysValues(*map(self._heads, jnp.split(self.key_value(tokens), 2, axis=-1)))

    def _projections(self, normed: Float[Array, "b *n d"]) -> tuple[Array, KeysValues]:
        """Returns queries, keys and values of the same tokens."""
        if self.fused:
            queries, *context = map(self._heads, jnp.split(self.query_key_value(normed), 3, axis=-1))
            return queries, KeysValues(*context)
        return self._heads(self.query(normed)), self.keys_values(normed)

    def _heads(self, x: Float[Array, "... d"]) -> Float[Array, "... heads e"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _merged(self, mixed: Float[Array, "... heads e"]) -> Float[Array, "... d"]:
        return self.out(mixed.reshape(*mixed.shape[:-2], -1))


class TemporalAttention(MotionAttention):
    """Attention among the frames of each pixel, with rotary positions."""

    def __call__(
        self, video: Float[Array, "b f h w c"], bias: Float[Array, "#b heads f f"] | None = None
    ) -> Float[Array, "b f h w c"]:
        """Returns the video after the layer; ``bias`` is added to the attention logits."""
        b, f, h, w, c = video.shape
        queries, context = self._projections(self.norm(video).reshape(b, f, h * w, c))
        rotated = min(ROTATED_CHANNELS, self.head_dim)
        mixed = attend_frames(
            rotate_by_frame(queries, rotated),
            context._replace(keys=rotate_by_frame(context.keys, rotated)),
            bias=bias,
            implementation=self.policy.attention,
            precision=self.policy.precision,
        )
        return video + self._merged(mixed).reshape(video.shape)


class SpatialAttention(MotionAttention):
    """Attention among the pixels of each frame."""

    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        """Returns the video after the layer."""
        b, f, h, w, c = video.shape
        queries, context = self._projections(self.norm(video).reshape(b * f, h * w, c))
        mixed = attend(queries, context, implementation=self.policy.attention, precision=self.policy.precision)
        return video + self._merged(mixed).reshape(video.shape)


class CrossAttention(MotionAttention):
    """Attention of each pixel to the condition's tokens."""

    def __call__(self, video: Float[Array, "b f h w c"], context: KeysValues) -> Float[Array, "b f h w c"]:
        """Returns the video after the layer; ``context`` is the result of `keys_values`."""
        b, f, h, w, c = video.shape
        queries = self._heads(self.query(self.norm(video).reshape(b, f * h * w, c)))
        mixed = attend(queries, context, implementation=self.policy.attention, precision=self.policy.precision)
        return video + self._merged(mixed).reshape(video.shape)


class LinearAttention(nn.Module):
    """Attention among the pixels of each frame in linear time (Shen et al. 2018, arXiv 1812.01243).

    Queries are normalised over the channels of a head and keys over pixels, so that keys and values form one small
    matrix per head, by which every query is multiplied.

    Attributes:
        heads: Number of heads.
        policy: Compute policy.
        head_dim: Width of each head.
    """

    heads: int
    policy: ComputePolicy
    head_dim: int = PIXEL_HEAD_DIM

    @nn.compact
    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        """Returns the video after the layer; softmax is computed in float32."""
        policy, inner = self.policy, self.heads * self.head_dim
        normed = layer_norm(policy, use_bias=False, name="norm")(video)
        joined = dense(3 * inner, policy, use_bias=False, name="query_key_value")(normed)
        out = dense(video.shape[-1], policy, name="out")

        def mixed(frames: Float[Array, "bf h w e"]) -> Float[Array, "bf h w d"]:
            parts = frames.reshape(frames.shape[0], -1, 3, self.heads, self.head_dim)
            queries, keys, values = (parts[:, :, index] for index in range(3))
            queries = jax.nn.softmax(queries.astype(jnp.float32), axis=-1) * self.head_dim**-0.5
            keys = jax.nn.softmax(keys.astype(jnp.float32), axis=1).astype(values.dtype)
            matrix = jnp.einsum("bnhd,bnhe->bhde", keys, values, precision=policy.precision)
            read = jnp.einsum("bhde,bnhd->bnhe", matrix, queries.astype(values.dtype), precision=policy.precision)
            return read.reshape(*frames.shape[:-1], inner)

        return video + out(on_frames(mixed, joined))
