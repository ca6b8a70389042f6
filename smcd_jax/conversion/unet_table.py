"""Names of the UNet and the ControlNet in the published weights (and, without gates, in ModelScope's)."""

from __future__ import annotations

from smcd_jax.models.smcd.config import ControlNetConfig
from smcd_jax.nn.config import Gate, UNetConfig
from smcd_jax.nn.unet_blocks import BlockPlan, decoder_plan, encoder_plan
from smcd_jax.weights.conversion_table import (
    CONV,
    LINEAR,
    POINTWISE_1D,
    POINTWISE_2D,
    TEMPORAL,
    Layout,
    Row,
    array,
    norm,
    under,
    weighted,
)


def unet_rows(config: UNetConfig) -> list[Row]:
    """Every array of the UNet."""
    rows = time_rows("time_embed", "time_embedding")
    if config.fps_embedding:
        rows += time_rows("fps_embedding", "fps_embedding")
    rows += encoder_rows(config)
    rows += under("middle_block.0", "middle/attended/residual", residual_rows(skip=False))
    rows += under("middle_block.1", "middle/attended/spatial", spatial_rows(config.gate))
    rows += under("middle_block.2", "middle/attended/temporal", transformer_rows(POINTWISE_1D))
    rows += under("middle_block.3", "middle/plain/residual", residual_rows(skip=False))
    for index, plan in enumerate(decoder_plan(config)):
        # a decoder block reads a skip connection as well, so its own skip always changes the width
        rows += block_rows(plan, f"output_blocks.{index}", f"decoder_{index}", gate=config.gate, skip=True)
    return rows + norm("out.0", "norm_out") + weighted("out.2", "conv_out", CONV)


def controlnet_rows(config: ControlNetConfig) -> list[Row]:
    """Every array of the ControlNet."""
    rows = time_rows("time_embed", "time_embedding") + encoder_rows(config.unet)
    rows += weighted("input_hint_block", "hint_conv", CONV)
    for index in range(len(encoder_plan(config.unet))):
        rows += weighted(f"zero_convs.{index}", f"zero_conv_{index}", POINTWISE_2D)
    return rows


def encoder_rows(config: UNetConfig) -> list[Row]:
    """The ``input_blocks``, which UNet and ControlNet share."""
    rows, channels = [], config.base_channels
    for index, plan in enumerate(encoder_plan(config)):
        skip = plan.channels != channels
        rows += block_rows(plan, f"input_blocks.{index}", f"encoder_{index}", gate=config.gate, skip=skip)
        channels = plan.channels
    return rows


def block_rows(plan: BlockPlan, torch: str, path: str, *, gate: Gate, skip: bool) -> list[Row]:
    """One entry of ``input_blocks`` or ``output_blocks``; its parts are numbered in the order of use."""
    if plan.kind == "stem":
        stem = weighted("0", "conv", CONV) + under("1", "temporal", transformer_rows(POINTWISE_1D))
        return under(torch, path, stem)
    if plan.kind == "downsample":
        return weighted(f"{torch}.op", f"{path}/downsample/conv", CONV)
    rows = under("0", "residual", residual_rows(skip=skip))
    if plan.attention:
        rows += under("1", "spatial", spatial_rows(gate))
        rows += under("2", "temporal", transformer_rows(POINTWISE_1D))
    if plan.upsample:
        rows += weighted(f"{3 if plan.attention else 1}.conv", "upsample/conv", CONV)
    return under(torch, path, rows)


def time_rows(torch: str, path: str) -> list[Row]:
    """The embedding of time or of frames per second."""
    return weighted(f"{torch}.0", f"{path}/dense_in", LINEAR) + weighted(f"{torch}.2", f"{path}/dense_out", LINEAR)


def residual_rows(*, skip: bool) -> list[Row]:
    """A residual block; the published weights spell its temporal part ``temopral_conv``."""
    rows = norm("in_layers.0", "norm_in") + weighted("in_layers.2", "conv_in", CONV)
    rows += weighted("emb_layers.1", "time", LINEAR)
    rows += norm("out_layers.0", "norm_out") + weighted("out_layers.3", "conv_out", CONV)
    rows += weighted("skip_connection", "skip", POINTWISE_2D) if skip else []
    return rows + under("temopral_conv", "temporal_conv", temporal_conv_rows())


def temporal_conv_rows() -> list[Row]:
    """Four times norm, (dropout,) convolution; the first has no dropout, so its convolution has another number."""
    rows = []
    for index in range(4):
        rows += norm(f"conv{index + 1}.0", f"norm_{index}")
        rows += weighted(f"conv{index + 1}.{3 if index else 2}", f"conv_{index}/conv", TEMPORAL)
    return rows


def spatial_rows(gate: Gate) -> list[Row]:
    """A spatial transformer with its gates."""
    gates = under("transformer_blocks.0.gate_attn", "block/gates", gate_rows(gate))
    return transformer_rows(LINEAR) + gates


def transformer_rows(projection: Layout) -> list[Row]:
    """A transformer without gates; its projections are linear layers or convolutions of width 1."""
    block = under("attn1", "self_attention", attention_rows()) + under("attn2", "cross_attention", attention_rows())
    block += under("ff", "ff", feed_forward_rows())
    block += norm("norm1", "norm_self") + norm("norm2", "norm_cross") + norm("norm3", "norm_ff")
    rows = norm("norm", "norm") + weighted("proj_in", "proj_in", projection)
    return rows + under("transformer_blocks.0", "block", block) + weighted("proj_out", "proj_out", projection)


def gate_rows(gate: Gate) -> list[Row]:
    """The gates of one spatial block."""
    if gate == "none":
        return []
    rows = weighted("linear", "project_objects", LINEAR) + under_gate("", "object_gate")
    if gate in ("object_image", "parallel"):
        rows += weighted("v_linear", "project_image", LINEAR) + under_gate("cross_", "image_gate")
    if gate == "double":
        rows += weighted("visual_linear", "project_image", LINEAR) + under_gate("visual_", "image_gate")
    if gate == "merge":
        rows += weighted("v_linear", "project_image", LINEAR)
    if gate in ("parallel", "double"):
        rows += array("beta_g", "beta_object") + array("beta_v", "beta_image")
    return rows


def under_gate(prefix: str, path: str) -> list[Row]:
    """One gate, whose PyTorch names share a prefix."""
    rows = array(f"{prefix}alpha_attn", f"{path}/alpha_attention") + array(f"{prefix}alpha_dense", f"{path}/alpha_ff")
    rows += under(f"{prefix}attn", f"{path}/attention", attention_rows())
    rows += under(f"{prefix}ff", f"{path}/ff", feed_forward_rows())
    return rows + norm(f"{prefix}norm1", f"{path}/norm_attention") + norm(f"{prefix}norm2", f"{path}/norm_ff")


def attention_rows() -> list[Row]:
    """Queries, keys and values without bias."""
    rows = []
    for torch, path in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
        rows += weighted(torch, path, LINEAR, bias=False)
    return rows + weighted("to_out.0", "out", LINEAR)


def feed_forward_rows() -> list[Row]:
    """The GEGLU block."""
    return weighted("net.0.proj", "dense_in", LINEAR) + weighted("net.2", "dense_out", LINEAR)
