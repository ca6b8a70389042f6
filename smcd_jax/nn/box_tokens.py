"""Box tokens: a label's embedding and the Fourier features of its box, through a small MLP (GLIGEN, Li et al. 2023)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from smcd_jax.nn.config import PositionNetConfig
from smcd_jax.nn.layers import ComputePolicy, dense


def fourier_features(
    boxes: Float[Array, "*n 4"], frequencies: int = 8, temperature: float = 100.0
) -> Float[Array, "*n d"]:
    """Returns sines, then cosines of the 4 coordinates, for each frequency temperature^(k / frequencies); no 2 pi."""
    bands = np.power(temperature, np.arange(frequencies) / frequencies).astype(np.float32)
    angles = bands[:, None] * boxes.astype(jnp.float32)[..., None, :]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-2)  # [..., frequency, sin or cos, coordinate]
    return waves.reshape(*boxes.shape[:-1], 8 * frequencies)


class PositionNet(nn.Module):
    """One token per box; an absent box becomes a learned null token."""

    config: PositionNetConfig
    policy: ComputePolicy

    @nn.compact
    def __call__(
        self, boxes: Float[Array, "*n 4"], mask: Float[Array, "*n"], labels: Float[Array, "*n d"]
    ) -> Float[Array, "*n e"]:
        """Returns the box tokens.

        Args:
            boxes: Corners (x1, y1, x2, y2) in 0..1 of the picture.
            mask: 1 where the object is present.
            labels: Embedding of each object's label: the text tower's output at the label's end-of-text token.
        """
        config, policy = self.config, self.policy
        null_label = self.param("null_label", nn.initializers.zeros, (config.label_width,), policy.params)
        null_box = self.param("null_box", nn.initializers.zeros, (8 * config.frequencies,), policy.params)
        present = mask.astype(jnp.float32)[..., None]
        features = fourier_features(boxes, config.frequencies, config.temperature)
        blend = lambda given, null: given.astype(jnp.float32) * present + null.astype(jnp.float32) * (1 - present)  # noqa: E731
        x = jnp.concatenate([blend(labels, null_label), blend(features, null_box)], axis=-1)
        x = nn.silu(dense(config.hidden_width, policy, name="dense_0")(x))
        x = nn.silu(dense(config.hidden_width, policy, name="dense_1")(x))
        return dense(config.token_width, policy, name="dense_2")(x)

    def dummy_call(self) -> Float[Array, "1 1 e"]:
        """Runs the smallest input, so that initialisation creates every parameter."""
        return self(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1)), jnp.zeros((1, 1, self.config.label_width)))
