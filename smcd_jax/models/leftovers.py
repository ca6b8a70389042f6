"""Arrays of published files that no network reads, kept so that the files can be written back bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
from jaxtyping import Array

from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import register_network
from smcd_jax.weights.conversion_engine import Shaped
from smcd_jax.weights.conversion_table import Row, array


@dataclasses.dataclass(frozen=True)
class LeftoversConfig:
    """Names and shapes of the leftover arrays.

    Attributes:
        names: Names in the file.
        shapes: Shapes of the arrays, in the same order.
    """

    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, tensors: Mapping[str, Shaped]) -> LeftoversConfig:
        """Returns the config that describes these arrays."""
        return cls(tuple(tensors), tuple(tuple(tensor.shape) for tensor in tensors.values()))


class Leftovers(nn.Module):
    """Parameters under their names in the file, stored in the model folder but used by no computation."""

    config: LeftoversConfig
    policy: ComputePolicy

    @nn.compact
    def dummy_call(self) -> list[Array]:
        """Creates every parameter."""
        pairs = zip(self.config.names, self.config.shapes, strict=True)
        return [self.param(name, nn.initializers.zeros, tuple(shape)) for name, shape in pairs]


def leftovers_rows(config: LeftoversConfig) -> list[Row]:
    """Returns the conversion table of the arrays."""
    return [row for name in config.names for row in array(name, name)]


register_network(LeftoversConfig, Leftovers)
