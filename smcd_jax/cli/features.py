"""Feature caches of prepared records, for `smcd prepare --features MODEL`.

A model's frozen encoders run over frames and texts in batches that are split over all local devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from data_pipeline.features.clip_writer import ClipEncoders, ClipReport, write_clip_features
from data_pipeline.features.encoder_identity import encoder_identity
from data_pipeline.features.writer import FeatureEncoders, FeatureReport, write_features
from data_pipeline.records.reader import RecordFolder, read_manifest
from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.registry import make_model
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import network
from smcd_jax.runtime.compilation import enable_compile_cache

FRAMES_PER_DEVICE, TEXTS_PER_DEVICE, CLIPS_PER_DEVICE = 8, 16, 4


def prepare_features(
    records: Path,
    model: str | Path,
    *,
    output: Path | None = None,
    splits: Sequence[str] | None = None,
    height: int | None = None,
    width: int | None = None,
    dtype: str | None = None,
    max_clip_error: float | None = None,
    workers: int = 2,
    max_bad_share: float = 0.01,
    progress: bool = True,
) -> list[FeatureReport] | list[ClipReport]:
    """Writes the feature cache of a folder of records; after an interruption, the same call resumes.

    Args:
        records: Folder of the records.
        model: Model folder, or the name of a shipped model.
        output: Folder of the caches, with one folder per split; None for ``features`` in the folder of the records.
        splits: Splits to encode; None for all.
        height: Frame height in pixels; None for that of the model.
        width: Frame width in pixels; None for that of the model.
        dtype: "float32" or "bfloat16"; None for bfloat16 on accelerators and float32 on CPU.
        max_clip_error: Largest reconstruction error of a clip that is kept, as a mean squared error of pixels in
            0..255, for models that encode whole clips; None for that of the model.
        workers: Number of threads that decode frames.
        max_bad_share: Largest share of unusable frames, 0..1.
        progress: Whether to show a progress bar.

    Raises:
        SMCDError: The records or the model do not exist, the cache cannot be written (`write_features`), or
            ``max_clip_error`` is given for a model that encodes frames.
    """
    content = read_manifest(records)
    chosen = list(content["splits"]) if splits is None else splits
    folders = [RecordFolder(records, split) for split in chosen]
    if make_model(ModelFolder(model).config).max_clip_error is not None:
        clips = clip_encoders(ModelFolder(model), dtype=dtype, max_error=max_clip_error)
        target = output or records / "features"
        return [write_clip_features(folder, target / folder.split, clips, progress=progress) for folder in folders]
    if max_clip_error is not None:
        raise SMCDError(
            f"max_clip_error applies to models of motion, which {model} is not; omit it",
            argument="max_clip_error",
            value=max_clip_error,
        )
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
    """Returns the frozen encoders of a model, on all local devices.

    Args:
        folder: Model folder.
        height: Frame height in pixels; None for that of the model.
        width: Frame width in pixels; None for that of the model.
        dtype: "float32" or "bfloat16"; None for bfloat16 on accelerators and float32 on CPU.
    """
    enable_compile_cache()
    config, policy = folder.config, ComputePolicy.for_device(dtype)
    model = make_model(config, policy)
    steps = {step.source: step for step in model.feature_steps}
    params = {name: folder.params(name, dtype=policy.params) for name in {step.component for step in steps.values()}}

    def encoder(source: str, apply: Callable[[Any, jax.Array], jax.Array], per_device: int) -> _OnAllDevices:
        return _OnAllDevices(apply, params[steps[source].component], per_device)

    def texts(source: str) -> _OnAllDevices:
        return encoder(source, lambda params, ids: steps[source].apply(params, ids, None), TEXTS_PER_DEVICE)

    frame_config = model.components[steps["video"].component].config
    frame_network = network(frame_config, policy)
    frames = encoder("video", lambda params, x: _moments(frame_network, params, x), FRAMES_PER_DEVICE)
    captions, labels = texts("token_ids"), texts("label_ids")
    tokenizer, length = folder.tokenizer(), config.text_length
    return FeatureEncoders(
        identity=encoder_identity(folder.path, params),
        precision=jnp.dtype(policy.compute).name,
        height=height or config.height,
        width=width or config.width,
        scaling_factor=frame_config.scaling_factor,
        frame_batch=frames.batch,
        text_batch=captions.batch,
        moments=frames,
        texts=lambda texts: captions(tokenizer.encode(texts, length=length)),
        labels=lambda texts: labels(tokenizer.encode(texts, length=length)),
    )


def clip_encoders(folder: ModelFolder, *, dtype: str | None = None, max_error: float | None = None) -> ClipEncoders:
    """Returns the frozen encoders of a model that encodes whole clips, on all local devices.

    Args:
        folder: Model folder.
        dtype: "float32" or "bfloat16"; None for bfloat16 on accelerators and float32 on CPU.
        max_error: Largest reconstruction error of a clip that is kept, as a mean squared error of pixels in 0..255;
            None for that of the model.
    """
    enable_compile_cache()
    config, policy = folder.config, ComputePolicy.for_device(dtype)
    model = make_model(config, policy)
    names = {step.component for step in model.feature_steps} | set(model.in_stage("decode"))
    params = {name: folder.params(name, dtype=policy.params) for name in names}
    tokenizer, length = folder.tokenizer(), config.text_length
    stored = model.feature_shapes(1, config.frames)

    def encode(params: Any, videos: jax.Array, ids: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        features = model.features(params, {"video": videos, "token_ids": ids}, jax.random.key(0))
        return {name: features[name] for name in stored}, model.clip_errors(params, videos, features)

    program = _OnAllDevices(encode, params, CLIPS_PER_DEVICE)

    def encode_clips(videos: np.ndarray, captions: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        ids = tokenizer.encode(captions, length=length)
        arrays, errors = program(videos, ids)
        return {**arrays, "token_ids": ids}, errors

    return ClipEncoders(
        identity=encoder_identity(folder.path, {step.component for step in model.feature_steps}),
        precision=jnp.dtype(policy.compute).name,
        **{name: getattr(config, name) for name in ("frames", "height", "width")},
        batch=program.batch,
        max_error=model.max_clip_error if max_error is None else max_error,
        encode=encode_clips,
    )


def _moments(autoencoder: Any, params: Any, frames: jax.Array) -> jax.Array:
    """Returns mean and log-variance [b, 2, h, w, c] of uint8 frames, scaled to -1..1 as by `media.to_model_range`."""
    pictures = (frames.astype(jnp.float32) / jnp.float32(255) - jnp.float32(0.5)) / jnp.float32(0.5)
    posterior = autoencoder.apply({"params": params}, pictures, method="posterior")
    return jnp.stack([posterior.mean, posterior.log_variance], axis=1)


class _OnAllDevices:
    """A program over batches of a fixed size, split over the local devices; smaller batches are padded."""

    def __init__(self, function: Callable[..., Any], params: Any, per_device: int):
        devices = jax.local_devices()
        mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        self.batch = per_device * len(devices)
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._program = jax.jit(function, out_shardings=self._split)

    def __call__(self, *values: np.ndarray) -> Any:
        count = len(values[0])
        filled = [np.concatenate([part, np.repeat(part[-1:], self.batch - count, axis=0)]) for part in values]
        out = self._program(self._params, *jax.device_put(filled, self._split))
        return jax.tree.map(lambda part: np.asarray(part)[:count], out)
