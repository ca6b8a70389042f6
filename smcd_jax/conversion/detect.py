"""Which network a set of PyTorch weights belongs to, and of which size, read off names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from smcd_jax.errors import SMCDError
from smcd_jax.models.smcd.config import ControlNetConfig, ImageEncoderConfig
from smcd_jax.nn.config import (
    AutoencoderConfig,
    Gate,
    PositionNetConfig,
    TextEncoderConfig,
    UNetConfig,
    VisionEncoderConfig,
)
from smcd_jax.weights.conversion_engine import Shaped

Tensors = Mapping[str, Shaped]
HEAD_WIDTH = 64  # of the published UNet; names and shapes do not tell
TEXT_HEAD_WIDTH, VISION_HEAD_WIDTH = 64, 80  # of ViT-H/14
MIDDLE = "middle_block.1.transformer_blocks.0"


def unet_config(tensors: Tensors, *, where: str, head_width: int = HEAD_WIDTH) -> UNetConfig:
    """The config of a UNet.

    Args:
        tensors: by PyTorch name.
        where: file, for the message.
        head_width: width of one attention head.
    """
    need = _needed(tensors, f"{where} holds no UNet of this family")
    latent, width = need("out.2.weight")[0], need("time_embed.0.weight")[1]
    inputs = need("input_blocks.0.0.weight")[1]
    if inputs not in (latent, 2 * latent):
        raise SMCDError(f"{where}: the first convolution reads {inputs} channels; {latent} or {2 * latent} are known")
    levels = _levels(tensors)
    gate = _gate(tensors)
    gates = lambda name: need(f"{MIDDLE}.gate_attn.{name}.weight")[1]  # noqa: E731
    widths = {"object_width": gates("linear")} if gate != "none" else {}
    if gate in ("object_image", "parallel", "merge"):
        widths["image_width"] = gates("v_linear")
    if gate == "double":
        widths["image_width"] = gates("visual_linear")
    return UNetConfig(
        latent_channels=latent,
        base_channels=width,
        channel_mult=tuple(level["channels"] // width for level in levels),
        num_res_blocks=levels[0]["blocks"],
        attention_scales=tuple(0.5**index for index, level in enumerate(levels) if level["attention"]),
        head_dim=head_width,
        stem_heads=need("input_blocks.0.1.proj_in.weight")[0] // head_width,
        context_dim=need(f"{MIDDLE}.attn2.to_k.weight")[1],
        gate=gate,
        image_latent=inputs == 2 * latent,
        fps_embedding="fps_embedding.0.weight" in tensors,
        control=need("output_blocks.0.0.in_layers.0.weight")[0] == 3 * levels[-1]["channels"],
        **widths,
    )


def controlnet_config(tensors: Tensors, *, where: str, head_width: int = HEAD_WIDTH) -> ControlNetConfig:
    """The config of a ControlNet."""
    need = _needed(tensors, f"{where} holds no ControlNet of this family")
    levels, width = _levels(tensors), need("time_embed.0.weight")[1]
    contexts = [
        name
        for name in tensors
        if re.fullmatch(r"input_blocks\.\d+\.1\.transformer_blocks\.0\.attn2\.to_k\.weight", name)
    ]
    text = [tensors[name].shape for name in contexts if not name.startswith("input_blocks.0.")]
    unet = UNetConfig(
        latent_channels=need("input_blocks.0.0.weight")[1],
        base_channels=width,
        channel_mult=tuple(level["channels"] // width for level in levels),
        num_res_blocks=levels[0]["blocks"],
        attention_scales=tuple(0.5**index for index, level in enumerate(levels) if level["attention"]),
        head_dim=head_width,
        stem_heads=need("input_blocks.0.1.proj_in.weight")[0] // head_width,
        context_dim=text[0][1] if text else 1024,
    )
    return ControlNetConfig(unet)


def is_controlnet(tensors: Tensors) -> bool:
    """Whether a ``pytorch_model_2.bin`` holds a ControlNet; else it holds an image encoder."""
    return any(name.startswith("zero_convs.") for name in tensors)


def position_net_config(tensors: Tensors, *, where: str) -> PositionNetConfig:
    """The config of a position net."""
    need = _needed(tensors, f"{where} holds no position net")
    return PositionNetConfig(
        label_width=need("null_positive_feature")[0],
        token_width=need("linears.4.weight")[0],
        hidden_width=need("linears.0.weight")[0],
        frequencies=need("null_position_feature")[0] // 8,
    )


def image_encoder_config(tensors: Tensors, *, where: str) -> ImageEncoderConfig:
    """The config of an image encoder."""
    need = _needed(tensors, f"{where} holds no image encoder")
    count = _count(tensors, r"body\.(\d+)\.")
    first = [block for block in range(count) if f"body.{block}.down_opt.op.weight" in tensors] or [count]
    return ImageEncoderConfig(
        latent_channels=need("conv_in.weight")[1],
        stages=tuple(need(f"body.{block}.in_conv.weight")[0] for block in range(0, count, first[0])),
        num_res_blocks=first[0],
    )


def autoencoder_config(tensors: Tensors, *, where: str) -> AutoencoderConfig:
    """The config of a KL autoencoder (without the prefix of the published file)."""
    need = _needed(tensors, f"{where} holds no KL autoencoder")
    width, levels = need("encoder.conv_in.weight")[0], _count(tensors, r"encoder\.down\.(\d+)\.")
    outs = [need(f"encoder.down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    return AutoencoderConfig(
        base_channels=width,
        channel_mult=tuple(out // width for out in outs),
        num_res_blocks=_count(tensors, r"encoder\.down\.0\.block\.(\d+)\."),
        latent_channels=need("post_quant_conv.weight")[0],
        picture_channels=need("encoder.conv_in.weight")[1],
    )


def text_encoder_config(tensors: Tensors, *, where: str, skip_last: int = 1) -> TextEncoderConfig:
    """The config of an OpenCLIP text tower.

    Args:
        tensors: by PyTorch name.
        where: file, for the message.
        skip_last: layers that conditioning leaves out; 0 for files that lack the last layer already.
    """
    need = _needed(tensors, f"{where} holds no OpenCLIP text tower")
    vocabulary, width = need("token_embedding.weight")
    return TextEncoderConfig(
        vocabulary=vocabulary,
        length=need("positional_embedding")[0],
        width=width,
        heads=max(1, width // TEXT_HEAD_WIDTH),
        layers=_count(tensors, r"transformer\.resblocks\.(\d+)\."),
        embed_width=tensors["text_projection"].shape[1] if "text_projection" in tensors else 0,
        skip_last=skip_last,
    )


def vision_encoder_config(tensors: Tensors, *, where: str) -> VisionEncoderConfig:
    """The config of an OpenCLIP vision tower."""
    need = _needed(tensors, f"{where} holds no OpenCLIP vision tower")
    width, _, patch, _ = need("visual.conv1.weight")
    side = round((need("visual.positional_embedding")[0] - 1) ** 0.5)
    return VisionEncoderConfig(
        picture_size=side * patch,
        patch=patch,
        width=width,
        heads=max(1, width // VISION_HEAD_WIDTH),
        layers=_count(tensors, r"visual\.transformer\.resblocks\.(\d+)\."),
        embed_width=need("visual.proj")[1],
    )


def _levels(tensors: Tensors) -> list[dict[str, int]]:
    """Channels, residual blocks and attention of each encoder level, by walking ``input_blocks``."""
    levels = [{"channels": 0, "blocks": 0, "attention": 0}]
    for index in range(1, _count(tensors, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{index}.op.weight" in tensors:
            levels.append({"channels": 0, "blocks": 0, "attention": 0})
            continue
        levels[-1]["channels"] = tensors[f"input_blocks.{index}.0.out_layers.3.weight"].shape[0]
        levels[-1]["attention"] = int(f"input_blocks.{index}.1.norm.weight" in tensors)
        levels[-1]["blocks"] += 1
    return levels


def _gate(tensors: Tensors) -> Gate:
    has = lambda name: f"{MIDDLE}.gate_attn.{name}" in tensors  # noqa: E731
    if not has("alpha_attn"):
        return "none"
    if has("visual_alpha_attn"):
        return "double"
    if has("cross_alpha_attn"):
        return "parallel" if has("beta_g") else "object_image"
    return "merge" if has("v_linear.weight") else "object"


def _count(tensors: Tensors, pattern: str) -> int:
    numbers = {int(found[1]) for name in tensors if (found := re.match(pattern, name))}
    return max(numbers, default=-1) + 1


def _needed(tensors: Tensors, complaint: str):
    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise SMCDError(f"{complaint}: {name} is missing. Is this the right file, and is it whole?")
        return tuple(tensors[name].shape)

    return shape
