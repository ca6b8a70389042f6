"""Which network belongs to which component of a model folder, and the shapes of its parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax

from smcd_jax.models.autoencoder_kl import AutoencoderKL
from smcd_jax.models.clip import TextEncoder, VisionEncoder
from smcd_jax.models.config import (
    AutoencoderConfig,
    ControlNetConfig,
    ImageEncoderConfig,
    PositionNetConfig,
    TextEncoderConfig,
    UNetConfig,
    VisionEncoderConfig,
)
from smcd_jax.models.controlnet import ControlNet
from smcd_jax.models.image_encoder import ImageEncoder
from smcd_jax.models.layers import ComputePolicy
from smcd_jax.models.position_net import PositionNet
from smcd_jax.models.unet3d import UNet3D

# Each network has a method ``touch`` that calls it on the smallest input it takes, so that every parameter comes into being.
Params = dict[str, Any]

_NETWORKS: dict[type, type[nn.Module]] = {
    UNetConfig: UNet3D,
    ControlNetConfig: ControlNet,
    PositionNetConfig: PositionNet,
    ImageEncoderConfig: ImageEncoder,
    AutoencoderConfig: AutoencoderKL,
    TextEncoderConfig: TextEncoder,
    VisionEncoderConfig: VisionEncoder,
}


def network(config: Any, policy: ComputePolicy | None = None) -> nn.Module:
    """The network of a component config."""
    return _NETWORKS[type(config)](config, policy or ComputePolicy())


def init_params(config: Any, key: jax.Array, policy: ComputePolicy | None = None) -> Params:
    """Parameters from scratch: published zero-initialised layers are zero, gates are shut, the rest is LeCun normal."""
    return network(config, policy).init(key, method="touch")["params"]


def abstract_params(config: Any, policy: ComputePolicy | None = None) -> Params:
    """Shapes and dtypes of the parameters, without computing any."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0), policy))


def flatten(params: Params) -> dict[str, Any]:
    """Leaves by path, "encoder_0/conv/kernel"."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def unflatten(leaves: dict[str, Any]) -> Params:
    """The inverse of `flatten`."""
    return flax.traverse_util.unflatten_dict(leaves, sep="/")
