"""Multi-head attention whose keys and values can be computed once and used many times."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smcd_jax.nn.attention import KeysValues, attend, attend_frames
from smcd_jax.nn.joined import COLLECTION, SELF
from smcd_jax.nn.layers import ComputePolicy, Linear, dense


class MultiHeadAttention(nn.Module):
    """Queries, keys and values without bias, output with bias; the channel axis is ordered by heads first."""

    width: int
    heads: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Creates four linear layers."""
        self.query = dense(self.width, self.policy, use_bias=False)
        self.key = dense(self.width, self.policy, use_bias=False)
        self.value = dense(self.width, self.policy, use_bias=False)
        self.out = Linear(self.width, self.width, self.policy)

    def keys_values(self, context: Float[Array, "b l e"]) -> KeysValues:
        """Returns keys and values of the tokens to attend to; their width may differ from that of the queries."""
        return KeysValues(self._heads(self.key(context)), self._heads(self.value(context)))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        context: KeysValues,
        *,
        mask: Bool[Array, "#b #n l"] | None = None,
        bias: Float[Array, " d"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Returns the attention of x to a context.

        Args:
            x: Tokens of the queries.
            context: Keys and values; see `attend` for their leading axis.
            mask: True where a query may attend to a key.
            bias: Bias that replaces that of the output layer; None to keep it.
        """
        return self._merged(self._attend(self._heads(self.query(x)), context, mask=mask), bias)

    def among_tokens(
        self,
        x: Float[Array, "b n d"],
        *,
        extra: KeysValues | None = None,
        mask: Bool[Array, "#b #n l"] | None = None,
        scale: Float[Array, ""] | None = None,
        bias: Float[Array, " d"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Returns self-attention among the tokens and to extra tokens.

        Args:
            x: Tokens.
            extra: Keys and values of the extra tokens, which follow those of x.
            mask: True where a query may attend to a key.
            scale: Factor of the values of x; None for 1.
            bias: Bias that replaces that of the output layer; None to keep it.
        """
        queries, context = self._projections(x)
        context = context if scale is None else context.scaled(scale)
        context = context if extra is None else context.append(extra)
        return self._merged(self._attend(queries, context, mask=mask), bias)

    def among_frames(self, x: Float[Array, "b f p d"]) -> Float[Array, "b f p d"]:
        """Applies self-attention among the frames of each pixel."""
        queries, context = self._projections(x)
        implementation, precision = self.policy.attention, self.policy.precision
        return self._merged(attend_frames(queries, context, implementation=implementation, precision=precision))

    def _projections(self, x: Float[Array, "b *n d"]) -> tuple[Array, KeysValues]:
        """Returns queries, keys and values of the same tokens."""
        if self.has_variable(COLLECTION, SELF):
            kernel = self.get_variable(COLLECTION, SELF).astype(self.policy.compute)
            joined = jnp.matmul(x.astype(self.policy.compute), kernel, precision=self.policy.precision)
            queries, keys, values = map(self._heads, jnp.split(joined, 3, axis=-1))
        else:
            queries, keys, values = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        return queries, KeysValues(keys, values)

    def _attend(
        self,
        queries: Float[Array, "b n heads e"],
        context: KeysValues,
        *,
        mask: Bool[Array, "#b #n l"] | None = None,
    ) -> Float[Array, "b n heads e"]:
        implementation, precision = self.policy.attention, self.policy.precision
        return attend(queries, context, mask=mask, implementation=implementation, precision=precision)

    def _heads(self, x: Float[Array, "... d"]) -> Float[Array, "... heads e"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _merged(self, mixed: Float[Array, "... heads e"], bias: Array | None = None) -> Float[Array, "... d"]:
        return self.out(mixed.reshape(*mixed.shape[:-2], self.width), bias)
