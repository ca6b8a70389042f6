"""Examples with cached latents and texts as token ids, for training the text encoder."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from data_pipeline.examples import ArraySpec, ExampleSize
from data_pipeline.features.cache import FeatureCache
from data_pipeline.features.source import FeatureSource
from data_pipeline.records.reader import RecordFolder
from smcd_jax.errors import SMCDError
from smcd_jax.tokenizer import CONTEXT_LENGTH, Tokenizer

_MAX_CACHED_TEXTS = 65536  # about 20 MB of token ids


class LatentSource:
    """Fills `latents` (scaled), `token_ids`, `boxes`, `mask` and `label_ids` (see `examples.ExampleSource`).

    Over the same data, seed and settings it gives the same clips and windows as `FeatureSource` and `VideoSource`.
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
        """Wraps a cache and the records it was made from.

        Args:
            cache: Feature cache of the split.
            records: The same split of the prepared records.
            size: Size of an example; height and width must be those of the cache.
            tokenizer: Tokenizer of the model.
            token_length: Number of token ids per text.

        Raises:
            SMCDError: Cache and records hold different clips, or the cache was made at another frame size.
        """
        if cache.clip_ids != records.clip_ids:
            raise SMCDError(
                f"{cache.folder}: the feature cache and {records.folder} (split {records.split!r}) hold different "
                "clips; make the cache again with 'smcd prepare --features MODEL'",
                argument="records",
                path=cache.folder,
            )
        self._latents, self._records, self._token_length = FeatureSource(cache, size), records, token_length
        self.name, self.size = self._latents.name, size
        self.clip_ids, self.num_frames = cache.clip_ids, cache.num_frames
        # A cache on a method would keep every source alive.
        self._texts = functools.lru_cache(_MAX_CACHED_TEXTS)(
            lambda text: tokenizer.encode([text], length=token_length)[0]
        )
        self._annotations: dict[int, tuple[str, tuple[str, ...]]] = {}

    def specs(self) -> dict[str, ArraySpec]:
        """See `ExampleSource.specs`."""
        tokens = self._token_length
        specs = {name: spec for name, spec in self._latents.specs().items() if name not in ("text", "labels")}
        return specs | {
            "token_ids": ArraySpec((tokens,), np.int32),
            "label_ids": ArraySpec((self.size.objects, tokens), np.int32),
        }

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """See `ExampleSource.fill`."""
        caption, labels = self._annotated(clip)
        chosen, dropped, *_ = self._latents.fill_latents(row, clip=clip, start=start, key=key)
        row["token_ids"][:] = self._texts(caption)
        for place, index in enumerate(chosen):
            row["label_ids"][place] = self._texts(labels[index])
        return dropped

    def _annotated(self, clip: int) -> tuple[str, tuple[str, ...]]:
        if clip not in self._annotations:
            record = self._records.annotations(clip)
            labels = tuple(label.decode() for label in record["labels"])
            self._annotations[clip] = record["caption"].decode(), labels
        return self._annotations[clip]
