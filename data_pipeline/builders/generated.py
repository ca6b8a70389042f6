"""Base of the sources of generated clips: numbers of clips per split, ids, and the form of a clip."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from data_pipeline.builders import RawReport
from data_pipeline.builders.raw_clip import png
from data_pipeline.checks import require
from data_pipeline.records.schema import Clip
from smcd_jax.errors import SMCDError

COUNTS = ("train_clips", "val_clips", "test_clips")
_MAX_CLIPS = 10**9  # ids have nine digits, so that they sort by index

Config = TypeVar("Config")


class Generated:
    """Source of the clips of a procedural world, which are generated from their indices.

    Args:
        folder: None; the clips need no raw data.
        world: World with ``config`` and ``render(index, split=...)``.
        clip_id: Function ``(split, index) -> id``.
        counts: Number of clips of each split, 0 to 10^9.

    Raises:
        SMCDError: A folder was given, or a number of clips is out of range.
    """

    name: ClassVar[str]
    splits: ClassVar[tuple[str, ...]]

    def __init__(
        self, folder: Path | None, *, world: Any, clip_id: Callable[[str, int], str], counts: Mapping[str, int]
    ):
        if folder is not None:
            message = f"{self.name} are generated and take no folder, got {folder}; omit --source"
            raise SMCDError(message, argument="source", path=folder)
        for split, count in counts.items():
            condition = f"an integer from 0 to {_MAX_CLIPS}"
            require(is_integer(count) and 0 <= count <= _MAX_CLIPS, f"{split}_clips", condition, count)
        self.world, self.clips, self._clip_id = world, dict(counts), clip_id

    def clip_ids(self, split: str) -> list[str]:
        """Returns the ids of the split's clips in order: NAME-train-000000000 and so on."""
        return [self._clip_id(split, index) for index in range(self._count(split))]

    def clip(self, split: str, index: int) -> Clip:
        """Renders one clip. Frames are PNG, so that a detector that knows the objects finds them exactly.

        Raises:
            SMCDError: The split or the index does not exist.
        """
        count = self._count(split)
        require(0 <= index < count, "index", f"from 0 to {count - 1} in split {split}", index)
        drawn, config = self.world.render(index, split=split), self.world.config
        return Clip(
            clip_id=self._clip_id(split, index),
            caption=drawn.caption,
            width=config.width,
            height=config.height,
            frames=tuple(map(png, drawn.video)),
            boxes=drawn.boxes,
            mask=drawn.mask,
            labels=drawn.labels,
            fields=self.fields(split, index),
        )

    def fields(self, split: str, index: int) -> np.ndarray | None:
        """Returns the true motion fields of a clip, or None for worlds that do not store them."""
        del split, index
        return None

    def validate(self) -> RawReport:
        """Reports the number of clips and the world."""
        config = self.world.config
        world = f"{config.width} x {config.height}, {config.frames} frames, seed {config.seed}"
        return RawReport(dict(self.clips), (f"generated: {world}, world {config.fingerprint()[:12]}",))

    def _count(self, split: str) -> int:
        require(split in self.clips, "split", f"one of {', '.join(self.splits)}", split)
        return self.clips[split]


def is_integer(value: Any) -> bool:
    """Returns whether a value is an integer and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def world_config(kind: type[Config], options: Mapping[str, Any], *, others: tuple[str, ...] = COUNTS) -> Config:
    """Returns the config of a world.

    Args:
        kind: Dataclass of the config.
        options: Its fields by name.
        others: Further options of the source, which messages list.

    Raises:
        SMCDError: An option is unknown or out of range.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    unknown = [name for name in options if name not in known]
    require(not unknown, "options", f"among {', '.join((*others, *known))}", next(iter(unknown), None))
    return kind(**options)
