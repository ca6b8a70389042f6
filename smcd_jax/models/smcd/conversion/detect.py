"""Configs of SMCD's networks, from the names and shapes of published tensors."""

from __future__ import annotations

import os
import re
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.models.smcd.config import ControlNetConfig, ImageEncoderConfig
from smcd_jax.models.tables.shapes import Tensors, TensorShapes
from smcd_jax.nn.config import Gate, UNetConfig

HEAD_WIDTH = 64  # channels per attention head of the published UNet; cannot be inferred from shapes
_MIDDLE = "middle_block.1.transformer_blocks.0"


def unet_config(tensors: Tensors, *, path: str | os.PathLike[str], head_width: int = HEAD_WIDTH) -> UNetConfig:
    """Returns the config of a UNet.

    Args:
        tensors: Tensors by PyTorch name.
        path: File, for error messages.
        head_width: Channels per attention head.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="UNet of this family")
    latent, inputs = shapes["out.2.weight"][0], shapes["input_blocks.0.0.weight"][1]
    if inputs not in (latent, 2 * latent):
        message = f"{path}: the first convolution must have {latent} or {2 * latent} input channels, got {inputs}"
        raise SMCDError(message, path=path, value=inputs)
    gate, levels = _gate(shapes), _levels(shapes)
    widths = {"object_width": _gate_width(shapes, "linear")} if gate != "none" else {}
    if gate in ("object_image", "parallel", "merge", "double"):
        widths["image_width"] = _gate_width(shapes, "visual_linear" if gate == "double" else "v_linear")
    return UNetConfig(
        latent_channels=latent,
        context_dim=shapes[f"{_MIDDLE}.attn2.to_k.weight"][1],
        gate=gate,
        image_latent=inputs == 2 * latent,
        fps_embedding="fps_embedding.0.weight" in shapes,
        control=shapes["output_blocks.0.0.in_layers.0.weight"][0] == 3 * levels[-1]["channels"],
        **widths,
        **_encoder_sizes(shapes, levels, head_width),
    )


def controlnet_config(
    tensors: Tensors, *, path: str | os.PathLike[str], head_width: int = HEAD_WIDTH
) -> ControlNetConfig:
    """Returns the config of a ControlNet; arguments and errors are those of `unet_config`."""
    shapes = TensorShapes(tensors, path=path, network="ControlNet of this family")
    context = re.compile(r"input_blocks\.[1-9]\d*\.1\.transformer_blocks\.0\.attn2\.to_k\.weight")  # 0 is temporal
    text_widths = [shapes[name][1] for name in tensors if context.fullmatch(name)]
    unet = UNetConfig(
        latent_channels=shapes["input_blocks.0.0.weight"][1],
        context_dim=text_widths[0] if text_widths else 1024,
        **_encoder_sizes(shapes, _levels(shapes), head_width),
    )
    return ControlNetConfig(unet)


def is_controlnet(tensors: Tensors) -> bool:
    """Returns whether ``pytorch_model_2.bin`` has the tensors of a ControlNet, not of an image encoder."""
    return any(name.startswith("zero_convs.") for name in tensors)


def image_encoder_config(tensors: Tensors, *, path: str | os.PathLike[str]) -> ImageEncoderConfig:
    """Returns the config of an image encoder.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="image encoder")
    count = shapes.count(r"body\.(\d+)\.")
    per_stage = next((block for block in range(count) if f"body.{block}.down_opt.op.weight" in shapes), count)
    return ImageEncoderConfig(
        latent_channels=shapes["conv_in.weight"][1],
        stages=tuple(shapes[f"body.{block}.in_conv.weight"][0] for block in range(0, count, max(per_stage, 1))),
        num_res_blocks=per_stage,
    )


def _encoder_sizes(shapes: TensorShapes, levels: list[dict[str, int]], head_width: int) -> dict[str, Any]:
    """Returns the fields of `UNetConfig` that the encoder alone determines."""
    width = shapes["time_embed.0.weight"][1]
    return {
        "base_channels": width,
        "channel_mult": tuple(level["channels"] // width for level in levels),
        "num_res_blocks": levels[0]["blocks"],
        "attention_scales": tuple(0.5**index for index, level in enumerate(levels) if level["attention"]),
        "head_dim": head_width,
        "stem_heads": shapes["input_blocks.0.1.proj_in.weight"][0] // head_width,
    }


def _levels(shapes: TensorShapes) -> list[dict[str, int]]:
    """Returns channels, residual blocks and attention of each level of the encoder, from ``input_blocks`` in order."""
    levels = [{"channels": 0, "blocks": 0, "attention": 0}]
    for index in range(1, shapes.count(r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.op.weight" in shapes:
            levels.append({"channels": 0, "blocks": 0, "attention": 0})
            continue
        levels[-1]["channels"] = shapes[f"input_blocks.{index}.0.out_layers.3.weight"][0]
        levels[-1]["attention"] = int(f"input_blocks.{index}.1.norm.weight" in shapes)
        levels[-1]["blocks"] += 1
    return levels


def _gate(shapes: TensorShapes) -> Gate:
    present = {name for name in _GATE_NAMES if f"{_MIDDLE}.gate_attn.{name}" in shapes}
    if "alpha_attn" not in present:
        return "none"
    if "visual_alpha_attn" in present:
        return "double"
    if "cross_alpha_attn" in present:
        return "parallel" if "beta_g" in present else "object_image"
    return "merge" if "v_linear.weight" in present else "object"


_GATE_NAMES = ("alpha_attn", "visual_alpha_attn", "cross_alpha_attn", "beta_g", "v_linear.weight")


def _gate_width(shapes: TensorShapes, projection: str) -> int:
    return shapes[f"{_MIDDLE}.gate_attn.{projection}.weight"][1]
