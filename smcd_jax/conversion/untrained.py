"""Model folders with weights from a random seed: to try the software, to measure speed, and to start training from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.nn.networks import flatten, init_params


def write_untrained(
    path: str | os.PathLike[str],
    config: ModelConfig,
    *,
    seed: int = 0,
    dtype: Any = np.float32,
    overwrite: bool = False,
) -> ModelFolder:
    """Writes a model folder whose weights are the networks' own initialisation.

    Layers that training starts at zero are zero, so an untrained UNet predicts zero noise and the gates are shut.

    Args:
        path: the folder to write.
        config: every component it names is initialised.
        seed: of the weights; the same seed gives the same bytes on the same versions.
        dtype: of the arrays; scalars stay float32.
        overwrite: replace an existing model folder.
    """
    origin = Origin("untrained", note=f"random weights, seed {seed}", license="Apache-2.0")
    return write_model_folder(path, config, _components(config, seed, dtype), origin=origin, overwrite=overwrite)


def _components(config: ModelConfig, seed: int, dtype: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for index, (name, part) in enumerate(config.components().items()):
        key = jax.random.fold_in(jax.random.key(seed), index)
        leaves = flatten(init_params(part, key))
        cast = lambda leaf: leaf if leaf.ndim == 0 else leaf.astype(jnp.dtype(dtype))  # noqa: E731
        yield name, {path: np.asarray(cast(leaf)) for path, leaf in leaves.items()}
