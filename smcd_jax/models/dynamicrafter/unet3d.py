"""DynamiCrafter's UNet: the shared 3D UNet with dual cross-attention to text and to image tokens of each frame."""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.dynamicrafter.config import DynamiCrafterUNetConfig
from smcd_jax.nn.attention import KeysValues
from smcd_jax.nn.gated_attention import GATE_FORMS, AdapterTokens
from smcd_jax.nn.layers import dense
from smcd_jax.nn.multi_head import MultiHeadAttention
from smcd_jax.nn.transformers import Part, SpatialParts
from smcd_jax.nn.unet3d import UNet3D, UNetContext


class DualTokens(NamedTuple):
    """Text tokens, one set per clip, and image tokens, one set per frame or per clip."""

    text: Float[Array, "b l d"]
    image: Float[Array, "i m d"]


class DualContext(NamedTuple):
    """Keys and values of the tokens in `DualTokens`."""

    text: KeysValues
    image: KeysValues


class DualCrossAttention(MultiHeadAttention):
    """out(attend(q, text) + g attend(q, image)) with one query for both; g is 1, or 1 + tanh(alpha) if learned."""

    learned_scale: bool = False

    def setup(self) -> None:
        """Creates separate layers for keys and values of image tokens."""
        super().setup()
        self.image_key = dense(self.width, self.policy, use_bias=False)
        self.image_value = dense(self.width, self.policy, use_bias=False)
        if self.learned_scale:
            self.alpha_image = self.param("alpha_image", nn.initializers.zeros, (), jnp.float32)

    def keys_values(self, tokens: DualTokens) -> DualContext:
        """Returns keys and values for `__call__`."""
        image = KeysValues(self._heads(self.image_key(tokens.image)), self._heads(self.image_value(tokens.image)))
        return DualContext(super().keys_values(tokens.text), image)

    def __call__(self, x: Float[Array, "b n d"], context: DualContext) -> Float[Array, "b n d"]:
        """Returns the pixels of each frame after they attend to text and image."""
        queries = self._heads(self.query(x))
        text, image = self._attend(queries, context.text), self._attend(queries, context.image)
        if self.learned_scale:
            image = image * (1 + jnp.tanh(self.alpha_image)).astype(image.dtype)
        return self._merged(text + image)


def dual_cross_attention(learned_scale: bool) -> Part:
    """Returns the cross-attention of every spatial block, for `SpatialParts`."""
    return functools.partial(DualCrossAttention, learned_scale=learned_scale)


class DynamiCrafterUNet(UNet3D):
    """The UNet of every published variant; with ``gate`` in its config also SMCD's gated adapters for boxes."""

    config: DynamiCrafterUNetConfig

    def spatial_parts(self) -> SpatialParts:
        """Returns dual cross-attention and the adapters that the config names."""
        dual = dual_cross_attention(self.config.learned_image_scale)
        return SpatialParts(cross_attention=dual, adapters=GATE_FORMS.get(self.config.gate))

    def keys_values(
        self,
        text: Float[Array, "b l d"],
        image: Float[Array, "b m d"],
        *,
        frames: int,
        adapter_tokens: AdapterTokens | None = None,
    ) -> UNetContext:
        """Returns keys and values of every spatial block.

        Args:
            text: Output of the text tower.
            image: Output of the resampler. With exactly ``frames`` times ``image_tokens_per_frame`` tokens, each frame
                attends to its own tokens; with any other number, every frame attends to all of them, as in the
                reference.
            frames: Number of frames.
            adapter_tokens: Tokens of the gated adapters; None leaves them out.
        """
        each = self.config.image_tokens_per_frame
        if image.shape[1] == frames * each:
            image = image.reshape(-1, each, image.shape[-1])
        return self.block_contexts(DualTokens(text, image), adapter_tokens)

    def dummy_call(self) -> Float[Array, "b f h w d"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        config, zeros = self.config, jnp.zeros
        tokens = zeros((1, 1, config.context_dim))
        boxes = None
        if config.uses_objects:
            image = zeros((1, 1, config.image_width)) if config.uses_image_tokens else None
            boxes = AdapterTokens(zeros((1, 1, config.object_width)), image=image)
        context = self.keys_values(tokens, tokens, frames=1, adapter_tokens=boxes)
        return self(self.smallest_video(), zeros((1,)), context, fps=zeros((1,)))
