"""The networks of a model, made from its config, and how their parameters are split over a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smcd_jax.models.config import VideoConfig
from smcd_jax.models.parts import Component, Params, Stage
from smcd_jax.nn.joined import COLLECTION
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import Network, network
from smcd_jax.nn.sharding_rules import GENERIC
from smcd_jax.runtime.sharding import Rule, ShardingTable


class ModelNetworks:
    """Base class of `VideoModel` that makes the networks.

    Attributes:
        stages: Stages that need the weights of each component, by name; empty for arrays that are kept for conversion.
        rules: Sharding rules; every parameter must match exactly one.
        config: Config of the family.
        components: Components by name.
        networks: Network of each component, by name.
        sharding: How parameters are split over a mesh.
    """

    stages: Mapping[str, tuple[Stage, ...]]
    rules: tuple[Rule, ...] = GENERIC
    config: Any
    components: Mapping[str, Component]
    networks: Mapping[str, Network]
    sharding: ShardingTable

    def __init__(self, config: VideoConfig, policy: ComputePolicy | None = None):
        self.config = config
        self.components = {name: Component(part, self.stages[name]) for name, part in config.components().items()}
        self.networks = {name: network(part.config, policy) for name, part in self.components.items()}
        self.sharding = ShardingTable(self.rules, frozenset(self.components))

    def in_stage(self, *stages: Stage) -> tuple[str, ...]:
        """Returns the names of the components that any of these stages needs."""
        return tuple(name for name, part in self.components.items() if set(stages) & set(part.stages))

    def _apply(self, name: str, params: Params, *args: Any, **kwargs: Any) -> Any:
        """Applies the network of a component; ``params`` may hold joined weights (`VideoModel.before_steps`)."""
        variables = {"params": params[name], COLLECTION: params.get(COLLECTION, {}).get(name, {})}
        return self.networks[name].apply(variables, *args, **kwargs)
