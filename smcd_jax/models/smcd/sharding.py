"""How SMCD's parameters are split over a mesh."""

from __future__ import annotations

from smcd_jax.nn.sharding_rules import (
    SMALL,
    autoencoder_rules,
    box_token_rules,
    convolution_rules,
    tower_rules,
    unet_rules,
)
from smcd_jax.runtime.sharding import Rule

RULES: tuple[Rule, ...] = (
    *unet_rules("unet", "controlnet"),
    *convolution_rules("unet", "controlnet", "image_encoder", "autoencoder"),
    *box_token_rules("position_net"),
    *autoencoder_rules("autoencoder"),
    *tower_rules("text_encoder", "vision_encoder"),
    *SMALL,
)
