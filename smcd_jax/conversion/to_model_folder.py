"""PyTorch weights to a model folder: checked, cast once, streamed tensor by tensor."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.conversion.layouts import Source, find_sources, model_config
from smcd_jax.model_folder import ModelFolder, Origin, check_target, write_model_folder
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.runtime.progress import Progress
from smcd_jax.weights.conversion_engine import match, to_flax
from smcd_jax.weights.tensor_files import file_sha256, values

LICENSE = "that of the source weights (ModelScope text-to-video: CC BY-NC 4.0)"


@dataclasses.dataclass(frozen=True)
class ConvertedComponent:
    """One line of the closing table."""

    name: str
    file: str
    tensors: int
    bytes: int
    left_out: int
    sha256: str


def convert_to_model_folder(
    output: str | os.PathLike[str],
    *,
    modelscope: Path | None = None,
    smcd: Path | None = None,
    dtype: Any = None,
    with_vision: bool = False,
    head_width: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[ModelFolder, list[ConvertedComponent]]:
    """Converts published weights.

    Every component's names and shapes are checked before the first array is written.

    Args:
        output: the model folder to write.
        modelscope: folder of the base model, in its own layout or in diffusers'.
        smcd: folder of SMCD's networks; without it the base model alone is converted.
        dtype: of the arrays written; None keeps the files'. Gates stay float32.
        with_vision: also the vision tower.
        head_width: see `find_sources`.
        overwrite: replace an existing model folder.
        progress: shows bars.

    Raises:
        SMCDError: a file is missing, damaged, unsafe or of another variant; or the output exists.
    """
    progress = progress or Progress()
    check_target(Path(output), overwrite=overwrite)
    sources = find_sources(modelscope, smcd, with_vision=with_vision, head_width=head_width)
    config = model_config(sources, [folder for folder in (smcd, modelscope) if folder is not None])
    for name, source in sources.items():
        where = f"{name} in {source.file}"
        match(source.rows, source.tensors, flatten(abstract_params(source.config)), where=where)

    hashes: dict[Path, str] = {}
    with progress.stage("hash inputs", len({source.file for source in sources.values()}), "file") as advance:
        for file in dict.fromkeys(source.file for source in sources.values()):
            hashes[file] = file_sha256(file)
            advance()
    summary: list[ConvertedComponent] = []
    origin = Origin(
        "converted",
        license=LICENSE,
        sources=tuple(
            {"component": name, "file": source.file.name, "sha256": hashes[source.file]}
            for name, source in sources.items()
        ),
    )
    with progress.stage("convert", len(sources), "component") as advance:

        def components() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
            for name in config.components():
                source = sources[name]
                leaves = to_flax(source.rows, dict(values(source.tensors, dtype)))
                yield name, leaves
                summary.append(_summarised(name, source, leaves, hashes[source.file]))
                advance()

        folder = write_model_folder(output, config, components(), origin=origin, overwrite=overwrite)
    return folder, summary


def _summarised(name: str, source: Source, leaves: dict[str, np.ndarray], sha256: str) -> ConvertedComponent:
    size = sum(leaf.nbytes for leaf in leaves.values())
    return ConvertedComponent(name, source.file.name, len(leaves), size, source.left_out, sha256)
