"""Sharding rules of the family's parameters."""

from __future__ import annotations

from smcd_jax.models.lvmm.sharding import motion_unet_rules
from smcd_jax.nn.sharding_rules import SMALL, autoencoder_rules, convolution_rules, tower_rules
from smcd_jax.runtime.sharding import Rule

_WITH_BATCH_NORM = ("pair_motion", "region_motion", "renderer")
_CONVOLUTIONS = "conv|conv_[0-9]+|out|final|mask|occlusion|regions|jacobian"

RULES: tuple[Rule, ...] = (
    *motion_unet_rules("unet"),
    Rule(
        "motion convolution",
        rf"({'|'.join(_WITH_BATCH_NORM)})/(.+/)?({_CONVOLUTIONS})/kernel",
        (None, None, "in", "out"),
    ),
    Rule("statistics", rf"({'|'.join(_WITH_BATCH_NORM)})/.+/(mean|variance)", (None,)),
    Rule("background matrix", r"region_motion/.+/fc/kernel", ("in", "out")),
    Rule("appearance", r"appearance/project/kernel", ("in", "out")),
    *convolution_rules("motion_vae"),
    *autoencoder_rules("motion_vae"),
    *tower_rules("text_encoder", "vision_encoder"),
    *SMALL,
)
