"""Conversion of published PyTorch weights to a model folder: checked first, then written component by component."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.model_folder import ModelFolder, Origin, check_target, write_model_folder
from smcd_jax.models.conversion import get_conversion
from smcd_jax.models.registry import get_family
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.runtime.progress import Progress
from smcd_jax.weights.conversion_engine import match, to_flax
from smcd_jax.weights.tensor_files import file_sha256, values


@dataclasses.dataclass(frozen=True)
class ConvertedComponent:
    """A converted component.

    Attributes:
        name: Name of the component.
        file: Name of the PyTorch file.
        tensors: Number of arrays written.
        bytes: Size of the arrays written.
        left_out: Number of tensors of the file that are deliberately not converted.
        sha256: SHA-256 of the PyTorch file.
    """

    name: str
    file: str
    tensors: int
    bytes: int
    left_out: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    Attributes:
        folder: Model folder that was written.
        components: Components in the order of the config.
        notes: Observations for the user, one line each.
    """

    folder: ModelFolder
    components: list[ConvertedComponent]
    notes: tuple[str, ...]


def convert_to_model_folder(
    output: str | os.PathLike[str],
    family: str,
    options: Mapping[str, Any],
    *,
    dtype: Any = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Converts published weights; all names and shapes are checked before the first array is written.

    Args:
        output: Model folder to write.
        family: Name of the model family.
        options: Values of the family's flags in `smcd_jax.models.conversion_flags`, by name.
        dtype: Dtype of the arrays written; None keeps that of the files. Gates stay float32.
        overwrite: Whether an existing model folder is replaced.
        progress: Progress reporting.

    Raises:
        SMCDError: A file is missing, damaged, unsafe or belongs to another variant, or the output exists.
    """
    progress = progress or Progress()
    check_target(Path(output), overwrite=overwrite)
    published = get_conversion(get_family(family)).read(options)
    for name, source in published.sources.items():
        leaves = flatten(abstract_params(source.config))
        match(source.rows, source.tensors, leaves, where=f"{name} in {source.file}", path=source.file)

    def origin() -> Origin:
        sources = tuple(
            {"component": name, "file": source.file.name, "sha256": hashes[source.file].result()}
            for name, source in published.sources.items()
        )
        return Origin("converted", license=published.license, sources=sources)

    def components() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for name in published.config.components():
            source = published.sources[name]
            leaves = to_flax(source.rows, dict(values(source.tensors, dtype)))
            yield name, leaves
            sizes[name] = len(leaves), sum(leaf.nbytes for leaf in leaves.values())
            advance()

    sizes: dict[str, tuple[int, int]] = {}
    # Hashing reads the files ahead of the conversion, which then finds them in the page cache.
    hashing = ThreadPoolExecutor(1)
    hashes = {
        file: hashing.submit(file_sha256, file) for file in {source.file: None for source in published.sources.values()}
    }
    try:
        with progress.stage("convert", len(published.sources), "component") as advance:
            folder = write_model_folder(output, published.config, components(), origin=origin, overwrite=overwrite)
    finally:
        hashing.shutdown(cancel_futures=True)
    converted = [
        ConvertedComponent(name, source.file.name, *sizes[name], source.left_out, hashes[source.file].result())
        for name, source in published.sources.items()
    ]
    return Conversion(folder, converted, published.notes)
