"""The data sets as builders of TensorFlow Datasets, for programs that use `tfds.load`.

Importing this module registers the builders. The raw data are in TFDS's manual folder:

    import tensorflow_datasets as tfds
    import data_pipeline.builders.tfds_builders
    config = tfds.download.DownloadConfig(manual_dir="/data/GOT-10k")
    tfds.load("got10k", split="train", download_and_prepare_kwargs={"download_config": config})

The examples are those of `smcd prepare`, in TFDS's order, without frame rates and the index that training needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from data_pipeline.builders import Source, make_source
from data_pipeline.checks import require_bad_share
from data_pipeline.records.schema import SCHEMA_VERSION, BadClip, clip_to_example, features

MAX_BAD_SHARE = 0.01


class _SourceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder for the source of the same name.

    Args:
        options: Further arguments of the source.
        max_bad_share: Largest share of bad clips per split, 0 to 1.
        **arguments: Arguments of every TFDS builder: `data_dir`, `version` and so on.
    """

    # Path under which TFDS looks for download checksums; there are none. TFDS's default needs importlib_resources,
    # which TFDS 4.9.10 does not install.
    code_path = None
    VERSION = tfds.core.Version(f"{SCHEMA_VERSION}.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Pass the folder of the raw data as manual_dir; docs/data_sets.md describes how to get it."
    )

    def __init__(
        self, *, options: Mapping[str, Any] | None = None, max_bad_share: float = MAX_BAD_SHARE, **arguments: Any
    ):
        self._options, self._max_bad_share = dict(options or {}), max_bad_share
        super().__init__(**arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=features(), description=type(self).__doc__)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, Any]]]:
        source = self._source(dl_manager)
        source.validate()
        return {split: self._generate_examples(source, split) for split in source.splits if source.clip_ids(split)}

    def _source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        return make_source(self.name, dl_manager.manual_dir, **self._options)

    def _generate_examples(self, source: Source, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        clip_ids, bad = source.clip_ids(split), 0
        for index, clip_id in enumerate(clip_ids):
            try:
                clip = source.clip(split, index)
            except BadClip as error:
                bad += 1
                where = f"{self.name} ({split})"
                require_bad_share(bad, len(clip_ids), self._max_bad_share, where=where, example=error.reason)
                continue
            yield clip_id, clip_to_example(clip)


class Got10k(_SourceBuilder):
    """GOT-10k: videos of one moving object, with a box in every frame."""


class YoutubeVis(_SourceBuilder):
    """YouTube-VIS 2021: videos of several objects, with a hold-out split taken from the training part."""


class Grounding(_SourceBuilder):
    """Grounded still images in GLIGEN's TSV files."""


class TracksFolder(_SourceBuilder):
    """A user's own videos, with or without tracks of boxes."""


class Webvid(_SourceBuilder):
    """Captioned videos without boxes, listed in the CSV files of WebVid."""


class Sprites(_SourceBuilder):
    """Procedurally generated videos of named sprites that move over varied backgrounds."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = None

    def _source(self, dl_manager: tfds.download.DownloadManager) -> Source:
        return make_source(self.name, None, **self._options)


class Winds(Sprites):
    """Procedurally generated videos of textures that sway, grow and drift."""
