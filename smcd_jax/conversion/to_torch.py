"""Conversion of a model folder back to PyTorch files in the published layout of its family."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.conversion import TorchFile, get_conversion
from smcd_jax.runtime.progress import Progress
from smcd_jax.weights.tensor_files import save_tensors


def convert_to_torch(
    model: str | os.PathLike[str],
    output: Path,
    *,
    format: str = "bin",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes the PyTorch files of a model and returns their paths; every tensor is restored bit for bit.

    Args:
        model: Model folder.
        output: Folder to write into.
        format: "bin", which needs torch, or "safetensors".
        overwrite: Whether existing files are replaced.
        progress: Progress reporting.

    Raises:
        SMCDError: The published layout has no place for a component, a file exists, or the disk is full.
    """
    progress, folder = progress or Progress(), ModelFolder(model)
    conversion = get_conversion(folder.family)
    torch_files = conversion.torch_files(folder.config)
    tensor_paths = [output / _with_suffix(file.name, format) for file in torch_files]
    texts = {output / name: text for name, text in conversion.text_files(folder.config).items()}
    existing = [path for path in (*tensor_paths, *texts) if path.exists()]
    if existing and not overwrite:
        message = f"{existing[0]} already exists; choose another --output, or replace it with --overwrite"
        raise SMCDError(message, argument="output", path=existing[0])
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot create {output}: {error.strerror}; choose another --output"
        raise SMCDError(message, argument="output", path=output) from error
    with progress.stage("write", len(torch_files), "file") as advance:
        for file, path in zip(torch_files, tensor_paths, strict=True):
            save_tensors(path, _tensors(folder, file), key=file.key, groups=file.groups)
            advance()
    for path, text in texts.items():
        with write_atomically(path) as temporary:
            temporary.write_text(text)
    return [*tensor_paths, *texts]


def _with_suffix(name: str, format: str) -> str:
    return name if format == "bin" else f"{Path(name).stem}.{format}"


def _tensors(folder: ModelFolder, file: TorchFile) -> dict[str, np.ndarray]:
    tensors = {}
    for component, rows in file.tables.items():
        leaves = folder.leaves(component)
        for row in rows:  # each array is freed once its PyTorch copy exists, so memory holds the component once
            tensors[row.torch] = np.array(row.layout.to_torch(leaves.pop(row.path)), order="C")
    return tensors
