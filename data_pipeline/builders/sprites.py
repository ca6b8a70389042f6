"""The sprite world (`data_pipeline/sprites`) as a source of clips, generated from their indices."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from data_pipeline.builders import RawReport
from data_pipeline.builders.raw_clip import png
from data_pipeline.checks import require
from data_pipeline.records.schema import Clip
from data_pipeline.sprites import SPLITS, SpriteWorld, WorldConfig, clip_id
from smcd_jax.errors import SMCDError

_MAX_CLIPS = 10**9  # sorted ids have nine digits


class Sprites:
    """Clips of moving named sprites, for `smcd prepare`.

    Args:
        folder: None; sprites need no raw data.
        train_clips: Number of clips in split `train`, 0 to 10^9. A larger split starts with the same clips.
        val_clips: Number of clips in split `val`, 0 to 10^9.
        test_clips: Number of clips in split `test`, 0 to 10^9, on which results are reported.
        **world: Fields of `WorldConfig`: width, height, frames, max_objects, seed and so on.

    Raises:
        SMCDError: A folder was given, or an option is unknown or out of range.
    """

    name = "sprites"
    splits = tuple(SPLITS)

    def __init__(
        self,
        folder: Path | None = None,
        *,
        train_clips: int = 20_000,
        val_clips: int = 200,
        test_clips: int = 200,
        **world: Any,
    ):
        if folder is not None:
            raise SMCDError(
                f"sprites are generated and take no folder, got {folder}; omit --source", argument="source", path=folder
            )
        self.clips = {"train": train_clips, "val": val_clips, "test": test_clips}
        for split, count in self.clips.items():
            whole = isinstance(count, int) and not isinstance(count, bool)
            condition = f"an integer from 0 to {_MAX_CLIPS}"
            require(whole and 0 <= count <= _MAX_CLIPS, f"{split}_clips", condition, count)
        self.world = SpriteWorld(_config(world))

    def clip_ids(self, split: str) -> list[str]:
        """Returns the ids of the split's clips in order: `sprites-train-000000000` and so on."""
        return [clip_id(split, index) for index in range(self._count(split))]

    def clip(self, split: str, index: int) -> Clip:
        """Renders one clip. Frames are png, so that a detector that knows the sprites finds them exactly.

        Raises:
            SMCDError: The split or the index does not exist.
        """
        count = self._count(split)
        require(0 <= index < count, "index", f"from 0 to {count - 1} in split {split}", index)
        drawn = self.world.render(index, split=split)
        return Clip(
            clip_id=clip_id(split, index),
            caption=drawn.caption,
            width=self.world.config.width,
            height=self.world.config.height,
            frames=tuple(map(png, drawn.video)),
            boxes=drawn.boxes,
            mask=drawn.mask,
            labels=drawn.labels,
        )

    def validate(self) -> RawReport:
        """Reports the number of clips and the world; renders one clip to detect a damaged installation.

        Raises:
            SMCDError: The sprite atlas of the package is missing.
        """
        self.world.render(0)
        config = self.world.config
        world = f"{config.width} x {config.height}, {config.frames} frames, seed {config.seed}"
        return RawReport(dict(self.clips), (f"generated: {world}, world {config.fingerprint()[:12]}",))

    def _count(self, split: str) -> int:
        require(split in self.clips, "split", f"one of {', '.join(self.splits)}", split)
        return self.clips[split]


_COUNTS = ("train_clips", "val_clips", "test_clips")


def _config(world: dict[str, Any]) -> WorldConfig:
    known = [field.name for field in dataclasses.fields(WorldConfig)]
    unknown = [name for name in world if name not in known]
    require(not unknown, "options", f"among {', '.join((*_COUNTS, *known))}", next(iter(unknown), None))
    return WorldConfig(**world)
