"""Opens the feature networks of evaluation by name, from the weights in a user's folder."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from smcd_jax.conversion import feature_networks
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.features.extractors import (
    AutoencoderRoundTrip,
    CLIPExtractor,
    DINOExtractor,
    I3DExtractor,
    TorchScriptI3D,
)
from smcd_jax.evaluation.features.weight_files import find_weights
from smcd_jax.evaluation.metrics.fidelity import LPIPS
from smcd_jax.model_folder import ModelFolder
from smcd_jax.weights.tensor_files import file_sha256, open_tensors, values


def open_extractor(
    name: str, weights: str | os.PathLike[str] | None = None, *, model: ModelFolder | None = None
) -> Any:
    """Opens an extractor, `LPIPS`, or the autoencoder of a model.

    Args:
        name: One of `smcd_jax.evaluation.features.weight_files.KNOWN`, or "autoencoder".
        weights: Folder of the weight files; by default ``$SMCD_WEIGHTS_DIR``.
        model: Model under test. "autoencoder" is its autoencoder; "openclip" uses its CLIP towers if the model was
            converted with the vision tower.

    Raises:
        SMCDError: The weights are missing (the message names file, source and place), damaged, or belong to another
            network.
    """
    if name == "autoencoder":
        return _autoencoder(model)
    if name == "openclip" and model is not None and model.config.vision_encoder is not None:
        return _towers_of_model(model)
    path = find_weights(name, weights)
    if name in ("openclip", "openai-clip"):
        read = feature_networks.read_openclip if name == "openclip" else feature_networks.read_openai_clip
        text, vision = read(path)
        towers = [(tower.config, tower.params) for tower in (text, vision)]
        family = name.removesuffix("-clip")
        return CLIPExtractor(*towers, family=family, source=path.name, weights_sha256=vision.sha256)
    if name.startswith("dino-"):
        found = feature_networks.read_dino(path)
        return DINOExtractor(found.config, found.params, source=found.file, weights_sha256=found.sha256)
    if name == "i3d":
        found = feature_networks.read_i3d(path)
        return I3DExtractor(found.config, found.params, source=found.file, weights_sha256=found.sha256)
    if name == "i3d-torchscript":
        return TorchScriptI3D(path, weights_sha256=file_sha256(path))
    tensors = dict(values(open_tensors(path), np.float32))
    return LPIPS(tensors, source=path.name, weights_sha256=file_sha256(path))


def _autoencoder(model: ModelFolder | None) -> AutoencoderRoundTrip:
    if model is None:
        raise SMCDError("psnr-autoencoder measures a model; pass --model", argument="model")
    params = model.params("autoencoder", dtype=np.float32)
    source = f"model {model.path.name}"
    return AutoencoderRoundTrip(model.config.autoencoder, params, source=source, weights_sha256=model.digest)


def _towers_of_model(model: ModelFolder) -> CLIPExtractor:
    names = ("text_encoder", "vision_encoder")
    towers = [(getattr(model.config, name), model.params(name, dtype=np.float32)) for name in names]
    return CLIPExtractor(*towers, family="openclip", source=f"model {model.path.name}", weights_sha256=model.digest)
