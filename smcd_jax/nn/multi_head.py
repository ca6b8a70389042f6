"""Multi-head attention whose keys and values can be computed once and used many times."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from smcd_jax.nn.attention import KeysValues, attend
from smcd_jax.nn.layers import ComputePolicy, dense


class MultiHeadAttention(nn.Module):
    """Queries, keys and values without bias, output with bias; heads are the major half of the channel axis."""

    width: int
    heads: int
    policy: ComputePolicy

    def setup(self) -> None:
        """Four linear layers."""
        self.query = dense(self.width, self.policy, use_bias=False)
        self.key = dense(self.width, self.policy, use_bias=False)
        self.value = dense(self.width, self.policy, use_bias=False)
        self.out = dense(self.width, self.policy)

    def keys_values(self, context: Float[Array, "b l e"]) -> KeysValues:
        """Keys and values of the tokens to attend to; they may have another width than the queries' tokens."""
        return KeysValues(self._heads(self.key(context)), self._heads(self.value(context)))

    def __call__(
        self, x: Float[Array, "b n d"], context: KeysValues, *, mask: Bool[Array, "#b #n l"] | None = None
    ) -> Float[Array, "b n d"]:
        """Attends from x to a context (`attend` says how its leading axis may differ)."""
        return self._merged(self._attend(self._heads(self.query(x)), context, mask=mask))

    def _attend(
        self,
        queries: Float[Array, "b n heads e"],
        context: KeysValues,
        *,
        mask: Bool[Array, "#b #n l"] | None = None,
    ) -> Float[Array, "b n heads e"]:
        implementation, precision = self.policy.attention, self.policy.precision
        return attend(queries, context, mask=mask, implementation=implementation, precision=precision)

    def _heads(self, x: Float[Array, "b n d"]) -> Float[Array, "b n heads e"]:
        return x.reshape(*x.shape[:2], self.heads, -1)

    def _merged(self, mixed: Float[Array, "b n heads e"]) -> Float[Array, "b n d"]:
        return self.out(mixed.reshape(*mixed.shape[:2], self.width))
