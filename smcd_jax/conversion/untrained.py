"""Model folders with random weights, for trying the software, measuring speed and starting a training run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.nn.networks import flatten, init_params


def write_untrained(
    path: str | os.PathLike[str],
    config: Any,
    *,
    seed: int = 0,
    dtype: Any = np.float32,
    overwrite: bool = False,
) -> ModelFolder:
    """Writes a model folder whose weights are the initial values of the networks.

    Zero-initialised layers are zero, so an untrained SMCD UNet predicts zero noise.

    Args:
        path: Model folder to write.
        config: Config of the model; every component that it names is initialised.
        seed: Seed of the weights; the same seed and versions give the same bytes.
        dtype: Dtype of the arrays; scalars stay float32.
        overwrite: Whether an existing model folder is replaced.

    Raises:
        SMCDError: The folder exists or cannot be written.
    """
    origin = Origin("untrained", note=f"random weights, seed {seed}", license="Apache-2.0")
    return write_model_folder(path, config, _components(config, seed, dtype), origin=origin, overwrite=overwrite)


def _components(config: Any, seed: int, dtype: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for index, (name, part) in enumerate(config.components().items()):
        leaves = flatten(init_params(part, jax.random.fold_in(jax.random.key(seed), index)))
        yield (
            name,
            {
                path: np.asarray(leaf if leaf.ndim == 0 else leaf.astype(jnp.dtype(dtype)))
                for path, leaf in leaves.items()
            },
        )
