"""How DynamiCrafter's parameters are split over a mesh."""

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
    *unet_rules("unet"),
    Rule("image attention in", r"unet/.+/cross_attention/image_(key|value)/kernel", ("in", "heads")),
    Rule("image attention scale", r"unet/.+/cross_attention/alpha_image", ()),
    *convolution_rules("unet", "autoencoder"),
    # Keys and values are fused, and heads do not fill the width, so the layer is not split by heads.
    Rule("resampler attention", r"resampler/attention_[0-9]+/(query|key_value|out)/kernel", ("in", "out")),
    Rule("resampler feed-forward in", r"resampler/dense_in_[0-9]+/kernel", ("in", "hidden")),
    Rule("resampler feed-forward out", r"resampler/dense_out_[0-9]+/kernel", ("hidden", "out")),
    Rule("resampler projection", r"resampler/proj_(in|out)/kernel", ("in", "out")),
    Rule("resampler queries", r"resampler/latents", (None, None, "out")),
    *box_token_rules("position_net"),
    *autoencoder_rules("autoencoder"),
    *tower_rules("text_encoder", "image_tower"),
    *SMALL,
)
