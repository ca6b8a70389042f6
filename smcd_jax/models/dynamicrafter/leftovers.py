"""Arrays of a published file that no network reads."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Array

from smcd_jax.models.dynamicrafter.config import LeftoversConfig
from smcd_jax.nn.layers import ComputePolicy


class Leftovers(nn.Module):
    """Parameters by their names in the file, so that a model folder can hold them; no computation uses them."""

    config: LeftoversConfig
    policy: ComputePolicy

    @nn.compact
    def dummy_call(self) -> list[Array]:
        """Creates every parameter."""
        pairs = zip(self.config.names, self.config.shapes, strict=True)
        return [self.param(name, nn.initializers.zeros, tuple(shape)) for name, shape in pairs]
