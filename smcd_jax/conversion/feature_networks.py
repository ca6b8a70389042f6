"""The networks that evaluation reads features with, from the files in which they are usually published."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.conversion import component_tables, detect
from smcd_jax.conversion.diffusers_table import openclip_names
from smcd_jax.conversion.dino_table import dino_config, dino_rows
from smcd_jax.conversion.i3d_table import i3d_rows, without_counters
from smcd_jax.errors import SMCDError
from smcd_jax.nn.i3d import I3DConfig
from smcd_jax.nn.networks import Params, abstract_params, flatten, unflatten
from smcd_jax.weights.conversion_engine import match, to_flax
from smcd_jax.weights.conversion_table import Row
from smcd_jax.weights.tensor_files import LazyTensor, file_sha256, open_tensors, values

Tensors = Mapping[str, LazyTensor]
# What a transformers folder may leave unsaid, because it is the default of its classes: heads of the two towers.
_DEFAULT_HEADS = {"text_config": 8, "vision_config": 12}
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network ready to apply.

    Attributes:
        config: as `smcd_jax.nn.networks.network` takes it.
        params: float32, on the host.
        file: name of the file they came from.
        sha256: of that file.
    """

    config: Any
    params: Params
    file: str
    sha256: str


def read_i3d(file: Path) -> FeatureNetwork:
    """I3D with the classes of Kinetics 400, from the PyTorch port's ``i3d_pretrained_400.pt``.

    Raises:
        SMCDError: as all functions here: missing, damaged or unsafe file, or weights of another network.
    """
    return _network(file, I3DConfig(), i3d_rows(I3DConfig()), without_counters(open_tensors(file)))


def read_dino(file: Path) -> FeatureNetwork:
    """A vision transformer of DINO, of the size that the file holds. Raises as `read_i3d`."""
    tensors = open_tensors(file)
    config = dino_config(tensors, where=str(file))
    return _network(file, config, dino_rows(config), tensors)


def read_openclip(file: Path) -> tuple[FeatureNetwork, FeatureNetwork]:
    """The text and the vision tower of OpenCLIP's ViT-H/14. Raises as `read_i3d`."""
    tensors = {name: tensor for name, tensor in open_tensors(file).items() if name != "attn_mask"}
    text, vision = _towers(tensors)
    text_config = detect.text_encoder_config(text, where=str(file))
    vision_config = detect.vision_encoder_config(vision, where=str(file))
    return _clip(file, (text_config, text), (vision_config, vision))


def read_openai_clip(folder: Path) -> tuple[FeatureNetwork, FeatureNetwork]:
    """The text and the vision tower of a CLIP in transformers' layout (``config.json`` and its weights).

    Raises:
        SMCDError: as `read_i3d`; or the folder is not one of CLIP, or of an activation or norm not known here.
    """
    described = _described(folder)
    file = next((folder / name for name in _FOLDER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise SMCDError(f"{folder} has neither {' nor '.join(_FOLDER_FILES)}; download it again")
    text, vision = _towers(_openclip_names(open_tensors(file), where=str(file)))
    text_config = detect.text_encoder_config(text, where=str(file), skip_last=0)
    vision_config = detect.vision_encoder_config(vision, where=str(file))
    text_config = dataclasses.replace(text_config, **_stated(described, "text_config", folder))
    vision_config = dataclasses.replace(vision_config, **_stated(described, "vision_config", folder))
    return _clip(file, (text_config, text), (vision_config, vision))


def _clip(file: Path, text: tuple[Any, Tensors], vision: tuple[Any, Tensors]) -> tuple[FeatureNetwork, FeatureNetwork]:
    if not text[0].embed_width:
        raise SMCDError(
            f"{file} has no text_projection, so its texts and pictures cannot be compared; get the whole CLIP"
        )
    sha256 = file_sha256(file)
    text_rows = component_tables.text_encoder_rows(text[0])
    vision_rows = component_tables.vision_encoder_rows(vision[0])
    return (
        _network(file, text[0], text_rows, text[1], sha256=sha256),
        _network(file, vision[0], vision_rows, vision[1], sha256=sha256),
    )


def _network(
    file: Path, config: Any, rows: Sequence[Row], tensors: Tensors, *, sha256: str | None = None
) -> FeatureNetwork:
    match(rows, tensors, flatten(abstract_params(config)), where=str(file))
    leaves = to_flax(rows, dict(values(tensors, np.float32)))
    return FeatureNetwork(config, unflatten(leaves), file.name, sha256 or file_sha256(file))


def _towers(tensors: Tensors) -> tuple[dict[str, LazyTensor], dict[str, LazyTensor]]:
    vision = {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    return {name: tensor for name, tensor in tensors.items() if name not in vision}, vision


def _openclip_names(tensors: Tensors, *, where: str) -> dict[str, LazyTensor]:
    """The tensors of transformers' CLIPModel under OpenCLIP's names."""
    whole = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # misspelt in the files themselves
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
            raise SMCDError(f"{where}: {name} belongs to no CLIP; is this the right folder?")
    renamed |= openclip_names(text)
    return renamed | {f"visual.{name}": tensor for name, tensor in openclip_names(vision).items()}


def _transposed(tensor: LazyTensor) -> LazyTensor:
    return LazyTensor(tensor.shape[::-1], lambda: tensor.numpy().T)


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SMCDError(f"{path} cannot be read ({error}); give a folder of CLIP in transformers' layout") from error
    if not isinstance(described, dict) or described.get("model_type") != "clip":
        raise SMCDError(f"{path} is not of a CLIP (model_type); give a folder of CLIP in transformers' layout")
    return described


def _stated(described: Mapping[str, Any], tower: str, folder: Path) -> dict[str, Any]:
    """What shapes do not tell: heads and activation."""
    stated = described.get(tower) or {}
    activation, epsilon = stated.get("hidden_act", "quick_gelu"), stated.get("layer_norm_eps", 1e-5)
    if activation not in ("gelu", "quick_gelu") or epsilon != 1e-5:
        raise SMCDError(
            f"{folder}/config.json: {tower} has activation {activation!r} and layer_norm_eps {epsilon}; known are gelu "
            "and quick_gelu, with 1e-05"
        )
    return {"heads": stated.get("num_attention_heads", _DEFAULT_HEADS[tower]), "activation": activation}
