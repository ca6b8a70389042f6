"""Feature networks of evaluation and of losses, from the files in which they are usually published."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.conversion.dino_table import dino_config, dino_rows
from smcd_jax.conversion.i3d_table import i3d_rows, without_counters
from smcd_jax.conversion.vgg19_table import vgg19_rows
from smcd_jax.errors import SMCDError
from smcd_jax.models.tables import clip_towers
from smcd_jax.nn.i3d import I3DConfig
from smcd_jax.nn.networks import Params, abstract_params, flatten, unflatten
from smcd_jax.nn.vgg19 import VGG19Config
from smcd_jax.weights.conversion_engine import match, to_flax
from smcd_jax.weights.conversion_table import Row
from smcd_jax.weights.tensor_files import LazyTensor, file_sha256, open_tensors, values

Tensors = Mapping[str, LazyTensor]
# Numbers of attention heads if transformers' config.json does not state them.
_DEFAULT_HEADS = {"text_config": 8, "vision_config": 12}
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network with its weights.

    Attributes:
        config: Config of the network, for `smcd_jax.nn.networks.network`.
        params: Parameters in float32, in host memory.
        file: Name of the file of weights.
        sha256: SHA-256 of the file.
    """

    config: Any
    params: Params
    file: str
    sha256: str


def read_i3d(file: Path) -> FeatureNetwork:
    """Returns I3D with the classes of Kinetics 400, from ``i3d_pretrained_400.pt`` of the PyTorch port.

    Raises:
        SMCDError: The file is missing, damaged or unsafe, or its weights belong to another network.
    """
    return _network(file, I3DConfig(), i3d_rows(I3DConfig()), without_counters(open_tensors(file)))


def read_dino(file: Path) -> FeatureNetwork:
    """Returns a DINO vision transformer, whose size is inferred from the file; raises the same errors as `read_i3d`."""
    tensors = open_tensors(file)
    config = dino_config(tensors, path=file)
    return _network(file, config, dino_rows(config), tensors)


def read_vgg19(file: Path) -> FeatureNetwork:
    """Returns the convolutions of VGG19 up to relu5_1, from torchvision's ``vgg19-dcbb9e9d.pth``.

    The later convolutions and the classifier are not read; raises the same errors as `read_i3d`.
    """
    rows, tensors = vgg19_rows(VGG19Config()), open_tensors(file)
    names = {row.torch for row in rows}
    return _network(file, VGG19Config(), rows, {name: part for name, part in tensors.items() if name in names})


def read_openclip(file: Path) -> tuple[FeatureNetwork, FeatureNetwork]:
    """Returns the text and the vision tower of OpenCLIP's ViT-H/14; raises the same errors as `read_i3d`."""
    text, vision = clip_towers.split_towers(open_tensors(file))
    text_config = clip_towers.text_encoder_config(text, path=file)
    vision_config = clip_towers.vision_encoder_config(vision, path=file)
    return _clip(file, (text_config, text), (vision_config, vision))


def read_openai_clip(folder: Path) -> tuple[FeatureNetwork, FeatureNetwork]:
    """Returns the text and the vision tower of a CLIP model in transformers' layout: ``config.json`` and weights.

    Raises:
        SMCDError: A file is missing, damaged or unsafe, the folder contains another model, or the CLIP model uses an
            unsupported activation or norm.
    """
    described = _described(folder)
    file = next((folder / name for name in _FOLDER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise SMCDError(f"{folder} has neither {' nor '.join(_FOLDER_FILES)}; download it again", path=folder)
    text, vision = clip_towers.split_towers(_openclip_names(open_tensors(file), file))
    text_config = clip_towers.text_encoder_config(text, path=file, skip_last=0)
    vision_config = clip_towers.vision_encoder_config(vision, path=file)
    text_config = dataclasses.replace(text_config, **_stated(described, "text_config", folder))
    vision_config = dataclasses.replace(vision_config, **_stated(described, "vision_config", folder))
    return _clip(file, (text_config, text), (vision_config, vision))


def _clip(file: Path, text: tuple[Any, Tensors], vision: tuple[Any, Tensors]) -> tuple[FeatureNetwork, FeatureNetwork]:
    if not text[0].embed_width:
        message = f"{file} has no text_projection, so texts and pictures cannot be compared; use a complete CLIP model"
        raise SMCDError(message, path=file, value="text_projection")
    sha256 = file_sha256(file)
    text_rows, vision_rows = clip_towers.text_encoder_rows(text[0]), clip_towers.vision_encoder_rows(vision[0])
    return (
        _network(file, text[0], text_rows, text[1], sha256=sha256),
        _network(file, vision[0], vision_rows, vision[1], sha256=sha256),
    )


def _network(
    file: Path, config: Any, rows: Sequence[Row], tensors: Tensors, *, sha256: str | None = None
) -> FeatureNetwork:
    match(rows, tensors, flatten(abstract_params(config)), where=str(file), path=file)
    leaves = to_flax(rows, dict(values(tensors, np.float32)))
    return FeatureNetwork(config, unflatten(leaves), file.name, sha256 or file_sha256(file))


def _openclip_names(tensors: Tensors, path: Path) -> dict[str, LazyTensor]:
    """Returns the tensors of transformers' CLIPModel by OpenCLIP's names."""
    whole = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # spelt this way in the files
        "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
        "vision_model.post_layernorm.weight": "visual.ln_post.weight",
        "vision_model.post_layernorm.bias": "visual.ln_post.bias",
        "visual_projection.weight": "visual.proj",
        "text_projection.weight": "text_projection",
        "logit_scale": "logit_scale",
    }
    renamed, text, vision = {}, {}, {}
    for name, tensor in tensors.items():
        if name in whole:
            renamed[whole[name]] = _transposed(tensor) if name.endswith("projection.weight") else tensor
        elif name.startswith("text_model."):
            text[name] = tensor
        elif re.match(r"vision_model\.encoder\.layers\.", name):
            vision[name.removeprefix("vision_model.")] = tensor
        elif name != "vision_model.embeddings.position_ids":  # a counter in older files
            message = f"{path}: {name} is not a tensor of CLIP; check that this is the right folder"
            raise SMCDError(message, path=path, value=name)
    renamed |= clip_towers.openclip_names(text, path=path)
    visual = clip_towers.openclip_names(vision, path=path)
    return renamed | {f"visual.{name}": tensor for name, tensor in visual.items()}


def _transposed(tensor: LazyTensor) -> LazyTensor:
    return LazyTensor(tensor.shape[::-1], lambda: tensor.numpy().T)


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read ({error}); pass a CLIP folder in transformers' layout"
        raise SMCDError(message, path=path) from error
    if not isinstance(described, dict) or described.get("model_type") != "clip":
        message = f"{path}: model_type must be clip; pass a CLIP folder in transformers' layout"
        raise SMCDError(message, argument="model_type", path=path)
    return described


def _stated(described: Mapping[str, Any], tower: str, folder: Path) -> dict[str, Any]:
    """Returns the fields that cannot be inferred from shapes: heads and activation."""
    stated = described.get(tower) or {}
    activation, epsilon = stated.get("hidden_act", "quick_gelu"), stated.get("layer_norm_eps", 1e-5)
    if activation not in ("gelu", "quick_gelu") or epsilon != 1e-5:
        raise SMCDError(
            f"{folder}/config.json: {tower} must have activation gelu or quick_gelu and layer_norm_eps 1e-05, got "
            f"{activation!r} and {epsilon}",
            argument=tower,
            path=folder / "config.json",
            value=(activation, epsilon),
        )
    return {"heads": stated.get("num_attention_heads", _DEFAULT_HEADS[tower]), "activation": activation}
