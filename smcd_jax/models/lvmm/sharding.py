"""Sharding rules of the parameters of the motion UNet and of the flow autoencoder."""

from __future__ import annotations

from smcd_jax.nn.sharding_rules import convolution_rules
from smcd_jax.runtime.sharding import Rule


def motion_unet_rules(component: str) -> tuple[Rule, ...]:
    """Returns the rules of the motion UNet; vectors match `smcd_jax.nn.sharding_rules.SMALL`."""
    return (
        # One kernel computes keys and values, and queries too if fused, so its output axis cannot be split by heads.
        Rule(
            "motion attention",
            rf"{component}/(.+/)?[a-z]+_attention/(query|key_value|query_key_value|out)/kernel",
            ("in", "out"),
        ),
        Rule("motion projection", rf"{component}/.+/(skip|time)/kernel", ("in", "out")),
        Rule("motion head", rf"{component}/(grid|confidence)_head/out/kernel", ("in", "out")),
        Rule("motion embedding", rf"{component}/(time|index)_embedding/dense_(in|out)/kernel", ("in", "out")),
        Rule("motion upsampling", rf"{component}/.+/deconv/kernel", (None, None, "out", "in")),
        Rule("motion table", rf"{component}/(relative_bias|null_condition)", (None, None)),
        *convolution_rules(component),
    )


def flow_autoencoder_rules(*components: str) -> tuple[Rule, ...]:
    """Returns the rules of predictors and renderer; other vectors match `smcd_jax.nn.sharding_rules.SMALL`."""
    name = f"({'|'.join(components)})"
    return (
        Rule(
            "flow autoencoder",
            rf"{name}/(.+/)?(conv|conv_[0-9]+|final|mask|occlusion|regions|jacobian)/kernel",
            (None, None, "in", "out"),
        ),
        Rule("background matrix", rf"{name}/fc/kernel", ("in", "out")),
        Rule("running statistics", rf"{name}/.+/(mean|variance)", (None,)),
    )
