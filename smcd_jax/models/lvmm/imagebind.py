"""Tokens of pictures and texts, computed as in ImageBind (Girdhar et al. 2023, arXiv 2305.05665).

ImageBind's weights are licensed for non-commercial use only.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from smcd_jax.nn.config import TextEncoderConfig, VisionEncoderConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import network

MAX_SCALE = 100.0  # largest length of text tokens


def image_token(
    params: Any, picture: Float[Array, "b h w 3"], config: VisionEncoderConfig, policy: ComputePolicy
) -> Float[Array, "b d"]:
    """Returns one token of length 1 per picture.

    Args:
        params: Parameters of the image tower.
        picture: Pictures of the size of the config, normalised with CLIP's mean and deviation.
        config: Config of the image tower.
        policy: Compute policy.
    """
    return _normalised(network(config, policy).apply({"params": params}, picture))


def text_token(
    params: Any, ids: Int[Array, "b l"], config: TextEncoderConfig, policy: ComputePolicy
) -> Float[Array, "b d"]:
    """Returns one token per text, whose length is the learned scale, at most `MAX_SCALE`.

    Args:
        params: Parameters of the text tower.
        ids: Ids of CLIP's tokenizer, with an end-of-text token in each row.
        config: Config of the text tower.
        policy: Compute policy.
    """
    pooled = network(config, policy).apply({"params": params}, ids, method="pooled")
    return _normalised(pooled) * jnp.minimum(jnp.exp(params["logit_scale"].astype(jnp.float32)), MAX_SCALE)


def _normalised(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
