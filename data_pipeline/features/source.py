"""Examples of a feature cache: latents sampled from the posterior, texts as embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_pipeline.examples import ArraySpec, ExampleSize, fill_boxes
from data_pipeline.features.cache import FeatureCache
from data_pipeline.order.permutation import fold
from data_pipeline.order.windows import window_frames
from smcd_jax.errors import SMCDError

_NOISE = 21  # stream id for `fold`: posterior noise


class FeatureSource:
    """Fills `latents` (scaled), `text`, `boxes`, `mask` and `labels` (see `data_pipeline.examples.ExampleSource`).

    Over the same data, seed and settings it gives the same clips and windows as `sources.VideoSource`.
    """

    def __init__(self, cache: FeatureCache, size: ExampleSize):
        """Wraps a cache.

        Args:
            cache: Feature cache of one split.
            size: Size of an example; height and width must be those of the cache.

        Raises:
            SMCDError: The cache was made at another frame size.
        """
        manifest = cache.manifest
        if (manifest["height"], manifest["width"]) != (size.height, size.width):
            raise SMCDError(
                f"{cache.folder}: frames of the feature cache must be {size.width} x {size.height} pixels, got "
                f"{manifest['width']} x {manifest['height']}; make a cache of that size or train at the cached size",
                argument="size",
                path=cache.folder,
                value=(size.width, size.height),
            )
        records = manifest["records"]
        self.name, self.size = f"{records['name']} ({records['split']})", size
        self.clip_ids, self.num_frames = cache.clip_ids, cache.num_frames
        self._cache = cache

    def specs(self) -> dict[str, ArraySpec]:
        """See `ExampleSource.specs`."""
        size, manifest = self.size, self._cache.manifest
        return {
            "latents": ArraySpec((size.frames, *manifest["moments"][1:]), np.float32),
            "text": ArraySpec(tuple(manifest["text"]), np.float32),
            "boxes": ArraySpec((size.frames, size.objects, 4), np.float32),
            "mask": ArraySpec((size.frames, size.objects), np.float32),
            "labels": ArraySpec((size.objects, manifest["label"]), np.float32),
        }

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """See `ExampleSource.fill`."""
        chosen, dropped, text, labels = self.fill_latents(row, clip=clip, start=start, key=key)
        row["text"][:] = text
        row["labels"][: len(chosen)] = labels[chosen]
        return dropped

    def fill_latents(
        self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64
    ) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """Fills every array except `text` and `labels`.

        Returns:
            Indices of the chosen objects, number of dropped objects, caption embedding, label embeddings.
        """
        manifest, latents = self._cache.manifest, row["latents"]
        count = min(self.size.frames, int(self.num_frames[clip]) - start)
        moments = np.empty((count, *manifest["moments"]), np.float16)
        text = np.empty(tuple(manifest["text"]), np.float16)
        window = self._cache.read(clip, start, moments=moments, text=text)
        held = window_frames(0, self.size.frames, count)
        # One generator per example; SFC64 is NumPy's fastest bit generator for normal numbers.
        generator = np.random.Generator(np.random.SFC64(int(fold(key, _NOISE))))
        generator.standard_normal(out=latents, dtype=np.float32)
        latents *= np.exp(np.float32(0.5) * moments[:, 1].astype(np.float32))[held]
        latents += moments[held, 0]
        latents *= np.float32(manifest["scaling_factor"])
        chosen, dropped = fill_boxes(row, window.boxes[held], window.mask[held])
        return chosen, dropped, text, window.labels
