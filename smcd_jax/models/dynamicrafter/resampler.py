"""The resampler: learned queries attend to the image tower's tokens and become the image tokens of every frame."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.models.dynamicrafter.config import ResamplerConfig
from smcd_jax.nn.attention import KeysValues, attend
from smcd_jax.nn.layers import ComputePolicy, dense, gelu, layer_norm


class PerceiverAttention(nn.Module):
    """Attention from the queries to the image tokens and to themselves; added to the queries by the caller."""

    config: ResamplerConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, x: Float[Array, "b m d"], queries: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """Returns the output of the attention; no layer has a bias, and image tokens come first among the keys."""
        config, policy = self.config, self.policy
        inner = config.heads * config.head_dim
        x, normed = layer_norm(policy, name="norm_image")(x), layer_norm(policy, name="norm_queries")(queries)
        heads = lambda tokens: tokens.reshape(*tokens.shape[:2], config.heads, -1)  # noqa: E731
        query = heads(dense(inner, policy, use_bias=False, name="query")(normed))
        both = dense(2 * inner, policy, use_bias=False, name="key_value")(jnp.concatenate([x, normed], axis=1))
        context = KeysValues(*map(heads, jnp.split(both, 2, axis=-1)))
        mixed = attend(query, context, implementation=policy.attention, precision=policy.precision)
        return dense(config.width, policy, use_bias=False, name="out")(mixed.reshape(*queries.shape[:2], inner))


class Resampler(nn.Module):
    """Maps the tokens of one picture to image tokens ``[b, frames * queries, d]``, frame by frame."""

    config: ResamplerConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(self, tokens: Float[Array, "b m e"]) -> Float[Array, "b q d"]:
        """Returns image tokens from the tokens of the tower's last layer, not normalised."""
        config, policy = self.config, self.policy
        count = config.queries * config.frames
        start = nn.initializers.normal(config.width**-0.5)
        latents = self.param("latents", start, (1, count, config.width), policy.params)
        x = dense(config.width, policy, name="proj_in")(tokens)
        z = jnp.broadcast_to(latents.astype(x.dtype), (x.shape[0], count, config.width))
        for layer in range(config.layers):
            z = z + PerceiverAttention(config, policy, name=f"attention_{layer}")(x, z)
            hidden = layer_norm(policy, name=f"norm_{layer}")(z)
            hidden = dense(config.hidden_factor * config.width, policy, use_bias=False, name=f"dense_in_{layer}")(
                hidden
            )
            z = z + dense(config.width, policy, use_bias=False, name=f"dense_out_{layer}")(gelu(hidden))
        return layer_norm(policy, name="norm_out")(dense(config.output_width, policy, name="proj_out")(z))

    def dummy_call(self) -> Float[Array, "1 q d"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        return self(jnp.zeros((1, 1, self.config.input_width)))
