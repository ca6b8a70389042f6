"""What a run's config says of data, as an endless stream of batches on the devices and a fixed validation batch."""

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
from smcd_jax.models.registry import make_model
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.training.config import TrainConfig

if TYPE_CHECKING:
    from data_pipeline.batches import Batches, HostBatch
    from data_pipeline.examples import ExampleSource
    from data_pipeline.order.permutation import OrderState


class TrainingData:
    """The data sets of a run. Opening reads indices only."""

    def __init__(self, config: TrainConfig, mesh: Mesh):
        """Opens the records, and caches where the run reads them.

        Raises:
            SMCDError: no data named, or records or caches that are missing, damaged or of another model.
        """
        from data_pipeline.batches import Batches
        from data_pipeline.prefetch import local_rows

        self.config, self.mesh = config, mesh
        data = config.data
        if not data.records:
            raise SMCDError(
                "config: data.records must name a folder, got none; make one with smcd prepare", argument="data.records"
            )
        self.sources = [open_source(config, Path(folder), data.split) for folder in data.records]
        self._validation = self._open_validation()
        self.batches: Batches = Batches(
            self.sources,
            data.batch_size,
            rows=local_rows(mesh, data.batch_size),
            weights=data.weights or None,
            epoch_length=data.epoch_length or None,
            short_clips=data.short_clips,
            max_bad_share=data.max_bad_share,
            threads=data.threads or None,
        )

    @property
    def fingerprint(self) -> list[str]:
        """Which clips, in which order and share: what must be the same for a run to go on exactly."""
        digest = lambda ids: hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]  # noqa: E731
        return [f"{source.name}: {len(source.clip_ids)} clips {digest(source.clip_ids)}" for source in self.sources]

    def place(self, values: dict[str, int]) -> OrderState:
        """The place in the order that a checkpoint holds."""
        from data_pipeline.order.permutation import OrderState

        return OrderState.from_dict(values)

    def examples_before(self, place: OrderState) -> int:
        """Number of examples of the training data before a place in their order."""
        return place.epoch * self.batches.sequence.epoch_length + place.position

    def start(self) -> OrderState:
        """The place before the first example."""
        from data_pipeline.order.permutation import OrderState

        return OrderState(seed=self.config.seed)

    def stream(self, state: OrderState) -> Iterator[HostBatch]:
        """Batches from a place on, as global arrays sharded over the mesh."""
        from data_pipeline.prefetch import prefetch_to_device

        return prefetch_to_device(self.batches.iterate(state), self.mesh, self.config.data.batch_size)

    def validation(self, count: int, *, batch_size: int) -> list[dict[str, jax.Array]]:
        """The same examples of the validation split every time: ``count``, or as many more as fill the batches."""
        from data_pipeline.batches import Batches
        from data_pipeline.order.permutation import OrderState
        from data_pipeline.prefetch import local_rows, prefetch_to_device

        data = self.config.data
        batches = Batches(
            self._validation,
            batch_size,
            rows=local_rows(self.mesh, batch_size),
            short_clips=data.short_clips,
            threads=data.threads or None,
        )
        stream = batches.iterate(OrderState(seed=0))
        try:
            placed = prefetch_to_device(stream, self.mesh, batch_size, ahead=1)
            return [batch.arrays for batch in itertools.islice(placed, -(-count // batch_size))]
        finally:
            stream.close()

    def _open_validation(self) -> list[ExampleSource]:
        """What validation reads, opened before the run begins, so that a fault in it does not end it later."""
        from data_pipeline.records.reader import read_manifest

        data, run = self.config.data, self.config.run
        if not run.validate_every and not (run.sample_every and run.samples):
            return []
        wanted = [name.strip() for name in data.validation_split.split(",")]
        held = {folder: read_manifest(Path(folder))["splits"] for folder in data.records}
        chosen = {folder: next((name for name in wanted if name in splits), None) for folder, splits in held.items()}
        found = [open_source(self.config, Path(folder), split) for folder, split in chosen.items() if split]
        if not found:
            there = "; ".join(f"{folder} holds {', '.join(splits)}" for folder, splits in held.items())
            raise SMCDError(
                f"config: data.validation_split {data.validation_split!r} is in none of the records ({there}); name "
                "one of their splits, or set run.validate_every=0 and run.sample_every=0",
                argument="data.validation_split",
                value=data.validation_split,
            )
        return found


def open_source(config: TrainConfig, folder: Path, split: str) -> ExampleSource:
    """One data set of a run, in the form that ``data.inputs`` asks for."""
    from data_pipeline.examples import ExampleSize
    from data_pipeline.features.cache import FeatureCache, read_features_manifest
    from data_pipeline.features.encoder_identity import encoder_identity
    from data_pipeline.features.latent_source import LatentSource
    from data_pipeline.features.source import FeatureSource
    from data_pipeline.records.reader import RecordFolder
    from data_pipeline.sources import VideoSource

    data, model = config.data, config.model
    size = ExampleSize(frames=data.frames, height=model.height, width=model.width, objects=model.max_objects)
    texts: dict[str, Any] = {"tokenizer": tokenizer(config), "token_length": model.text_length}
    if data.inputs == "video":
        return VideoSource(RecordFolder(folder, split), size, crop_keep=data.crop_keep, **texts)
    if data.crop_keep != 1:
        raise SMCDError(
            f"config: data.crop_keep must be 1 unless data.inputs=video, got {data.crop_keep:g}; cached latents cannot "
            "be cropped",
            argument="data.crop_keep",
            value=data.crop_keep,
        )
    cached = folder / data.features / split
    identity = encoder_identity(ModelFolder(_encoders(config)).path)
    if data.inputs == "features":
        return FeatureSource(FeatureCache(cached, encoders=identity), size)
    # the text tower may differ from the one that made the cache: it is what is trained
    made_by = read_features_manifest(cached)["encoders"]
    cache = FeatureCache(cached, encoders={**made_by, "autoencoder": identity["autoencoder"]})
    return LatentSource(cache, RecordFolder(folder, split), size, **texts)


def tokenizer(config: TrainConfig) -> Tokenizer:
    """Of the model folder that training starts from, else the published one."""
    return ModelFolder(config.init.model).tokenizer() if config.init.model else Tokenizer.published()


def base_digest(config: TrainConfig) -> str:
    """The hash of the model folder that training starts from; empty for none."""
    return ModelFolder(config.init.model).digest if config.init.model else ""


def null_arrays(config: TrainConfig) -> dict[str, np.ndarray]:
    """What a dropped prompt becomes, leading axis 1: its embedding from the cache, or its token ids."""
    from data_pipeline.features.cache import FeatureCache
    from data_pipeline.features.encoder_identity import encoder_identity

    if config.data.inputs != "features":
        prompt = make_model(config.model).null_prompt
        return {"null_ids": tokenizer(config).encode([prompt], length=config.model.text_length)}
    folder = Path(config.data.records[0]) / config.data.features / config.data.split
    cache = FeatureCache(folder, encoders=encoder_identity(ModelFolder(_encoders(config)).path))
    return {"null_text": cache.null_text[None]}


def _encoders(config: TrainConfig) -> str:
    if not config.init.model:
        raise SMCDError(
            "config: init.model must name the model whose encoders made the cached features, got none",
            argument="init.model",
        )
    return config.init.model
