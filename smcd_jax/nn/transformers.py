"""Spatial and temporal transformers: attention, gates, cross-attention and feed-forward between two projections."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from smcd_jax.nn.attention import KeysValues
from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.gated_attention import GateConditions, Gates
from smcd_jax.nn.layers import ComputePolicy, FeedForward, dense, group_norm, layer_norm
from smcd_jax.nn.multi_head import MultiHeadAttention


class BlockConditions(NamedTuple):
    """What one spatial block attends to besides itself; constant over the denoising steps."""

    text: KeysValues
    gates: GateConditions | None


class TransformerBlock(nn.Module):
    """x += attn1(x); gates; x += attn2(x, text or itself); x += ff(x), each on its LayerNorm.

    With ``config`` the block is spatial: it attends to text and has the config's gates. Without, it is temporal and its
    second attention is self-attention again.
    """

    width: int
    heads: int
    policy: ComputePolicy
    config: UNetConfig | None = None

    def setup(self) -> None:
        """Layers in the order of use."""
        self.norm_self = layer_norm(self.policy)
        self.self_attention = MultiHeadAttention(self.width, self.heads, self.policy)
        if self.config is not None and self.config.gate != "none":
            self.gates = Gates(self.width, self.heads, self.config, self.policy)
        self.norm_cross = layer_norm(self.policy)
        self.cross_attention = MultiHeadAttention(self.width, self.heads, self.policy)
        self.norm_ff = layer_norm(self.policy)
        self.ff = FeedForward(self.width, self.policy)

    def conditions(
        self,
        text: Float[Array, "t l d"],
        objects: Float[Array, "bf n e"] | None,
        *,
        object_mask: Float[Array, "bf n"] | None,
        image_tokens: Float[Array, "i m g"] | None,
    ) -> BlockConditions:
        """Keys and values of the conditions; without objects the gates stay shut, as in the reference."""
        gates = None
        if objects is not None and self.config is not None and self.config.gate != "none":
            gates = self.gates.conditions(objects, object_mask=object_mask, image_tokens=image_tokens)
        return BlockConditions(self.cross_attention.keys_values(text), gates)

    def __call__(self, x: Float[Array, "b n d"], conditions: BlockConditions | None = None) -> Float[Array, "b n d"]:
        """Tokens in, tokens out."""
        x = x + self._attend_self(self.self_attention, self.norm_self(x))
        if conditions is not None and conditions.gates is not None:
            x = self.gates(x, conditions.gates)
        normed = self.norm_cross(x)
        if conditions is None:
            x = x + self._attend_self(self.cross_attention, normed)
        else:
            x = x + self.cross_attention(normed, conditions.text)
        return x + self.ff(self.norm_ff(x))

    def _attend_self(self, attention: MultiHeadAttention, normed: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return attention(normed, attention.keys_values(normed))


class SpatialTransformer(nn.Module):
    """Attention among the pixels of each frame, to text and through the gates; added to its input."""

    config: UNetConfig
    channels: int
    policy: ComputePolicy

    def setup(self) -> None:
        """GroupNorm (eps 1e-6), Linear in, the block, Linear out (zero at start)."""
        self.norm = group_norm(self.policy, epsilon=1e-6)
        self.proj_in = dense(self.channels, self.policy)
        heads = self.channels // self.config.head_dim
        self.block = TransformerBlock(self.channels, heads, self.policy, self.config)
        self.proj_out = dense(self.channels, self.policy, zero=True)

    def conditions(
        self,
        text: Float[Array, "t l d"],
        objects: Float[Array, "bf n e"] | None,
        *,
        object_mask: Float[Array, "bf n"] | None,
        image_tokens: Float[Array, "i m g"] | None,
    ) -> BlockConditions:
        """Keys and values of the conditions, for `__call__`."""
        return self.block.conditions(text, objects, object_mask=object_mask, image_tokens=image_tokens)

    def __call__(self, frames: Float[Array, "bf h w c"], conditions: BlockConditions) -> Float[Array, "bf h w c"]:
        """Tokens are the pixels of a frame, row by row."""
        bf, h, w, c = frames.shape
        tokens = self.proj_in(self.norm(frames).reshape(bf, h * w, c))
        tokens = self.proj_out(self.block(tokens, conditions))
        return frames + tokens.reshape(bf, h, w, c)


class TemporalTransformer(nn.Module):
    """Attention among the frames of each pixel; GroupNorm statistics run over the whole clip; added to its input."""

    channels: int
    heads: int
    head_dim: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, video: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
        """Tokens are the frames of one pixel."""
        b, f, h, w, c = video.shape
        inner = self.heads * self.head_dim
        normed = group_norm(self.policy, epsilon=1e-6, name="norm")(video)
        tokens = dense(inner, self.policy, name="proj_in")(normed.reshape(b, f, h * w, c))
        tokens = tokens.transpose(0, 2, 1, 3).reshape(b * h * w, f, inner)
        tokens = TransformerBlock(inner, self.heads, self.policy, name="block")(tokens)
        tokens = tokens.reshape(b, h * w, f, inner).transpose(0, 2, 1, 3)
        tokens = dense(c, self.policy, zero=True, name="proj_out")(tokens)
        return video + tokens.reshape(b, f, h, w, c)
