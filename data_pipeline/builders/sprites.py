"""The sprite world (`data_pipeline/sprites`) as a source of clips: nothing to download, each made from its number."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.builders import RawReport
from data_pipeline.records.schema import Clip
from data_pipeline.sprites import SPLITS, SpriteWorld, WorldConfig, clip_id
from smcd_jax.errors import SMCDError

_MAX_CLIPS = 10**9  # ids have nine digits, and are sorted


class Sprites:
    """Clips of named sprites on tracks, for `smcd prepare`; training may as well draw from a `SpriteWorld` directly.

    Args:
        folder: None; the world needs no raw data.
        train_clips: clips of the split `train`, 0 to 10^9. More of them begin with the same ones.
        val_clips: of `val`.
        test_clips: of `test`: the held-out list that results are reported on.
        world: fields of `WorldConfig`: width, height, frames, max_objects, seed and so on.

    Raises:
        SMCDError: a folder was given, or an option is unknown or out of its range.
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
            raise SMCDError(f"sprites are made, not read: there is nothing to take from {folder}; leave the folder out")
        self.clips = {"train": train_clips, "val": val_clips, "test": test_clips}
        for split, count in self.clips.items():
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MAX_CLIPS:
                raise SMCDError(f"sprites: {split}_clips must be a whole number from 0 to {_MAX_CLIPS}, got {count!r}")
        self.world = SpriteWorld(_config(world))

    def clip_ids(self, split: str) -> list[str]:
        """Ids of the split's clips in order: `sprites-train-000000000` and so on."""
        return [clip_id(split, index) for index in range(self._count(split))]

    def clip(self, split: str, index: int) -> Clip:
        """One clip; its frames are png, so that a detector that knows the sprites finds them exactly.

        Raises:
            SMCDError: no such split or clip.
        """
        if not 0 <= index < self._count(split):
            raise SMCDError(f"sprites: {split} has clips 0 to {self.clips[split] - 1}, not {index}")
        drawn = self.world.render(index, split=split)
        return Clip(
            clip_id=clip_id(split, index),
            caption=drawn.caption,
            width=self.world.config.width,
            height=self.world.config.height,
            frames=tuple(_png(frame) for frame in drawn.video),
            boxes=drawn.boxes,
            mask=drawn.mask,
            labels=drawn.labels,
        )

    def validate(self) -> RawReport:
        """How many clips there will be, and of what world; draws one, so that a damaged installation shows.

        Raises:
            SMCDError: the sprites of the package are missing.
        """
        self.world.render(0)
        config = self.world.config
        world = f"{config.width} x {config.height}, {config.frames} frames, seed {config.seed}"
        return RawReport(dict(self.clips), (f"drawn, not read: {world}, world {config.fingerprint()[:12]}",))

    def _count(self, split: str) -> int:
        if split not in self.clips:
            raise SMCDError(f"sprites: split {split!r} is unknown: use one of {', '.join(self.splits)}")
        return self.clips[split]


def _png(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="PNG")
    return file.getvalue()


_COUNTS = ("train_clips", "val_clips", "test_clips")


def _config(world: dict[str, Any]) -> WorldConfig:
    known = [field.name for field in dataclasses.fields(WorldConfig)]
    unknown = [name for name in world if name not in known]
    if unknown:
        raise SMCDError(f"sprites: option {unknown[0]!r} is unknown: use one of {', '.join((*_COUNTS, *known))}")
    return WorldConfig(**world)
