"""Sharding rules of the motion UNet, of the flow autoencoder, and of LVMM."""

from __future__ import annotations

from smcd_jax.nn.sharding_rules import SMALL, autoencoder_rules, convolution_rules, tower_rules
from smcd_jax.runtime.sharding import Rule


def motion_unet_rules(component: str) -> tuple[Rule, ...]:
    """Returns the rules of the motion UNet; vectors match `smcd_jax.nn.sharding_rules.SMALL`."""
    return (
        # One kernel computes keys and values, and queries too if fused, so attention cannot be split by heads.
        Rule("motion kernel", rf"{component}/(.+/)?(?!deconv/)[^/]+/kernel", (..., "in", "out")),
        Rule("motion upsampling", rf"{component}/.+/deconv/kernel", (None, None, "out", "in")),
        Rule("motion table", rf"{component}/(relative_bias|null_condition)", (None, None)),
    )


def flow_autoencoder_rules(*components: str) -> tuple[Rule, ...]:
    """Returns the rules of predictors and renderer; other vectors match `smcd_jax.nn.sharding_rules.SMALL`."""
    name = f"({'|'.join(components)})"
    return (
        Rule("flow autoencoder", rf"{name}/.+/kernel", (..., "in", "out")),
        Rule("running statistics", rf"{name}/.+/(mean|variance)", (None,)),
    )


RULES: tuple[Rule, ...] = (
    *motion_unet_rules("unet"),
    *flow_autoencoder_rules("pair_motion", "region_motion", "renderer", "appearance"),
    *convolution_rules("motion_vae"),
    *autoencoder_rules("motion_vae"),
    *tower_rules("text_encoder", "vision_encoder"),
    *SMALL,
)
