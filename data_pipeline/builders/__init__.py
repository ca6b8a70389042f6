"""Sources of clips, one per data set: what each must offer, and the registry that finds one by its name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from data_pipeline.records.schema import Clip
from smcd_jax.errors import SMCDError


@dataclass(frozen=True)
class RawReport:
    """What a look at the raw data found before any clip is made.

    Attributes:
        clips: number of clips that each split offers, damaged ones included.
        notes: what a user should know, in words: clips excluded by the data set's rules, files passed over.
    """

    clips: dict[str, int]
    notes: tuple[str, ...] = field(default=())


class Source(Protocol):
    """Clips of one data set in random access. Made as `Source(folder, **options)`.

    An instance goes to other processes (pickle), so it holds lists and arrays, no open file and no pictures. The same
    raw data give the same ids in the same order and the same clips, in any process.

    Attributes:
        name: of the data set, as in `smcd prepare NAME` and in the names of its files.
        splits: the splits it offers, those that are prepared by default first.
    """

    name: str
    splits: tuple[str, ...]

    def clip_ids(self, split: str) -> Sequence[str]:
        """Ids of the split's clips, sorted, each once; position in it is the `index` of `clip`. Cheap."""

    def clip(self, split: str, index: int) -> Clip:
        """One clip.

        Raises:
            BadClip: the raw data of this clip are damaged; the caller counts and skips it.
        """

    def validate(self) -> RawReport:
        """Check the raw data as a whole before the work begins: layout, files that all clips need.

        Raises:
            SMCDError: nothing can be prepared from this folder; says what was expected where.
        """


SOURCES = {
    "got10k": "data_pipeline.builders.got10k:GOT10k",
    "youtube_vis": "data_pipeline.builders.youtube_vis:YouTubeVIS2021",
    "grounding": "data_pipeline.builders.grounding:Grounding",
    "tracks_folder": "data_pipeline.builders.tracks_folder:TracksFolder",
    "sprites": "data_pipeline.builders.sprites:Sprites",
}


def make_source(name: str, folder: Path | None, **options) -> Source:
    """The source of that name over the raw data in `folder` (None for `sprites`, which needs none).

    Raises:
        SMCDError: no such data set, or what the source itself says about the folder.
    """
    if name not in SOURCES:
        raise SMCDError(f"data set {name!r} is unknown: use one of {', '.join(SOURCES)}")
    module, attribute = SOURCES[name].split(":")
    made = getattr(importlib.import_module(module), attribute)
    if folder is None and inspect.signature(made).parameters["folder"].default is inspect.Parameter.empty:
        raise SMCDError(f"data set {name} is read from a folder: give it with --source")
    return made(folder, **options)
