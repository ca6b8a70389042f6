"""The official PyTorch networks of SMCD by class name, for a side-by-side comparison on small inputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.models.conversion import ReferenceNetwork
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.models.smcd.conversion.table import unet_rows
from smcd_jax.models.tables.autoencoder_kl import autoencoder_rows
from smcd_jax.nn.config import AutoencoderConfig, UNetConfig
from smcd_jax.nn.networks import network

_FRAMES, _SIDE, _OBJECTS, _TOKENS, _TEXT = 2, 8, 2, 4, 7
_GATES = {
    "object": "vanilla",
    "object_image": "vanilla_cross_vision",
    "parallel": "vanilla_cross_vision_parallel",
    "double": "double",
    "merge": "merge",
}


def reference_networks(config: ModelConfig) -> list[ReferenceNetwork]:
    """Returns the decoder of the autoencoder and the UNet, with inputs drawn with a fixed seed."""
    found = [_autoencoder(config.autoencoder)] if config.autoencoder else []
    if config.unet.control or config.unet.fps_embedding:
        return found
    return [*found, _unet(config.unet)]


def _autoencoder(config: AutoencoderConfig) -> ReferenceNetwork:
    z = np.random.default_rng(0).standard_normal((1, config.latent_channels, _SIDE, _SIDE)).astype(np.float32)

    def ours(params: Any) -> np.ndarray:
        decode = jax.jit(lambda params, z: network(config).apply({"params": params}, z, method="decode_unscaled"))
        return _channels_first(decode(params, _channels_last(z)))

    sizes = {"ch": config.base_channels, "ch_mult": list(config.channel_mult), "out_ch": config.picture_channels}
    sizes |= {"in_channels": config.picture_channels, "z_channels": config.latent_channels, "double_z": True}
    sizes |= {"num_res_blocks": config.num_res_blocks, "attn_resolutions": [], "dropout": 0.0, "resolution": 256}
    return ReferenceNetwork(
        component="autoencoder",
        class_name="AutoencoderKL",
        arguments={"ddconfig": sizes, "embed_dim": config.latent_channels},
        method="decode",
        inputs={"z": z},
        rows=autoencoder_rows(config),
        ours=ours,
    )


def _unet(config: UNetConfig) -> ReferenceNetwork:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    inputs: dict[str, np.ndarray] = {
        "x": normal(1, config.input_channels, _FRAMES, _SIDE, _SIDE),
        "t": np.array([500]),
        "y": normal(1, _TEXT, config.context_dim),
    }
    if config.uses_objects:
        inputs["grounding_context"] = normal(_FRAMES, _OBJECTS, config.object_width)
        inputs["grounding_masks"] = np.ones((_FRAMES, _OBJECTS), np.float32)
    if config.uses_image_tokens:
        inputs["visual_feat"] = normal(_FRAMES, _TOKENS, config.image_width)

    def ours(params: Any) -> np.ndarray:
        names = {"grounding_context": "objects", "grounding_masks": "object_mask", "visual_feat": "image_tokens"}
        given = {names[name]: jnp.asarray(inputs[name])[None] for name in names if name in inputs}
        module = network(config)

        @jax.jit
        def forward(params: Any, x: jax.Array, t: jax.Array, y: jax.Array, given: dict[str, jax.Array]) -> jax.Array:
            context = module.apply({"params": params}, y, method="keys_values", **given)
            return module.apply({"params": params}, x, t, context)

        t = jnp.asarray(inputs["t"], jnp.float32)
        return _channels_first(forward(params, _channels_last(inputs["x"]), t, jnp.asarray(inputs["y"]), given))

    gate = _GATES.get(config.gate)
    return ReferenceNetwork(
        component="unet",
        class_name="UNetSD",
        arguments={
            "in_dim": config.latent_channels,
            "dim": config.base_channels,
            "context_dim": config.context_dim,
            "out_dim": config.latent_channels,
            "dim_mult": list(config.channel_mult),
            "num_heads": config.stem_heads,
            "head_dim": config.head_dim,
            "num_res_blocks": config.num_res_blocks,
            "attn_scales": list(config.attention_scales),
            "temporal_attention": True,
            **({"use_gate_self_attn": gate} if gate else {}),
            **({"cat_init": True} if config.image_latent else {}),
        },
        method="forward",
        inputs=inputs,
        rows=unet_rows(config),
        ours=ours,
    )


def _channels_last(values: np.ndarray) -> jax.Array:
    return jnp.asarray(np.moveaxis(values, 1, -1))


def _channels_first(values: Any) -> np.ndarray:
    return np.moveaxis(np.asarray(values), -1, 1)
