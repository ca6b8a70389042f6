"""Networks by their config class, and their parameters: shapes, initialisation, and leaves by path."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from smcd_jax.nn.autoencoder_kl import AutoencoderKL
from smcd_jax.nn.box_tokens import PositionNet
from smcd_jax.nn.clip_towers import TextEncoder, VisionEncoder
from smcd_jax.nn.config import (
    AutoencoderConfig,
    DINOConfig,
    PositionNetConfig,
    TextEncoderConfig,
    VisionEncoderConfig,
)
from smcd_jax.nn.dino import DINO
from smcd_jax.nn.i3d import I3D, I3DConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.vgg19 import VGG19, VGG19Config

Params = dict[str, Any]
Network = nn.Module  # an alias, so that only nn/ and models/ import flax.linen
_INITIALISED_TOGETHER = 64  # number of parameters that one traced program initialises

_NETWORKS: dict[type, type[nn.Module]] = {
    PositionNetConfig: PositionNet,
    AutoencoderConfig: AutoencoderKL,
    TextEncoderConfig: TextEncoder,
    VisionEncoderConfig: VisionEncoder,
    DINOConfig: DINO,
    I3DConfig: I3D,
    VGG19Config: VGG19,
}


def register_network(config_class: type, module_class: type[nn.Module]) -> None:
    """Makes `network` build ``module_class`` for configs of ``config_class``.

    The module takes ``(config, policy)`` and has a method ``dummy_call`` that runs it on the smallest input that it
    accepts, so that every parameter is created.
    """
    _NETWORKS[config_class] = module_class


def network(config: Any, policy: ComputePolicy | None = None) -> nn.Module:
    """Returns the network of a component config."""
    policy, inner = policy or ComputePolicy(), getattr(config, "unet", config)
    return _NETWORKS[type(config)](config, dataclasses.replace(policy, groups=getattr(inner, "groups", policy.groups)))


def init_params(
    config: Any, key: jax.Array, policy: ComputePolicy | None = None, *, only: Collection[str] | None = None
) -> Params:
    """Returns parameters from scratch: gates and layers published as zero-initialised are zero, the rest LeCun normal.

    With ``only``, returns only the parameters at these paths, with the same values as without it.
    """
    return unflatten(dict(init_leaves(config, key, policy, only=only)))


def init_leaves(
    config: Any, key: jax.Array, policy: ComputePolicy | None = None, *, only: Collection[str] | None = None
) -> Iterator[tuple[str, jax.Array]]:
    """Yields the parameters of `init_params` by path, a few at a time, so that the device never holds a large network.

    Only the initialisers run, leaf by leaf: the network's own computation is cut out of the traced program first, and
    compiling all initialisers as one program would take several times as long as running them one by one.
    """
    module = network(config, policy)
    traced, shapes = jax.make_jaxpr(lambda key: module.init(key, method="dummy_call")["params"], return_shape=True)(key)
    numbered = flatten(jax.tree.unflatten(jax.tree.structure(shapes), range(len(traced.jaxpr.outvars))))
    paths = sorted(numbered, key=numbered.__getitem__)
    wanted = [path for path in paths if only is None or path in only]
    for start in range(0, len(wanted), _INITIALISED_TOGETHER):
        some = wanted[start : start + _INITIALISED_TOGETHER]
        initialisers, _ = dce_jaxpr(traced.jaxpr, [path in some for path in paths], instantiate=True)
        yield from zip(some, jaxpr_as_fun(ClosedJaxpr(initialisers, traced.consts))(key), strict=True)


def abstract_params(config: Any, policy: ComputePolicy | None = None) -> Params:
    """Returns shapes and dtypes of the parameters, without computing any."""
    return unflatten(dict(_abstract_leaves(config, policy)))


@functools.lru_cache(maxsize=32)  # tracing the full-size UNet takes seconds
def _abstract_leaves(config: Any, policy: ComputePolicy | None) -> dict[str, jax.ShapeDtypeStruct]:
    module = network(config, policy)
    return flatten(jax.eval_shape(lambda: module.init(jax.random.key(0), method="dummy_call")["params"]))


def flatten(params: Params) -> dict[str, Any]:
    """Returns the leaves by path, such as "encoder_0/conv/kernel"."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(leaves: dict[str, Any]) -> Params:
    """Inverts `flatten`."""
    return flax.traverse_util.unflatten_dict(leaves, sep="/")
