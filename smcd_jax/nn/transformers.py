"""Spatial and temporal transformers: attention, adapters, cross-attention and feed-forward between two projections."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from smcd_jax.nn.layers import ComputePolicy, FeedForward, dense, group_norm, layer_norm
from smcd_jax.nn.multi_head import MultiHeadAttention

Part = Callable[[int, int, ComputePolicy], nn.Module]  # (width, heads, policy) -> module


@dataclasses.dataclass(frozen=True)
class SpatialParts:
    """The parts of a spatial block that differ between model families, made for the width of each block.

    Both modules have ``keys_values(tokens) -> context`` and are called as ``(x, context) -> y``.

    Attributes:
        cross_attention: Attention to text, or to text and image tokens; its result is added to x.
        adapters: Layers between self-attention and cross-attention, such as `smcd_jax.nn.gated_attention`; their result
            replaces x. None for no adapters.
    """

    cross_attention: Part = MultiHeadAttention
    adapters: Part | None = None


TEXT_ONLY = SpatialParts()


class BlockContext(NamedTuple):
    """Keys and values of one spatial block, constant over the denoising steps.

    Attributes:
        cross: Context of the cross-attention.
        adapters: Context of the adapters; None leaves them out.
    """

    cross: Any
    adapters: Any = None


class TransformerBlock(nn.Module):
    """x += attn1(x); adapters; x += attn2(x, context or x); x += ff(x), each on its LayerNorm.

    With ``parts`` the block is spatial. Without, it is temporal, and its second attention is self-attention too.
    """

    width: int
    heads: int
    policy: ComputePolicy
    parts: SpatialParts | None = None

    def setup(self) -> None:
        """Creates the layers in the order in which they run."""
        parts = self.parts or TEXT_ONLY
        self.norm_self = layer_norm(self.policy)
        self.self_attention = MultiHeadAttention(self.width, self.heads, self.policy)
        if parts.adapters is not None:
            self.gates = parts.adapters(self.width, self.heads, self.policy)
        self.norm_cross = layer_norm(self.policy)
        self.cross_attention = parts.cross_attention(self.width, self.heads, self.policy)
        self.norm_ff = layer_norm(self.policy)
        self.ff = FeedForward(self.width, self.policy)

    def keys_values(self, tokens: Any, adapter_tokens: Any = None) -> BlockContext:
        """Returns keys and values for `__call__`.

        Args:
            tokens: Tokens of the cross-attention.
            adapter_tokens: Tokens of the adapters; None leaves the adapters out.
        """
        adapters = None if adapter_tokens is None else self.gates.keys_values(adapter_tokens)
        return BlockContext(self.cross_attention.keys_values(tokens), adapters)

    def __call__(self, x: Float[Array, "b *n d"], context: BlockContext | None = None) -> Float[Array, "b *n d"]:
        """Returns the tokens after the block.

        Args:
            x: Tokens, ``[b, n, d]`` in a spatial block and ``[b, f, p, d]`` in a temporal one.
            context: Result of `keys_values` in a spatial block, None in a temporal one.
        """
        x = x + self._attend_self(self.self_attention, self.norm_self(x))
        if context is not None and context.adapters is not None:
            x = self.gates(x, context.adapters)
        normed = self.norm_cross(x)
        if context is None:
            x = x + self._attend_self(self.cross_attention, normed)
        else:
            x = x + self.cross_attention(normed, context.cross)
        return x + self.ff(self.norm_ff(x))

    def _attend_self(self, attention: MultiHeadAttention, normed: Array) -> Array:
        if self.parts is None:
            return attention.among_frames(normed)
        return attention.among_tokens(normed)


class SpatialTransformer(nn.Module):
    """Transformer over the pixels of each frame, with attention to the conditions and a residual connection.

    Attributes:
        channels: Channels of the input.
        heads: Attention heads.
        policy: Compute policy.
        parts: Parts that differ between families.
        width: Width of the tokens; 0 for ``channels``.
    """

    channels: int
    heads: int
    policy: ComputePolicy
    parts: SpatialParts = TEXT_ONLY
    width: int = 0

    def setup(self) -> None:
        """Creates GroupNorm (eps 1e-6), Linear in, the block, and Linear out (initialised to zero)."""
        self.norm = group_norm(self.policy, epsilon=1e-6)
        width = self.width or self.channels
        self.proj_in = dense(width, self.policy)
        self.block = TransformerBlock(width, self.heads, self.policy, self.parts)
        self.proj_out = dense(self.channels, self.policy, zero=True)

    def keys_values(self, tokens: Any, adapter_tokens: Any = None) -> BlockContext:
        """Returns keys and values for `__call__`; see `TransformerBlock.keys_values`."""
        return self.block.keys_values(tokens, adapter_tokens)

    def __call__(self, frames: Float[Array, "bf h w c"], context: BlockContext) -> Float[Array, "bf h w c"]:
        """Returns the frames after the transformer, whose tokens are the pixels of a frame, row by row."""
        bf, h, w, c = frames.shape
        tokens = self.proj_in(self.norm(frames).reshape(bf, h * w, c))
        tokens = self.proj_out(self.block(tokens, context))
        return frames + tokens.reshape(bf, h, w, c)


class TemporalTransformer(nn.Module):
    """Attention among the frames of each pixel, added to its input; GroupNorm statistics run over the whole clip."""

    channels: int
    heads: int
    head_dim: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        """Returns the video after the transformer, whose tokens are the frames of one pixel."""
        b, f, h, w, c = video.shape
        inner = self.heads * self.head_dim
        normed = group_norm(self.policy, epsilon=1e-6, name="norm")(video)
        tokens = dense(inner, self.policy, name="proj_in")(normed.reshape(b, f, h * w, c))
        tokens = TransformerBlock(inner, self.heads, self.policy, name="block")(tokens)
        tokens = dense(c, self.policy, zero=True, name="proj_out")(tokens)
        return video + tokens.reshape(b, f, h, w, c)
