"""A model folder back to PyTorch names and files, in the published layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from smcd_jax.conversion import component_tables, unet_table
from smcd_jax.conversion.layouts import AUTOENCODER_PREFIX, CONFIGURATION, OURS
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.files.config_json import to_dict
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.runtime.progress import Progress
from smcd_jax.weights.conversion_table import Row

TABLES = {
    "unet": unet_table.unet_rows,
    "position_net": component_tables.position_net_rows,
    "image_encoder": component_tables.image_encoder_rows,
    "controlnet": unet_table.controlnet_rows,
    "autoencoder": component_tables.autoencoder_rows,
    "text_encoder": component_tables.text_encoder_rows,
    "vision_encoder": component_tables.vision_encoder_rows,
}
FILES = {
    "unet": "pytorch_model",
    "position_net": "pytorch_model_1",
    "image_encoder": "pytorch_model_2",
    "controlnet": "pytorch_model_2",
    "autoencoder": "VQGAN_autoencoder",
    "text_encoder": "open_clip_pytorch_model",
    "vision_encoder": "open_clip_pytorch_model",
}
SUFFIXES = {"bin": ".bin", "safetensors": ".safetensors"}


def convert_to_torch(
    model: str | os.PathLike[str],
    output: Path,
    *,
    format: str = "bin",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes one folder that serves as ``--smcd`` and ``--modelscope`` alike; every tensor comes back bit for bit.

    Args:
        model: a model folder.
        output: folder to write into.
        format: "bin" (needs torch) or "safetensors".
        overwrite: replace files that exist.
        progress: shows bars.

    Returns:
        The files written.

    Raises:
        SMCDError: the model has both an image encoder and a ControlNet (one file cannot hold both), a file exists, or
            the disk is full.
    """
    progress, folder = progress or Progress(), ModelFolder(model)
    names = list(folder.config.components())
    if {"image_encoder", "controlnet"} <= set(names):
        raise SMCDError(f"{model} has an image encoder and a ControlNet; pytorch_model_2.bin holds one of them")
    grouped: dict[str, list[str]] = {}
    for name in names:
        grouped.setdefault(FILES[name] + _suffix(name, format), []).append(name)
    existing = [name for name in (*grouped, CONFIGURATION) if (output / name).exists()]
    if existing and not overwrite:
        raise SMCDError(f"{output / existing[0]} exists already; give another --output, or --overwrite to replace it")
    _make_folder(output)
    with progress.stage("write", len(grouped), "file") as advance:
        for file, parts in grouped.items():
            tensors = {name: array for part in parts for name, array in _named(folder, part).items()}
            _write(tensors, output / file, nested=file.startswith(FILES["autoencoder"]))
            advance()
    description = {"framework": "pytorch", "task": "text-to-video-synthesis", "model": _described(folder.config)}
    with write_atomically(output / CONFIGURATION) as temporary:
        temporary.write_text(json.dumps(description | {OURS: to_dict(folder.config)}, indent=2) + "\n")
    return [output / file for file in (*grouped, CONFIGURATION)]


def _suffix(component: str, format: str) -> str:
    return ".pth" if component == "autoencoder" and format == "bin" else SUFFIXES[format]


def _named(folder: ModelFolder, component: str) -> dict[str, np.ndarray]:
    rows: list[Row] = TABLES[component](folder.config.components()[component])
    leaves = folder.leaves(component)
    prefix = AUTOENCODER_PREFIX if component == "autoencoder" else ""
    tensors = {}
    for row in rows:  # each array of ours goes as its PyTorch copy comes, so memory holds the component once
        tensors[prefix + row.torch] = np.array(row.layout.to_torch(leaves.pop(row.path)), order="C")
    return tensors


def _write(tensors: dict[str, np.ndarray], path: Path, *, nested: bool) -> None:
    with write_atomically(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(tensors, temporary)
            return
        try:
            import torch
        except ImportError as error:
            raise SMCDError(
                "PyTorch files need PyTorch: pip install 'smcd_jax[convert]', or use --format safetensors"
            ) from error
        as_torch = {name: _torch_tensor(torch, array) for name, array in tensors.items()}
        torch.save({"state_dict": as_torch} if nested else as_torch, temporary)


def _torch_tensor(torch: Any, array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _described(config: ModelConfig) -> dict[str, Any]:
    """The sizes as ModelScope's configuration names them."""
    unet = config.unet
    sizes = {
        "unet_in_dim": unet.input_channels,
        "unet_dim": unet.base_channels,
        "unet_context_dim": unet.context_dim,
        "unet_out_dim": unet.latent_channels,
        "unet_dim_mult": list(unet.channel_mult),
        "unet_num_heads": unet.stem_heads,
        "unet_head_dim": unet.head_dim,
        "unet_res_blocks": unet.num_res_blocks,
        "unet_attn_scales": list(unet.attention_scales),
        "unet_dropout": unet.dropout,
        "num_timesteps": 1000,
        "mean_type": "eps",
    }
    return {"type": "latent-text-to-video-synthesis", "model_cfg": sizes}


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SMCDError(f"cannot make {path}: {error.strerror}; choose another --output") from error
