"""Sharding rules of this package's networks, for families to combine; the engine is `smcd_jax.runtime.sharding`."""

from __future__ import annotations

from smcd_jax.runtime.sharding import Rule

_ATTENTION = r".+/(self_attention|cross_attention|(object|image)_gate/attention)"
_DENSE = "proj_in|proj_out|project_objects|project_image|skip|time|zero_conv_[0-9]+"
_CONV = "conv|conv_in|conv_out|conv_[0-9]+|hint_conv|down_[0-9]+_downsample"

# Vectors and scalars are replicated: they are 0.07 % of the published model's bytes, and gathering each would cost a
# collective of its own.
SMALL: tuple[Rule, ...] = (
    Rule("vector", r".+/(bias|scale|null_box|null_label|class_embedding)", (None,)),
    Rule("scalar", r".+/(alpha_attention|alpha_ff|beta_object|beta_image|logit_scale)", ()),
)
# Dense layers and convolutions under any name, split over ``fsdp`` but not by attention head.
GENERIC: tuple[Rule, ...] = (Rule("kernel", r".+/kernel", (..., "in", "out")), *SMALL)


def unet_rules(*components: str) -> tuple[Rule, ...]:
    """Returns the sharding rules of 3D UNets and of networks made of their blocks, except for convolutions."""
    name = f"({'|'.join(components)})"
    return (
        Rule("attention in", rf"{name}{_ATTENTION}/(query|key|value)/kernel", ("in", "heads")),
        Rule("attention out", rf"{name}{_ATTENTION}/out/kernel", ("heads", "out")),
        Rule("feed-forward in", rf"{name}/.+/ff/dense_in/kernel", ("in", "hidden")),
        Rule("feed-forward out", rf"{name}/.+/ff/dense_out/kernel", ("hidden", "out")),
        Rule("projection", rf"{name}/(.+/)?({_DENSE})/kernel", ("in", "out")),
        Rule("time embedding", rf"{name}/(time|fps)_embedding/dense_(in|out)/kernel", ("in", "out")),
    )


def convolution_rules(*components: str) -> tuple[Rule, ...]:
    """Returns the sharding rule of two-dimensional convolutions."""
    return (Rule("convolution", rf"({'|'.join(components)})/(.+/)?({_CONV})/kernel", (None, None, "in", "out")),)


def box_token_rules(component: str) -> tuple[Rule, ...]:
    """Returns the sharding rule of the position net."""
    return (Rule("position net", rf"{component}/dense_[0-9]+/kernel", ("in", "out")),)


def autoencoder_rules(component: str) -> tuple[Rule, ...]:
    """Returns the sharding rule of the KL autoencoder's dense layers."""
    layers = r"(.+/attention/(query|key|value|out)|.+_residual_[0-9]+/skip|quant|post_quant|shortcut_(in|out))"
    return (Rule("autoencoder dense", rf"{component}/{layers}/kernel", ("in", "out")),)


def video_patch_rules(vision: str) -> tuple[Rule, ...]:
    """Returns the sharding rule of a vision tower whose patches span several frames, as those of ImageBind."""
    return (
        Rule("tower patches of videos", rf"{vision}/video_patch_embedding/kernel", (None, None, None, None, "out")),
    )


def tower_rules(text: str, vision: str) -> tuple[Rule, ...]:
    """Returns the sharding rules of the CLIP towers, given the names of their components."""
    name = f"({text}|{vision})"
    return (
        # One kernel computes queries, keys and values, so its output axis cannot be split by heads.
        Rule("tower attention", rf"{name}/.+/attention/(query_key_value|out)/kernel", ("in", "out")),
        Rule("tower feed-forward in", rf"{name}/.+/dense_in/kernel", ("in", "hidden")),
        Rule("tower feed-forward out", rf"{name}/.+/dense_out/kernel", ("hidden", "out")),
        Rule("tower patches", rf"{vision}/patch_embedding/kernel", (None, None, None, "out")),
        Rule("tower embedding", rf"{name}/(token|position)_embedding", (None, "out")),
        Rule("tower projection", rf"({text}/text_projection|{vision}/projection)", ("in", "out")),
    )
