"""Training data of a run: an endless stream of sharded batches, and fixed validation batches."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.video_model import VideoModel
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.training.config import DataConfig
from smcd_jax.training.state import cached_null, is_cached

if TYPE_CHECKING:
    from data_pipeline.batches import HostBatch
    from data_pipeline.examples import ExampleSource
    from data_pipeline.order.permutation import OrderState

STORED = ("fields", "frame_rate")  # arrays of some records only, which `DataConfig` requests by name


class TrainingData:
    """The data sets of a run.

    Attributes:
        sources: Training split of each folder of records.
        batches: Batches of the training split.
    """

    def __init__(self, config: DataConfig, model: VideoModel, base: ModelFolder | None, *, mesh: Mesh, validate: bool):
        """Opens the records, or the feature caches where the run reads them; reads indices only.

        Args:
            config: Data of the run.
            model: Model of the run.
            base: Model folder that training starts from; None to train from scratch.
            mesh: Mesh that batches are sharded over.
            validate: Whether to open the validation split too, so that a fault in it is found before training.

        Raises:
            SMCDError: No records are named, or records or caches are missing, are damaged or belong to another model.
        """
        if not config.records:
            raise SMCDError(
                "config: data.records must name a folder, got none; make one with smcd prepare", argument="data.records"
            )
        self._config, self._model, self._base, self._mesh = config, model, base, mesh
        self.sources = [self._open(folder, config.split) for folder in config.records]
        self._validation = self._open_validation() if validate else []
        self.batches = self._batches(
            self.sources,
            config.batch_size,
            weights=config.weights or None,
            epoch_length=config.epoch_length or None,
            max_bad_share=config.max_bad_share,
        )

    @property
    def fingerprint(self) -> list[str]:
        """Number and digest of each data set's ordered clips; an exact resume requires the same clips."""
        digest = lambda ids: hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]  # noqa: E731
        return [f"{source.name}: {len(source.clip_ids)} clips {digest(source.clip_ids)}" for source in self.sources]

    def examples_before(self, place: OrderState) -> int:
        """Returns the number of training examples before a position."""
        return place.epoch * self.batches.sequence.epoch_length + place.position

    def stream(self, state: OrderState) -> Iterator[HostBatch]:
        """Yields batches from a position on, as global arrays sharded over the mesh."""
        from data_pipeline.prefetch import prefetch_to_device

        return prefetch_to_device(self.batches.iterate(state), self._mesh, self._config.batch_size)

    def validation(self, count: int, *, batch_size: int) -> list[dict[str, jax.Array]]:
        """Returns the same validation examples on every call: ``count``, rounded up to whole batches."""
        from data_pipeline.order.permutation import OrderState
        from data_pipeline.prefetch import prefetch_to_device

        stream = self._batches(self._validation, batch_size).iterate(OrderState(seed=0))
        try:
            placed = prefetch_to_device(stream, self._mesh, batch_size, ahead=1)
            return [batch.arrays for batch in itertools.islice(placed, -(-count // batch_size))]
        finally:
            stream.close()

    def _batches(self, sources: list[ExampleSource], batch_size: int, **options: Any) -> Any:
        from data_pipeline.batches import Batches
        from data_pipeline.prefetch import local_rows

        return Batches(
            sources,
            batch_size,
            rows=local_rows(self._mesh, batch_size),
            short_clips=self._config.short_clips,
            threads=self._config.threads or None,
            **options,
        )

    def _open(self, folder: str, split: str) -> ExampleSource:
        return open_source(self._config, self._model, self._base, Path(folder), split)

    def _open_validation(self) -> list[ExampleSource]:
        from data_pipeline.records.reader import read_manifest

        config = self._config
        wanted = [name.strip() for name in config.validation_split.split(",")]
        held = {folder: read_manifest(Path(folder))["splits"] for folder in config.records}
        chosen = {folder: next((name for name in wanted if name in splits), None) for folder, splits in held.items()}
        found = [self._open(folder, split) for folder, split in chosen.items() if split]
        if not found:
            there = "; ".join(f"{folder} holds {', '.join(splits)}" for folder, splits in held.items())
            raise SMCDError(
                f"config: data.validation_split {config.validation_split!r} is in none of the records ({there}); name "
                "one of their splits, or set run.validate_every=0 and run.sample_every=0",
                argument="data.validation_split",
                value=config.validation_split,
            )
        return found


def open_source(
    config: DataConfig, model: VideoModel, base: ModelFolder | None, folder: Path, split: str
) -> ExampleSource:
    """Returns a split of a folder of records in the form that ``data.inputs`` selects."""
    from data_pipeline.examples import ExampleSize
    from data_pipeline.features.cache import FeatureCache, read_features_manifest
    from data_pipeline.features.clip_cache import ClipCache, ClipFeatureSource
    from data_pipeline.features.latent_source import LatentSource
    from data_pipeline.features.source import FeatureSource
    from data_pipeline.records.reader import RecordFolder
    from data_pipeline.sources import VideoSource

    if config.frame_rate and not model.reads_frame_rate:
        message = "config: data.frame_rate must be False for a model that reads no frame rate, got True"
        raise SMCDError(message, argument="data.frame_rate", value=True)
    shape = model.config
    size = ExampleSize(frames=config.frames, height=shape.height, width=shape.width, objects=shape.max_objects)
    texts: dict[str, Any] = {"tokenizer": tokenizer(base), "token_length": shape.text_length}
    if config.inputs == "video":
        records = RecordFolder(folder, split)
        stored = {name: getattr(config, name) for name in STORED}
        return VideoSource(records, size, crop_keep=config.crop_keep, **stored, **texts)
    for name in STORED:
        if getattr(config, name):
            raise SMCDError(f"config: data.{name} needs data.inputs=video", argument=f"data.{name}", value=True)
    if config.crop_keep != 1:
        raise SMCDError(
            f"config: data.crop_keep must be 1 unless data.inputs=video, got {config.crop_keep:g}; cached latents "
            "cannot be cropped",
            argument="data.crop_keep",
            value=config.crop_keep,
        )
    cached = folder / config.features / split
    identity = _encoder_identity(model, base)
    if model.max_clip_error is not None:
        needed = [step for step in model.feature_steps if is_cached(step, config.inputs)]
        made = {step.component: identity[step.component] for step in needed}
        shapes = model.feature_shapes(1, config.frames, cached=lambda step: is_cached(step, config.inputs))
        return ClipFeatureSource(ClipCache(cached, encoders=made), size, tuple(shapes))
    if config.inputs == "features":
        return FeatureSource(FeatureCache(cached, encoders=identity), size)
    # Only the encoders of frames must match: the text encoder is trained, so it may differ from the cache's.
    frames = {step.component: identity[step.component] for step in model.feature_steps if step.source == "video"}
    cache = FeatureCache(cached, encoders={**read_features_manifest(cached)["encoders"], **frames})
    return LatentSource(cache, RecordFolder(folder, split), size, **texts)


def stored_shapes(config: DataConfig, model: VideoModel) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the arrays that a batch holds because the config asks for them (`STORED`)."""
    shape, rows = jax.ShapeDtypeStruct, config.batch_size
    shapes = {
        "fields": shape((rows, config.frames, *model.field_shape), np.float32),
        "frame_rate": shape((rows,), np.float32),
    }
    return {name: shapes[name] for name in STORED if getattr(config, name)}


def tokenizer(base: ModelFolder | None) -> Tokenizer:
    """Returns the tokenizer of the model folder that training starts from, else the published one."""
    return Tokenizer.published() if base is None else base.tokenizer()


def null_arrays(config: DataConfig, model: VideoModel, base: ModelFolder | None) -> dict[str, np.ndarray]:
    """Returns the arrays that replace dropped conditions, leading axis 1: raw arrays, or features of the cache."""
    from data_pipeline.features.cache import FeatureCache

    null = model.null_raw(tokenizer(base))
    if not (steps := cached_null(model, null, config.inputs)):
        return null
    folder = Path(config.records[0]) / config.features / config.split
    cache = FeatureCache(folder, encoders=_encoder_identity(model, base))
    for step in steps:
        if step.name != "null_text":
            raise SMCDError(f"{folder}: the cache does not hold {step.name}", argument="data.inputs", path=folder)
        del null[step.source]
        null[step.name] = cache.null_text[None]
    return null


def _encoder_identity(model: VideoModel, base: ModelFolder | None) -> dict[str, str]:
    from data_pipeline.features.encoder_identity import encoder_identity

    if base is None:
        raise SMCDError(
            "config: init.model must name the model whose encoders made the cached features, got none; pass "
            "--config.init.model=MODEL",
            argument="init.model",
        )
    return encoder_identity(base.path, {step.component for step in model.feature_steps})
