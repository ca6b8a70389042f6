"""Gated adapters: tanh-gated attention through which boxes and the first frame enter a spatial transformer block.

There is one class per form. The paper's model has `ObjectImageAdapters`: the object gate (MIM), then the image gate
(GCA) on its result. The other forms are the reference's ablations. All gates start at zero, where they pass their input
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smcd_jax.nn.attention import KeysValues
from smcd_jax.nn.config import Gate
from smcd_jax.nn.layers import ComputePolicy, FeedForward, dense, layer_norm
from smcd_jax.nn.multi_head import MultiHeadAttention


class AdapterTokens(NamedTuple):
    """Tokens of the conditions that adapters read.

    Attributes:
        objects: Box tokens of each frame.
        object_mask: 1 where an object is present; None where all are.
        image: Image tokens, one set per clip or per frame; None for forms without an image gate.
    """

    objects: Float[Array, "bf n e"]
    object_mask: Float[Array, "bf n"] | None = None
    image: Float[Array, "i m g"] | None = None


class GateContext(NamedTuple):
    """Inputs of one gate that stay the same at every denoising step.

    The gate's scalars multiply values, hidden layer and biases instead of the outputs of the two branches. The result
    is the same, and the sums of branch and input can be fused into the matrix products.

    Attributes:
        tokens: Keys of the tokens, and values times ``attention``.
        attention: Tanh of the scalar of the attention, float32.
        attention_bias: Bias of the attention's output layer times ``attention``.
        ff: Tanh of the scalar of the feed-forward block, float32.
        ff_bias: Bias of the feed-forward block's last layer times ``ff``.
    """

    tokens: KeysValues
    attention: Float[Array, ""]
    attention_bias: Float[Array, " d"]
    ff: Float[Array, ""]
    ff_bias: Float[Array, " d"]


class AdapterContext(NamedTuple):
    """Inputs of the adapters of one block that stay the same at every denoising step.

    Attributes:
        objects: Context of the object gate.
        image: Context of the image gate; None for forms without one.
        mask: True for tokens that the object gate may attend to; None for all tokens.
        betas: Weights of the two gates; None in forms without such weights.
    """

    objects: GateContext
    image: GateContext | None = None
    mask: Bool[Array, "bf n"] | None = None
    betas: tuple[Float[Array, ""], Float[Array, ""]] | None = None


def _weighted(x: Array, weight: Array, branch: Array) -> Array:
    return x + (weight * branch.astype(jnp.float32)).astype(x.dtype)


def _repeated(context: KeysValues, batch: int) -> KeysValues:
    repeats = batch // context.keys.shape[0]
    return KeysValues(*(part.repeat(repeats, axis=0) for part in context)) if repeats > 1 else context


class GatedBlock(nn.Module):
    """Attention and a feed-forward block, each scaled by the tanh of a float32 scalar; the base class of both gates."""

    width: int
    heads: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the layers in the order in which they run."""
        self.alpha_attention = self.param("alpha_attention", nn.initializers.zeros, (), jnp.float32)
        self.alpha_ff = self.param("alpha_ff", nn.initializers.zeros, (), jnp.float32)
        self.norm_attention = layer_norm(self.policy)
        self.attention = MultiHeadAttention(self.width, self.heads, self.policy)
        self.norm_ff = layer_norm(self.policy)
        self.ff = FeedForward(self.width, self.policy)

    def context(self, tokens: KeysValues) -> GateContext:
        """Returns the context for a gate's `__call__`, from the result of its ``keys_values``."""
        attention, ff = (jnp.tanh(alpha.astype(jnp.float32)) for alpha in (self.alpha_attention, self.alpha_ff))
        biases = self.attention.out.scaled_bias(attention), self.ff.dense_out.scaled_bias(ff)
        return GateContext(tokens.scaled(attention), attention, biases[0], ff, biases[1])

    def _feed_forward(self, x: Array, gate: GateContext) -> Array:
        return x + self.ff(self.norm_ff(x), scale=gate.ff, bias=gate.ff_bias)


class GatedSelfAttention(GatedBlock):
    """Gated self-attention over pixels and extra tokens; the pixels are returned (GLIGEN, Li et al. 2023, eq. 3-4).

    x + tanh(alpha_attention) SelfAttn(LN[x, tokens]) at x, then the same with a feed-forward block and alpha_ff.
    LayerNorm and projections act on each token alone, so keys and values of the extra tokens do not depend on x.
    """

    def keys_values(self, tokens: Float[Array, "b n d"]) -> KeysValues:
        """Returns keys and values of the extra tokens, which must have the block's width."""
        return self.attention.keys_values(self.norm_attention(tokens))

    def __call__(
        self, x: Float[Array, "b p d"], gate: GateContext, *, extra_mask: Bool[Array, "b n"] | None = None
    ) -> Float[Array, "b p d"]:
        """Returns the pixels after they attend to all pixels and to the extra tokens for which the mask is True."""
        normed = self.norm_attention(x)
        extra = _repeated(gate.tokens, x.shape[0])
        mask = None
        if extra_mask is not None:
            mask = jnp.concatenate([jnp.ones(x.shape[:2], bool), extra_mask], axis=1)[:, None]
        x = x + self.attention.among_tokens(
            normed, extra=extra, mask=mask, scale=gate.attention, bias=gate.attention_bias
        )
        return self._feed_forward(x, gate)


class GatedCrossAttention(GatedBlock):
    """Gated cross-attention from pixels to image tokens (GCA), then a gated feed-forward block."""

    def keys_values(self, tokens: Float[Array, "b m d"]) -> KeysValues:
        """Returns keys and values of the image tokens, which must have the block's width."""
        return self.attention.keys_values(tokens)

    def __call__(self, x: Float[Array, "b p d"], gate: GateContext) -> Float[Array, "b p d"]:
        """Returns the pixels after they attend to the image tokens."""
        x = x + self.attention(self.norm_attention(x), gate.tokens, bias=gate.attention_bias)
        return self._feed_forward(x, gate)


class GatedAdapters(nn.Module):
    """Base class of all gated adapters: a projection of box tokens to the block's width, and the object gate."""

    width: int
    heads: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the parts that every form has."""
        self.project_objects = dense(self.width, self.policy)
        self.object_gate = GatedSelfAttention(self.width, self.heads, self.policy)

    def keys_values(self, tokens: AdapterTokens) -> AdapterContext:
        """Returns the context for `__call__`."""
        raise NotImplementedError

    def __call__(self, x: Float[Array, "b p d"], context: AdapterContext) -> Float[Array, "b p d"]:
        """Returns the pixels after the gates."""
        raise NotImplementedError

    def _object_keys_values(self, tokens: AdapterTokens) -> KeysValues:
        return self.object_gate.keys_values(self.project_objects(tokens.objects))


def _present(tokens: AdapterTokens) -> Bool[Array, "bf n"] | None:
    return None if tokens.object_mask is None else tokens.object_mask > 0


class ObjectAdapters(GatedAdapters):
    """The object gate alone."""

    def keys_values(self, tokens: AdapterTokens) -> AdapterContext:
        """Returns the context; absent objects are not masked, because their token is the null token."""
        return AdapterContext(self.object_gate.context(self._object_keys_values(tokens)))

    def __call__(self, x: Float[Array, "b p d"], context: AdapterContext) -> Float[Array, "b p d"]:
        """Returns object(x)."""
        return self.object_gate(x, context.objects)


class ObjectImageAdapters(GatedAdapters):
    """The object gate, then the image gate on its result (the paper's model)."""

    image_gate_class: ClassVar[type[GatedBlock]] = GatedCrossAttention

    def setup(self) -> None:
        """Adds the image gate and its projection."""
        super().setup()
        self.project_image = dense(self.width, self.policy)
        self.image_gate = self.image_gate_class(self.width, self.heads, self.policy)

    def keys_values(self, tokens: AdapterTokens) -> AdapterContext:
        """Returns the context; absent objects are not masked, because their token is the null token."""
        image = self.image_gate.context(self.image_gate.keys_values(self.project_image(tokens.image)))
        return AdapterContext(self.object_gate.context(self._object_keys_values(tokens)), image)

    def __call__(self, x: Float[Array, "b p d"], context: AdapterContext) -> Float[Array, "b p d"]:
        """Returns image(object(x))."""
        return self.image_gate(self.object_gate(x, context.objects), context.image)


class ParallelAdapters(ObjectImageAdapters):
    """x + tanh(beta_object) object(x) + tanh(beta_image) image(x), where object(x) and image(x) already include x."""

    def setup(self) -> None:
        """Adds the scalars that weight the gates."""
        super().setup()
        self.beta_object = self.param("beta_object", nn.initializers.zeros, (), jnp.float32)
        self.beta_image = self.param("beta_image", nn.initializers.zeros, (), jnp.float32)

    def keys_values(self, tokens: AdapterTokens) -> AdapterContext:
        """Returns the context with the weights of both gates; absent objects are not masked."""
        return super().keys_values(tokens)._replace(betas=(jnp.tanh(self.beta_object), jnp.tanh(self.beta_image)))

    def __call__(self, x: Float[Array, "b p d"], context: AdapterContext) -> Float[Array, "b p d"]:
        """Returns x plus the weighted results of both gates, each of which is applied to x."""
        objects = self.object_gate(x, context.objects, extra_mask=context.mask)
        beta_object, beta_image = context.betas
        return _weighted(_weighted(x, beta_object, objects), beta_image, self.image_gate(x, context.image))


class DoubleAdapters(ParallelAdapters):
    """`ParallelAdapters` with gated self-attention for the image too, and with absent objects masked."""

    image_gate_class: ClassVar[type[GatedBlock]] = GatedSelfAttention

    def keys_values(self, tokens: AdapterTokens) -> AdapterContext:
        """Returns the context with absent objects masked."""
        return super().keys_values(tokens)._replace(mask=_present(tokens))


class MergeAdapters(GatedAdapters):
    """One gated self-attention over image and box tokens together; absent objects are masked."""

    def setup(self) -> None:
        """Adds the projection of the image tokens."""
        super().setup()
        self.project_image = dense(self.width, self.policy)

    def keys_values(self, tokens: AdapterTokens) -> AdapterContext:
        """Returns the context; image tokens come before box tokens."""
        batch = tokens.objects.shape[0]
        image = self.object_gate.keys_values(self.project_image(tokens.image))
        mask = _present(tokens)
        if mask is not None:
            mask = jnp.concatenate([jnp.ones((batch, image.keys.shape[1]), bool), mask], axis=1)
        tokens = _repeated(image, batch).append(self._object_keys_values(tokens))
        return AdapterContext(self.object_gate.context(tokens), mask=mask)

    def __call__(self, x: Float[Array, "b p d"], context: AdapterContext) -> Float[Array, "b p d"]:
        """Returns the result of the object gate, whose tokens include the image tokens."""
        return self.object_gate(x, context.objects, extra_mask=context.mask)


GATE_FORMS: Mapping[Gate, type[GatedAdapters]] = {
    "object": ObjectAdapters,
    "object_image": ObjectImageAdapters,
    "parallel": ParallelAdapters,
    "double": DoubleAdapters,
    "merge": MergeAdapters,
}
