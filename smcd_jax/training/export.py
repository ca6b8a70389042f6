"""Export of a run to a model folder: its trained parameters, or their moving average, with the frozen ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.registry import make_model
from smcd_jax.nn.low_rank import COMPONENT, Adapter, add_low_rank, save_adapter
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.data import tokenizer
from smcd_jax.training.distill import distilled_of
from smcd_jax.training.state import component_params, components, from_scratch_paths, trained_paths

_STATISTICS = "stats/"


def check_base(model: str, sha256: str) -> None:
    """Checks that a model folder is the one that a run started from, because the export contains its frozen weights.

    Args:
        model: Model folder, or the name of a shipped model; empty for none.
        sha256: Digest of the model folder that the run started from; empty for none.

    Raises:
        SMCDError: The folder is missing, or contains another model.
    """
    try:
        found = ModelFolder(model).digest if model else ""
    except SMCDError as error:
        raise SMCDError(
            f"{error}; the run started from this model; pass its folder with --base",
            argument="base",
            path=error.path,
            value=model,
        ) from error
    if found != sha256:
        raise SMCDError(
            f"{model or 'no model'} is not the model that the run started from (digest {found[:16] or 'none'} instead "
            f"of {sha256[:16] or 'none'}); pass that folder with --base",
            argument="base",
            value=model,
        )


def export_model(
    path: Path,
    config: TrainConfig,
    trained: Mapping[str, np.ndarray],
    *,
    note: str,
    dtype: Any = np.float32,
    overwrite: bool = False,
    license: str = "unknown",
) -> ModelFolder:
    """Writes the model folder of a run.

    Args:
        path: Folder to write.
        config: Config of the run.
        trained: Trained parameters by path, such as "unet/encoder_0/conv/kernel", and running statistics by path after
            "stats/".
        note: Description of the run for ``model.json``: experiment and step, one line.
        dtype: Dtype of the stored arrays; scalars such as gates stay float32.
        overwrite: Whether to replace an existing model folder.
        license: License of the weights; "unknown" for that of the model the run started from.

    Raises:
        SMCDError: The parameters are not those that the config trains, or the folder cannot be written
            (`write_model_folder`).
    """
    statistics = {name: leaf for name, leaf in trained.items() if name.startswith(_STATISTICS)}
    different = trained_paths(config) ^ (set(trained) - set(statistics))
    if different:
        raise SMCDError(
            f"trained must hold the parameters that the config trains; {len(different)} differ, such as "
            f"{min(different)}",
            argument="trained",
            value=min(different),
        )
    trained = {name.removeprefix(_STATISTICS): leaf for name, leaf in trained.items()}
    start = ModelFolder(config.init.model) if config.init.model else None
    license = start.origin.license if start and license == "unknown" else license
    sources = ({"component": "all", "file": start.path.name, "sha256": start.digest},) if start else ()
    return write_model_folder(
        path,
        config.model,
        _all_components(config, trained, start, dtype),
        origin=Origin("trained", note=note, license=license, sources=sources),
        tokenizer=tokenizer(start),
        distilled=distilled_of(config) if config.objective == "distill" else None,
        overwrite=overwrite,
    )


def export_adapter(path: Path, config: TrainConfig, trained: Mapping[str, np.ndarray], *, note: str) -> Adapter:
    """Writes the low-rank adapter of a run as one safetensors file.

    Args:
        path: File to write.
        config: Config of the run.
        trained: Trained parameters by path.
        note: Description of the run: experiment and step, one line.

    Raises:
        SMCDError: The run trains parameters outside the adapter, or has no adapter.
    """
    others = [name for name in trained if not name.startswith(f"{COMPONENT}/")]
    if others or not trained:
        raise SMCDError(
            "--adapter requires a run that trains only low_rank/.*; omit it to write a model folder",
            argument="adapter",
            value=others[:1],
        )
    leaves = {name.removeprefix(f"{COMPONENT}/"): np.asarray(leaf) for name, leaf in trained.items()}
    base = ModelFolder(config.init.model).digest if config.init.model else ""
    adapter = Adapter(leaves, base, note)
    save_adapter(path, adapter)
    return adapter


def _all_components(
    config: TrainConfig, trained: Mapping[str, np.ndarray], start: ModelFolder | None, dtype: Any
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    from_scratch, in_step = from_scratch_paths(config, start), components(config)
    for name, part in make_model(config.model).components.items():
        allowed = from_scratch
        if name not in in_step and (start is None or name not in start.config.components()):
            allowed = frozenset(f"{name}/{path}" for path in flatten(abstract_params(part.config)))
        leaves = component_params(config, name, part, folder=start, from_scratch=allowed)
        leaves |= {path: leaf for path, leaf in trained.items() if path.startswith(f"{name}/")}
        adapter = {path: leaf for path, leaf in trained.items() if path.startswith(f"{COMPONENT}/{name}/")}
        leaves = add_low_rank(leaves, adapter, prefix=f"{COMPONENT}/")
        yield name, {path.split("/", 1)[1]: _stored(leaf, dtype) for path, leaf in leaves.items()}


def _stored(leaf: np.ndarray, dtype: Any) -> np.ndarray:
    return np.asarray(leaf) if np.ndim(leaf) == 0 else np.asarray(leaf).astype(dtype, copy=False)
