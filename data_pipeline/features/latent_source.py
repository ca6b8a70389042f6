"""Owns the half-cached path: latents of a feature cache with texts as token ids, for training the text tower."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipeline.examples import ArraySpec, ExampleSize
from data_pipeline.features.cache import FeatureCache
from data_pipeline.features.source import FeatureSource
from data_pipeline.records.reader import RecordFolder
from smcd_jax.errors import SMCDError
from smcd_jax.tokenizer import CONTEXT_LENGTH, Tokenizer

_TEXTS_KEPT = 65536  # token ids of so many texts are remembered, 20 MB


class LatentSource:
    """Fills `latents` (scaled), `token_ids`, `boxes`, `mask` and `label_ids` (see `examples.ExampleSource`).

    Its clips and windows are those of `FeatureSource` and of `VideoSource` over the same data.
    """

    def __init__(
        self,
        cache: FeatureCache,
        records: RecordFolder,
        size: ExampleSize,
        *,
        tokenizer: Tokenizer,
        token_length: int = CONTEXT_LENGTH,
    ):
        """Wraps a cache and the records it was made of.

        Raises:
            SMCDError: they are of different clips, or the cache is of frames of another size.
        """
        if cache.clip_ids != records.clip_ids:
            raise SMCDError(
                f"{cache.folder}: this feature cache is of other clips than {records.folder} ({records.split}): make "
                "it again with smcd prepare --features MODEL"
            )
        self._latents, self._records, self._token_length = FeatureSource(cache, size), records, token_length
        self.name, self.size = self._latents.name, size
        self.clip_ids, self.num_frames = cache.clip_ids, cache.num_frames
        self._texts = functools.lru_cache(_TEXTS_KEPT)(
            lambda text: tokenizer.encode([text], length=token_length)[0]  # a method would keep every source alive
        )
        self._annotations: dict[int, tuple[str, tuple[str, ...]]] = {}

    def specs(self) -> dict[str, ArraySpec]:
        """As `ExampleSource.specs`."""
        tokens = self._token_length
        of_latents = {name: spec for name, spec in self._latents.specs().items() if name not in ("text", "labels")}
        return of_latents | {
            "token_ids": ArraySpec((tokens,), np.int32),
            "label_ids": ArraySpec((self.size.objects, tokens), np.int32),
        }

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """As `ExampleSource.fill`."""
        caption, labels = self._annotated(clip)
        chosen, dropped = self._latents.fill_latents(row, clip=clip, start=start, key=key)
        row["token_ids"][:] = self._texts(caption)
        for place, index in enumerate(chosen):
            row["label_ids"][place] = self._texts(labels[index])
        return dropped

    def finish(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Draws latents from the posterior."""
        return self._latents.finish(tensors)

    def _annotated(self, clip: int) -> tuple[str, tuple[str, ...]]:
        if clip not in self._annotations:
            record = self._records.annotations(clip)
            labels = tuple(label.decode() for label in record["labels"])
            self._annotations[clip] = record["caption"].decode(), labels
        return self._annotations[clip]
