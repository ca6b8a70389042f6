"""Runs a model's encoders over prepared records: what `smcd prepare --features MODEL` does.

Frames and texts go through the autoencoder and the text tower in batches that are split over all local devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from data_pipeline.features.encoder_identity import encoder_identity
from data_pipeline.features.writer import FeatureEncoders, FeatureReport, write_features
from data_pipeline.records.reader import RecordFolder, read_manifest
from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import network
from smcd_jax.runtime.compilation import enable_compile_cache

FRAMES_PER_DEVICE, TEXTS_PER_DEVICE = 8, 16


def prepare_features(
    records: Path,
    model: str | Path,
    *,
    output: Path | None = None,
    splits: Sequence[str] | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: str | None = None,
    workers: int = 2,
    max_bad_share: float = 0.01,
    progress: bool = True,
) -> list[FeatureReport]:
    """Makes the feature cache of a folder of records; interrupted, the same call goes on.

    Args:
        records: the folder.
        model: a model folder, or the name of one that comes with the package.
        output: folder of the caches, one folder for each split in it; by default ``features`` in that of the records.
        splits: by default all.
        height: pixels; by default the model's.
        width: pixels; by default the model's.
        dtype: "float32" or "bfloat16"; by default bfloat16 on accelerators and float32 on CPU.
        workers: threads that decode frames.
        max_bad_share: the share of frames that may be unusable.
        progress: show a bar.

    Raises:
        SMCDError: as `write_features`; no such records or model.
    """
    content = read_manifest(records)
    chosen = list(content["splits"]) if splits is None else splits
    folders = [RecordFolder(records, split) for split in chosen]
    encoders = model_encoders(ModelFolder(model), height=height, width=width, dtype=dtype)
    return [
        write_features(
            folder,
            (output or records / "features") / folder.split,
            encoders,
            max_bad_share=max_bad_share,
            workers=workers,
            progress=progress,
        )
        for folder in folders
        if len(folder)
    ]


def model_encoders(
    folder: ModelFolder, *, height: int | None = None, width: int | None = None, dtype: str | None = None
) -> FeatureEncoders:
    """A model's autoencoder and text tower, on all local devices.

    Args:
        folder: of the model.
        height: pixels of the frames; by default the model's.
        width: pixels of the frames; by default the model's.
        dtype: "float32" or "bfloat16"; by default bfloat16 on accelerators and float32 on CPU.
    """
    enable_compile_cache()
    config, policy = folder.config, ComputePolicy.for_device(dtype)
    autoencoder, text_encoder = network(config.autoencoder, policy), network(config.text_encoder, policy)
    tokenizer, length = folder.tokenizer(), config.text_encoder.length
    pictures = _OnAllDevices(
        lambda params, frames: _moments(autoencoder, params, frames),
        folder.params("autoencoder", dtype=policy.params),
        FRAMES_PER_DEVICE,
    )
    text_params = folder.params("text_encoder", dtype=policy.params)
    captions = _OnAllDevices(
        lambda params, ids: text_encoder.apply({"params": params}, ids), text_params, TEXTS_PER_DEVICE
    )
    labels = _OnAllDevices(
        lambda params, ids: text_encoder.apply({"params": params}, ids, method="label_embedding"),
        text_params,
        TEXTS_PER_DEVICE,
    )
    return FeatureEncoders(
        identity=encoder_identity(folder.path),
        precision=jnp.dtype(policy.compute).name,
        height=height or config.height,
        width=width or config.width,
        scaling_factor=config.autoencoder.scaling_factor,
        frame_batch=pictures.batch,
        text_batch=captions.batch,
        moments=pictures,
        texts=lambda texts: captions(tokenizer.encode(texts, length=length)),
        labels=lambda texts: labels(tokenizer.encode(texts, length=length)),
    )


def _moments(autoencoder: Any, params: Any, frames: jax.Array) -> jax.Array:
    """Mean and log-variance [b, 2, h, w, c] of uint8 frames, taken to -1..1 as `smcd_jax.media.to_model_range` does."""
    pictures = (frames.astype(jnp.float32) / jnp.float32(255) - jnp.float32(0.5)) / jnp.float32(0.5)
    posterior = autoencoder.apply({"params": params}, pictures, method="posterior")
    return jnp.stack([posterior.mean, posterior.log_variance], axis=1)


class _OnAllDevices:
    """A program over batches of one size, which it splits over the local devices; a smaller batch is filled up."""

    def __init__(self, function: Callable[[Any, jax.Array], jax.Array], params: Any, per_device: int):
        devices = jax.local_devices()
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        self.batch = per_device * len(devices)
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._program = jax.jit(function, out_shardings=self._split)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        missing = self.batch - len(values)
        filled = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
        return np.asarray(self._program(self._params, jax.device_put(filled, self._split)))[: len(values)]
