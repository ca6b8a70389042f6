"""The two towers of CLIP, OpenCLIP's ViT-H/14 and OpenAI's: text for prompts and labels, vision for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from smcd_jax.nn.attention import KeysValues, attend
from smcd_jax.nn.config import Activation, TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.layers import ComputePolicy, Norm, dense, gelu

END_OF_TEXT = 49407


def quick_gelu(x: Array) -> Array:
    """Returns x sigmoid(1.702 x), OpenAI's approximation of GELU, which differs from it by up to 0.02."""
    return x * nn.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[Activation, Callable[[Array], Array]] = {"gelu": gelu, "quick_gelu": quick_gelu}


class CLIPAttention(nn.Module):
    """Self-attention with one fused projection to queries, keys and values, all with bias."""

    heads: int
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], visible: Bool[Array, "1 l l"] | None) -> Float[Array, "b l d"]:
        """Returns the output; ``visible`` is True where one token may attend to another (causal in the text tower)."""
        b, length, width = x.shape
        fused = dense(3 * width, self.policy, name="query_key_value")(x).reshape(b, length, 3, self.heads, -1)
        query, key, value = (fused[:, :, index] for index in range(3))
        mixed = attend(
            query,
            KeysValues(key, value),
            mask=visible,
            implementation=self.policy.attention,
            precision=self.policy.precision,
        )
        return dense(width, self.policy, name="out")(mixed.reshape(b, length, width))


class CLIPBlock(nn.Module):
    """x += attention(LN x); x += MLP(LN x) with four times the width."""

    heads: int
    policy: ComputePolicy
    activation: Activation = "gelu"
    epsilon: float = 1e-5  # of the norms

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], visible: Bool[Array, "1 l l"] | None = None) -> Float[Array, "b l d"]:
        """Maps tokens to tokens of the same width; ``visible`` is True where one token may attend to another."""
        width = x.shape[-1]
        normed = Norm(self.policy, self.epsilon, name="norm_attention")(x)
        x = x + CLIPAttention(self.heads, self.policy, name="attention")(normed, visible)
        h = dense(4 * width, self.policy, name="dense_in")(Norm(self.policy, self.epsilon, name="norm_mlp")(x))
        return x + dense(width, self.policy, name="dense_out")(ACTIVATIONS[self.activation](h))


class TextEncoder(nn.Module):
    """The text tower. Conditioning uses the output before the last layer, after the final norm ("penultimate")."""

    config: TextEncoderConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates the layers; ``text_projection`` and ``logit_scale`` map to the space shared with pictures."""
        config, policy = self.config, self.policy
        normal = nn.initializers.normal
        self.token_embedding = self.param(
            "token_embedding", normal(0.02), (config.vocabulary, config.width), policy.params
        )
        self.position_embedding = self.param(
            "position_embedding", normal(0.01), (config.length, config.width), policy.params
        )
        self.block = _blocks(config, policy)
        self.norm_final = Norm(policy, config.epsilon)
        if config.embed_width:
            shape = (config.width, config.embed_width)
            self.text_projection = self.param("text_projection", normal(config.width**-0.5), shape, policy.params)
            self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6593), (), policy.params)

    def __call__(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Returns the tokens for the UNet: all layers but the last ``skip_last``, then the final norm, in float32."""
        return self._hidden(ids, self.config.layers - self.config.skip_last)

    def last_layer(self, ids: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Returns the output of all layers, after the final norm."""
        return self._hidden(ids, self.config.layers)

    def label_embedding(self, ids: Int[Array, "b l"]) -> Float[Array, "b d"]:
        """Returns the output of `__call__` at the first end-of-text token, which the position net takes as a label."""
        end = jnp.argmax(ids == END_OF_TEXT, axis=-1)
        return jnp.take_along_axis(self(ids), end[:, None, None], axis=1)[:, 0]

    def pooled(self, ids: Int[Array, "b l"]) -> Float[Array, "b e"]:
        """Returns the texts in the joint text-image space, not normalised."""
        end = jnp.argmax(ids == END_OF_TEXT, axis=-1)
        last = jnp.take_along_axis(self.last_layer(ids), end[:, None, None], axis=1)[:, 0]
        return last @ self.text_projection.astype(jnp.float32)

    def dummy_call(self) -> Float[Array, ...]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        ids = jnp.zeros((1, self.config.length), jnp.int32)
        return self.pooled(ids) if self.config.embed_width else self.last_layer(ids)

    def _hidden(self, ids: Int[Array, "b l"], layers: int) -> Float[Array, "b l d"]:
        x = self.token_embedding.astype(self.policy.compute)[ids]
        x = x + self.position_embedding.astype(self.policy.compute)
        visible = jnp.tril(jnp.ones((1, ids.shape[1], ids.shape[1]), bool))
        for block in self.block[:layers]:
            x = block(x, visible)
        return self.norm_final(x)


class VisionEncoder(nn.Module):
    """The vision tower."""

    config: VisionEncoderConfig
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates a patch embedding without bias, one class token, and norms before and after the layers."""
        config, policy = self.config, self.policy
        scale = nn.initializers.normal(config.width**-0.5)
        patch, tokens = config.patch, (config.picture_size // config.patch) ** 2 + 1
        if config.patch_frames == 1:
            self.patch_embedding = self._patches((patch, patch))
        else:
            self.video_patch_embedding = self._patches((config.patch_frames, patch, patch))
        self.class_embedding = self.param("class_embedding", scale, (config.width,), policy.params)
        self.position_embedding = self.param("position_embedding", scale, (tokens, config.width), policy.params)
        self.norm_in = Norm(policy, config.epsilon)
        self.block = _blocks(config, policy)
        self.norm_out = Norm(policy, config.epsilon)
        self.projection = self.param("projection", scale, (config.width, config.embed_width), policy.params)

    def __call__(self, picture: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        """Returns vectors of the joint space, not normalised, for pictures normalised with CLIP's statistics."""
        return self._tokens(picture)[:, 0] @ self.projection.astype(jnp.float32)

    def patch_tokens(self, picture: Float[Array, "b h w 3"]) -> Float[Array, "b m d"]:
        """Returns one token per patch after the last norm, without the class token and the projection."""
        return self._tokens(picture)[:, 1:]

    def raw_tokens(self, picture: Float[Array, "b h w 3"]) -> Float[Array, "b m d"]:
        """Returns the class token, then one token per patch, before the last norm and the projection."""
        return self._hidden(picture)

    def dummy_call(self) -> Float[Array, "1 e"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        side = self.config.picture_size
        return self(jnp.zeros((1, side, side, 3)))

    def _tokens(self, picture: Float[Array, "b h w 3"]) -> Float[Array, "b m d"]:
        return self.norm_out(self._hidden(picture))

    def _hidden(self, picture: Float[Array, "b h w 3"]) -> Float[Array, "b m d"]:
        compute = self.policy.compute
        if self.config.patch_frames == 1:
            patches = self.patch_embedding(picture)
        else:
            patches = self.video_patch_embedding(picture[:, None].repeat(self.config.patch_frames, axis=1))
        patches = patches.reshape(picture.shape[0], -1, self.config.width)
        first = jnp.broadcast_to(self.class_embedding.astype(compute), (picture.shape[0], 1, self.config.width))
        x = jnp.concatenate([first, patches], axis=1) + self.position_embedding.astype(compute)
        x = self.norm_in(x).astype(compute)
        for block in self.block:
            x = block(x)
        return x

    def _patches(self, kernel: tuple[int, ...]) -> nn.Conv:
        return nn.Conv(
            self.config.width,
            kernel,
            strides=kernel,
            padding="VALID",
            use_bias=False,
            dtype=self.policy.compute,
            param_dtype=self.policy.params,
            precision=self.policy.precision,
        )


def _blocks(config: TextEncoderConfig | VisionEncoderConfig, policy: ComputePolicy) -> list[CLIPBlock]:
    return [CLIPBlock(config.heads, policy, config.activation, config.epsilon) for _ in range(config.layers)]
