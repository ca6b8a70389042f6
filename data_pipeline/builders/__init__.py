"""Sources of clips, one per data set: their interface, and a registry by name."""

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
    """Report on raw data before any clip is made.

    Attributes:
        clips: Number of clips per split, including damaged ones.
        notes: Notes for the user as text: clips excluded by the data set's rules, files ignored.
    """

    clips: dict[str, int]
    notes: tuple[str, ...] = field(default=())


class Source(Protocol):
    """Random access to the clips of one data set. Constructed as `Source(folder, **options)`.

    Instances are pickled for other processes, so they hold lists and arrays but no open files or pictures. The same
    raw data give the same ids in the same order and the same clips, in any process.

    A source of a user's own files may have a method `fingerprint(split, index) -> str`, a hash of the raw files of one
    clip: a shard is written again if it changes before the records are complete.

    Attributes:
        name: Name of the data set, used in `smcd prepare NAME` and in the names of its files.
        splits: Names of its splits.
    """

    name: str
    splits: tuple[str, ...]

    def clip_ids(self, split: str) -> Sequence[str]:
        """Returns the ids of the split's clips, sorted and unique; `clip` takes an index into them. Cheap."""

    def clip(self, split: str, index: int) -> Clip:
        """Reads one clip.

        Raises:
            BadClip: The raw data of this clip are damaged; the caller counts and skips it.
        """

    def validate(self) -> RawReport:
        """Checks the layout of the raw data and the files that all clips need.

        Raises:
            SMCDError: Nothing can be prepared from this folder.
        """


SOURCES = {
    "got10k": "data_pipeline.builders.got10k:GOT10k",
    "youtube_vis": "data_pipeline.builders.youtube_vis:YouTubeVIS2021",
    "grounding": "data_pipeline.builders.grounding:Grounding",
    "tracks_folder": "data_pipeline.builders.tracks_folder:TracksFolder",
    "webvid": "data_pipeline.builders.webvid:WebVid",
    "sprites": "data_pipeline.builders.sprites:Sprites",
    "winds": "data_pipeline.builders.winds:Winds",
}


def make_source(name: str, folder: Path | None, **options) -> Source:
    """Opens the source of a data set.

    Args:
        name: Name of the data set, one of `SOURCES`.
        folder: Folder of the raw data; None for `sprites` and `winds`, which are generated.
        **options: Further arguments of the source.

    Raises:
        SMCDError: The name or an option is unknown, the folder is missing, or the source rejects the folder.
    """
    if name not in SOURCES:
        raise SMCDError(f"data set must be one of {', '.join(SOURCES)}, got {name!r}", argument="name", value=name)
    module, attribute = SOURCES[name].split(":")
    source_class = getattr(importlib.import_module(module), attribute)
    parameters = inspect.signature(source_class).parameters
    if folder is None and parameters["folder"].default is inspect.Parameter.empty:
        raise SMCDError(f"data set {name} needs the folder of the raw data; pass --source DIR", argument="source")
    known = [parameter.name for parameter in parameters.values() if parameter.name != "folder"]
    unknown = [option for option in options if option not in known]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        raise SMCDError(
            f"options of data set {name} must be among {', '.join(known) or 'none'}, got {unknown[0]!r}",
            argument="options",
            value=unknown[0],
        )
    return source_class(folder, **options)
