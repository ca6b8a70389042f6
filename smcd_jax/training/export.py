"""The model folder that a run comes to: trained parameters, or their moving average, over what the run started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.registry import make_model
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.data import base_digest, tokenizer
from smcd_jax.training.state import component_params, components, from_scratch_paths, trained_paths


def check_base(config: TrainConfig, sha256: str) -> None:
    """Whether the folder in ``init.model`` is what the run started from: its frozen weights go into what comes out.

    Raises:
        SMCDError: The folder is missing, or is another model.
    """
    try:
        found = base_digest(config)
    except SMCDError as error:
        raise SMCDError(
            f"{error}; the run started from this model, pass its folder with --base",
            argument="base",
            path=error.path,
            value=config.init.model,
        ) from error
    if found != sha256:
        raise SMCDError(
            f"{config.init.model or 'no model'} is not the model that the run started from (digest "
            f"{found[:16] or 'none'} instead of {sha256[:16] or 'none'}); pass that folder with --base",
            argument="base",
            value=config.init.model,
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
    """Writes a model folder.

    Args:
        path: of the folder.
        config: of the run; its model describes the folder.
        trained: the run's trained parameters by path, "unet/encoder_0/conv/kernel".
        note: one line for people: experiment, step.
        dtype: that arrays are stored in; gates stay float32.
        overwrite: replace an existing model folder.
        license: of the weights.

    Raises:
        SMCDError: the parameters are not those the config trains; as `write_model_folder`.
    """
    different = trained_paths(config) ^ set(trained)
    if different:
        raise SMCDError(
            f"trained must hold the parameters that the config trains; {len(different)} differ, such as "
            f"{min(different)}",
            argument="trained",
            value=min(different),
        )
    start = ModelFolder(config.init.model) if config.init.model else None
    license = start.origin.license if start and license == "unknown" else license
    sources = ({"component": "all", "file": start.path.name, "sha256": start.digest},) if start else ()
    return write_model_folder(
        path,
        config.model,
        _all_components(config, trained, start, dtype),
        origin=Origin("trained", note=note, license=license, sources=sources),
        tokenizer=tokenizer(config),
        overwrite=overwrite,
    )


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
        yield name, {path.split("/", 1)[1]: _stored(leaf, dtype) for path, leaf in leaves.items()}


def _stored(leaf: np.ndarray, dtype: Any) -> np.ndarray:
    return np.asarray(leaf) if np.ndim(leaf) == 0 else np.asarray(leaf).astype(dtype, copy=False)
