"""The procedural world of winds (`data_pipeline/winds`) as a source of clips."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from data_pipeline.builders import RawReport
from data_pipeline.builders.raw_clip import png
from data_pipeline.checks import require
from data_pipeline.records.schema import Clip
from data_pipeline.winds import SPLITS, WindConfig, WindWorld, clip_id
from smcd_jax.errors import SMCDError

_NOT_WORLD = ("train_clips", "val_clips", "test_clips", "field_size")
_MAX_CLIPS = 10**9  # ids have nine digits, so that they sort by index


class Winds:
    """Clips of swaying, growing and drifting textures, for `smcd prepare`.

    Args:
        folder: None; the clips need no raw data.
        train_clips: Number of clips in split `train`, 0 to 10^9. A larger split starts with the same clips.
        val_clips: Number of clips in split `val`, 0 to 10^9.
        test_clips: Number of clips in split `test`, 0 to 10^9, on which results are reported.
        field_size: Side of the stored true fields in points, 2 to 256; 0 to store none.
        **world: Fields of `WindConfig`: width, height, frames, seed and so on.

    Raises:
        SMCDError: A folder was given, or an option is unknown or out of range.
    """

    name = "winds"
    splits = tuple(SPLITS)

    def __init__(
        self,
        folder: Path | None = None,
        *,
        train_clips: int = 4000,
        val_clips: int = 100,
        test_clips: int = 100,
        field_size: int = 32,
        **world: Any,
    ):
        if folder is not None:
            raise SMCDError(
                f"winds are generated and take no folder, got {folder}; omit --source", argument="source", path=folder
            )
        self.clips = {"train": train_clips, "val": val_clips, "test": test_clips}
        for split, count in self.clips.items():
            whole = isinstance(count, int) and not isinstance(count, bool)
            require(whole and 0 <= count <= _MAX_CLIPS, f"{split}_clips", f"an integer from 0 to {_MAX_CLIPS}", count)
        whole = isinstance(field_size, int) and not isinstance(field_size, bool)
        require(whole and (field_size == 0 or 2 <= field_size <= 256), "field_size", "0, or from 2 to 256", field_size)
        self.world, self._field_size = world_of(world), field_size

    def clip_ids(self, split: str) -> list[str]:
        """Returns the ids of the split's clips in order: `winds-train-000000000` and so on."""
        return [clip_id(split, index) for index in range(self._count(split))]

    def clip(self, split: str, index: int) -> Clip:
        """Renders one clip.

        Raises:
            SMCDError: The split or the index does not exist.
        """
        count = self._count(split)
        require(0 <= index < count, "index", f"from 0 to {count - 1} in split {split}", index)
        drawn, side = self.world.render(index, split=split), self._field_size
        return Clip(
            clip_id=clip_id(split, index),
            caption=drawn.caption,
            width=self.world.config.width,
            height=self.world.config.height,
            frames=tuple(map(png, drawn.video)),
            boxes=drawn.boxes,
            mask=drawn.mask,
            labels=drawn.labels,
            fields=self.world.fields(index, split=split, side=side) if side else None,
        )

    def validate(self) -> RawReport:
        """Reports the number of clips and the world."""
        config = self.world.config
        world = f"{config.width} x {config.height}, {config.frames} frames, seed {config.seed}"
        return RawReport(dict(self.clips), (f"generated: {world}, world {config.fingerprint()[:12]}",))

    def _count(self, split: str) -> int:
        require(split in self.clips, "split", f"one of {', '.join(self.splits)}", split)
        return self.clips[split]


def world_of(options: dict[str, Any]) -> WindWorld:
    """Returns the world that the options of `Winds` describe.

    Raises:
        SMCDError: An option is unknown or out of range.
    """
    world = {name: value for name, value in options.items() if name not in _NOT_WORLD}
    known = [field.name for field in dataclasses.fields(WindConfig)]
    unknown = [name for name in world if name not in known]
    require(not unknown, "options", f"among {', '.join((*_NOT_WORLD, *known))}", next(iter(unknown), None))
    return WindWorld(WindConfig(**world))
