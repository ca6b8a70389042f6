"""Object and image gates: tanh-gated attention by which boxes and the first frame enter a spatial block.

The paper's model is ``object_image``: the object gate (MIM), then the image gate (GCA) on its result. The other forms
are the reference's ablations. All gates start at zero, where they leave their input as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smcd_jax.nn.attention import KeysValues
from smcd_jax.nn.config import UNetConfig
from smcd_jax.nn.layers import ComputePolicy, FeedForward, dense, layer_norm
from smcd_jax.nn.multi_head import MultiHeadAttention


class GateConditions(NamedTuple):
    """Keys and values of box tokens and image tokens for the gates of one block."""

    objects: KeysValues
    image: KeysValues | None
    object_mask: Bool[Array, "bf n"] | None  # only the forms that mask absent objects have it


def _gated(x: Array, alpha: Array, branch: Array) -> Array:
    return x + (jnp.tanh(alpha.astype(jnp.float32)) * branch.astype(jnp.float32)).astype(x.dtype)


class GatedBlock(nn.Module):
    """What both kinds of gate are made of: attention and a feed-forward block, each gated by a float32 scalar."""

    width: int
    heads: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Everything is used in this order."""
        self.alpha_attention = self.param("alpha_attention", nn.initializers.zeros, (), jnp.float32)
        self.alpha_ff = self.param("alpha_ff", nn.initializers.zeros, (), jnp.float32)
        self.norm_attention = layer_norm(self.policy)
        self.attention = MultiHeadAttention(self.width, self.heads, self.policy)
        self.norm_ff = layer_norm(self.policy)
        self.ff = FeedForward(self.width, self.policy)


class TokenGate(GatedBlock):
    """Gated self-attention over pixels joined by extra tokens (GLIGEN, Li et al. 2023, eq. 3-4), read at the pixels.

    x + tanh(alpha_attention) SelfAttn(LN[x, tokens]) at x, then the same with a feed-forward block and alpha_ff.
    LayerNorm and projections act on each token alone, so keys and values of the extra tokens do not depend on x.
    """

    def keys_values(self, tokens: Float[Array, "b n d"]) -> KeysValues:
        """Keys and values of the extra tokens, already of the block's width."""
        return self.attention.keys_values(self.norm_attention(tokens))

    def __call__(
        self, x: Float[Array, "b p d"], extra: KeysValues, *, extra_mask: Bool[Array, "b n"] | None = None
    ) -> Float[Array, "b p d"]:
        """Pixels attend to all pixels and to the extra tokens that the mask admits."""
        normed = self.norm_attention(x)
        repeats = x.shape[0] // extra.keys.shape[0]
        extra = KeysValues(*(part.repeat(repeats, axis=0) for part in extra)) if repeats > 1 else extra
        context = self.attention.keys_values(normed).append(extra)
        mask = None
        if extra_mask is not None:
            mask = jnp.concatenate([jnp.ones(x.shape[:2], bool), extra_mask], axis=1)[:, None]
        x = _gated(x, self.alpha_attention, self.attention(normed, context, mask=mask))
        return _gated(x, self.alpha_ff, self.ff(self.norm_ff(x)))


class CrossGate(GatedBlock):
    """Cross-attention from pixels to image tokens (GCA), tanh-gated, then a feed-forward block, tanh-gated too."""

    def keys_values(self, tokens: Float[Array, "b m d"]) -> KeysValues:
        """Keys and values of the image tokens, already of the block's width."""
        return self.attention.keys_values(tokens)

    def __call__(self, x: Float[Array, "b p d"], image: KeysValues) -> Float[Array, "b p d"]:
        """Pixels attend to the image tokens."""
        x = _gated(x, self.alpha_attention, self.attention(self.norm_attention(x), image))
        return _gated(x, self.alpha_ff, self.ff(self.norm_ff(x)))


class Gates(nn.Module):
    """The gates of one spatial block, in the form the config names.

    object        the object gate alone
    object_image  the object gate, then the image gate on its result (the paper's model)
    parallel      x + tanh(beta_object) object(x) + tanh(beta_image) image(x); both contain x already
    double        as parallel, with a token gate for the image and absent objects masked
    merge         one token gate over image and box tokens together, absent objects masked
    """

    width: int
    heads: int
    config: UNetConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Projections to the block's width, and one or two gates."""
        form = self.config.gate
        self.project_objects = dense(self.width, self.policy)
        self.object_gate = TokenGate(self.width, self.heads, self.policy)
        if self.config.uses_image_tokens:
            self.project_image = dense(self.width, self.policy)
        if form in ("object_image", "parallel"):
            self.image_gate = CrossGate(self.width, self.heads, self.policy)
        if form == "double":
            self.image_gate = TokenGate(self.width, self.heads, self.policy)
        if form in ("parallel", "double"):
            self.beta_object = self.param("beta_object", nn.initializers.zeros, (), jnp.float32)
            self.beta_image = self.param("beta_image", nn.initializers.zeros, (), jnp.float32)

    def conditions(
        self,
        objects: Float[Array, "bf n e"],
        *,
        object_mask: Float[Array, "bf n"] | None,
        image_tokens: Float[Array, "i m g"] | None,
    ) -> GateConditions:
        """Keys and values for `__call__`. The mask counts only in the forms that mask (see the class)."""
        form = self.config.gate
        tokens = self.object_gate.keys_values(self.project_objects(objects))
        present = None if object_mask is None or form not in ("double", "merge") else object_mask > 0
        if not self.config.uses_image_tokens:
            return GateConditions(tokens, None, present)
        projected = self.project_image(image_tokens)
        if form != "merge":
            return GateConditions(tokens, self.image_gate.keys_values(projected), present)
        image = self.object_gate.keys_values(projected)
        repeats = objects.shape[0] // projected.shape[0]
        image = KeysValues(*(part.repeat(repeats, axis=0) for part in image)) if repeats > 1 else image
        if present is not None:
            present = jnp.concatenate([jnp.ones((present.shape[0], projected.shape[1]), bool), present], axis=1)
        return GateConditions(image.append(tokens), None, present)

    def __call__(self, x: Float[Array, "b p d"], conditions: GateConditions) -> Float[Array, "b p d"]:
        """The gated tokens."""
        form = self.config.gate
        gated = self.object_gate(x, conditions.objects, extra_mask=conditions.object_mask)
        if form in ("object", "merge"):
            return gated
        if form == "object_image":
            return self.image_gate(gated, conditions.image)
        return _gated(_gated(x, self.beta_object, gated), self.beta_image, self.image_gate(x, conditions.image))
