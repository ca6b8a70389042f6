"""Examples of a feature cache: latents sampled from the posterior, texts as embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipeline.examples import ArraySpec, ExampleSize, fill_boxes
from data_pipeline.features.cache import CachedWindow, FeatureCache
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
        """See `ExampleSource.specs`. `finish` turns `moments` and `noise` into `latents`, and float16 into float32."""
        size, manifest = self.size, self._cache.manifest
        pair = tuple(manifest["moments"])
        return {
            "moments": ArraySpec((size.frames, *pair), np.float16),
            "noise": ArraySpec((size.frames, *pair[1:]), np.float32),
            "text": ArraySpec(tuple(manifest["text"]), np.float16),
            "boxes": ArraySpec((size.frames, size.objects, 4), np.float32),
            "mask": ArraySpec((size.frames, size.objects), np.float32),
            "labels": ArraySpec((size.objects, manifest["label"]), np.float16),
        }

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """See `ExampleSource.fill`."""
        chosen, dropped, window = self._fill(row, row["text"], clip=clip, start=start, key=key)
        row["labels"][: len(chosen)] = window.labels[chosen]
        return dropped

    def fill_latents(
        self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64
    ) -> tuple[np.ndarray, int]:
        """Like `fill`, without `text` and `labels`; returns the indices of the chosen objects and how many dropped."""
        text = np.empty(tuple(self._cache.manifest["text"]), np.float16)
        return self._fill(row, text, clip=clip, start=start, key=key)[:2]

    def _fill(
        self, row: Mapping[str, np.ndarray], text: np.ndarray, *, clip: int, start: int, key: np.uint64
    ) -> tuple[np.ndarray, int, CachedWindow]:
        count = min(self.size.frames, int(self.num_frames[clip]) - start)
        window = self._cache.read(clip, start, moments=row["moments"][:count], text=text)
        row["moments"][count:] = row["moments"][count - 1]
        # One generator per example; SFC64 is NumPy's fastest bit generator for normal numbers.
        generator = np.random.Generator(np.random.SFC64(int(fold(key, _NOISE))))
        generator.standard_normal(out=row["noise"], dtype=np.float32)
        held = window_frames(0, self.size.frames, count)
        chosen, dropped = fill_boxes(row, window.boxes[held], window.mask[held])
        return chosen, dropped, window

    def finish(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Samples from the posterior and converts float16 to float32; TensorFlow does both twice as fast as NumPy."""
        import tensorflow as tf

        tensors = dict(tensors)
        moments = tf.cast(tensors.pop("moments"), tf.float32)
        latents = moments[:, :, 0] + tf.exp(0.5 * moments[:, :, 1]) * tensors.pop("noise")
        tensors["latents"] = latents * self._cache.manifest["scaling_factor"]
        halves = [name for name in ("text", "labels") if name in tensors]
        return tensors | {name: tf.cast(tensors[name], tf.float32) for name in halves}
