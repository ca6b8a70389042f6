"""The procedural world of winds (`data_pipeline/winds`) as a source of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.builders.generated import COUNTS, Generated, is_integer, world_config
from data_pipeline.checks import require
from data_pipeline.winds import SPLITS, WindConfig, WindWorld, clip_id

_NOT_WORLD = (*COUNTS, "field_size")


class Winds(Generated):
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
        counts = {"train": train_clips, "val": val_clips, "test": test_clips}
        super().__init__(folder, world=world_of(world), clip_id=clip_id, counts=counts)
        whole = is_integer(field_size)
        require(whole and (field_size == 0 or 2 <= field_size <= 256), "field_size", "0, or from 2 to 256", field_size)
        self._field_size = field_size

    def fields(self, split: str, index: int) -> np.ndarray | None:
        """Returns the true fields of a clip, or None with ``field_size=0``."""
        return self.world.fields(index, split=split, side=self._field_size) if self._field_size else None


def world_of(options: dict[str, Any]) -> WindWorld:
    """Returns the world that the options of `Winds` describe.

    Raises:
        SMCDError: An option is unknown or out of range.
    """
    world = {name: value for name, value in options.items() if name not in _NOT_WORLD}
    return WindWorld(world_config(WindConfig, world, others=_NOT_WORLD))
