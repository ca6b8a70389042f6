"""Conversion tables of CLIP's towers, for OpenCLIP's files and for transformers' CLIPTextModel."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.models.tables.shapes import Tensors, TensorShapes
from smcd_jax.nn.config import TextEncoderConfig, VisionEncoderConfig
from smcd_jax.weights.conversion_table import CONV, LINEAR, Row, array, norm, under, weighted
from smcd_jax.weights.tensor_files import LazyTensor

# Channels per attention head of ViT-H/14, which cannot be inferred from shapes.
TEXT_HEAD_WIDTH, VISION_HEAD_WIDTH = 64, 80


def text_encoder_rows(config: TextEncoderConfig) -> list[Row]:
    """Returns the table of the text tower of ``open_clip_pytorch_model.bin``."""
    rows = array("token_embedding.weight", "token_embedding") + array("positional_embedding", "position_embedding")
    for layer in range(config.layers):
        rows += under(f"transformer.resblocks.{layer}", f"block_{layer}", _block_rows())
    rows += norm("ln_final", "norm_final")
    if config.embed_width:
        rows += array("text_projection", "text_projection") + array("logit_scale", "logit_scale")
    return rows


def vision_encoder_rows(config: VisionEncoderConfig) -> list[Row]:
    """Returns the table of the vision tower of ``open_clip_pytorch_model.bin``."""
    rows = array("class_embedding", "class_embedding") + array("positional_embedding", "position_embedding")
    rows += weighted("conv1", "patch_embedding", CONV, bias=False)
    rows += norm("ln_pre", "norm_in") + norm("ln_post", "norm_out") + array("proj", "projection")
    for layer in range(config.layers):
        rows += under(f"transformer.resblocks.{layer}", f"block_{layer}", _block_rows())
    return [Row(f"visual.{row.torch}", row.path, row.layout) for row in rows]


def split_towers(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    """Returns the tensors of the text tower and of the vision tower, without the stored attention mask."""
    vision = {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    return {name: tensor for name, tensor in tensors.items() if name not in vision and name != "attn_mask"}, vision


def text_encoder_config(tensors: Tensors, *, path: str | os.PathLike[str], skip_last: int = 1) -> TextEncoderConfig:
    """Returns the config of an OpenCLIP text tower, from the shapes of its tensors.

    Args:
        tensors: Tensors by PyTorch name.
        path: File, for error messages.
        skip_last: Number of last layers that conditioning leaves out; 0 for files without the last layer.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="OpenCLIP text tower")
    vocabulary, width = shapes["token_embedding.weight"]
    return TextEncoderConfig(
        vocabulary=vocabulary,
        length=shapes["positional_embedding"][0],
        width=width,
        heads=max(1, width // TEXT_HEAD_WIDTH),
        layers=shapes.count(r"transformer\.resblocks\.(\d+)\."),
        embed_width=shapes["text_projection"][1] if "text_projection" in shapes else 0,
        skip_last=skip_last,
    )


def vision_encoder_config(tensors: Tensors, *, path: str | os.PathLike[str]) -> VisionEncoderConfig:
    """Returns the config of an OpenCLIP vision tower, from the shapes of its tensors.

    Raises:
        SMCDError: The tensors belong to another network.
    """
    shapes = TensorShapes(tensors, path=path, network="OpenCLIP vision tower")
    width, _, patch, _ = shapes["visual.conv1.weight"]
    side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
    return VisionEncoderConfig(
        picture_size=side * patch,
        patch=patch,
        width=width,
        heads=max(1, width // VISION_HEAD_WIDTH),
        layers=shapes.count(r"visual\.transformer\.resblocks\.(\d+)\."),
        embed_width=shapes["visual.proj"][1],
    )


def openclip_names(
    tensors: Mapping[str, LazyTensor], *, path: str | os.PathLike[str] | None = None
) -> dict[str, LazyTensor]:
    """Returns the tensors of transformers' CLIPTextModel by OpenCLIP's names, with queries, keys and values joined.

    Raises:
        SMCDError: A name is not that of a tensor of a CLIP text model; `value` is the name.
    """
    renamed: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        short = name.removeprefix("text_model.")
        if short == "embeddings.position_ids":
            continue
        if found := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", short):
            layer, letter, kind = found.groups()
            if letter == "q":
                parts = [tensors[name.replace(".q_proj.", f".{other}_proj.")] for other in "qkv"]
                renamed[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = _joined(parts)
            continue
        renamed[_openclip_name(short, path)] = tensor
    return renamed


def _block_rows() -> list[Row]:
    rows = norm("ln_1", "norm_attention") + norm("ln_2", "norm_mlp")
    rows += array("attn.in_proj_weight", "attention/query_key_value/kernel", LINEAR)
    rows += array("attn.in_proj_bias", "attention/query_key_value/bias")
    rows += weighted("attn.out_proj", "attention/out", LINEAR)
    return rows + weighted("mlp.c_fc", "dense_in", LINEAR) + weighted("mlp.c_proj", "dense_out", LINEAR)


def _openclip_name(short: str, path: str | os.PathLike[str] | None) -> str:
    whole = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    if short in whole:
        return whole[short]
    parts = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", short)
    if found is None or found[2] not in parts:
        message = f"{path or 'text_encoder'}: {short} is not a tensor of a CLIP text model; check the file"
        raise SMCDError(message, path=path, value=short)
    return f"transformer.resblocks.{found[1]}.{parts[found[2]]}.{found[3]}"


def _joined(parts: list[LazyTensor]) -> LazyTensor:
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return LazyTensor(shape, lambda: np.concatenate([part.numpy() for part in parts]))
