"""The sprite world (`data_pipeline/sprites`) as a source of clips, generated from their indices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.builders import RawReport
from data_pipeline.builders.generated import Generated, world_config
from data_pipeline.sprites import SPLITS, SpriteWorld, WorldConfig, clip_id


class Sprites(Generated):
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
        counts = {"train": train_clips, "val": val_clips, "test": test_clips}
        super().__init__(folder, world=SpriteWorld(world_config(WorldConfig, world)), clip_id=clip_id, counts=counts)

    def validate(self) -> RawReport:
        """Reports the number of clips and the world; renders one clip to detect a damaged installation.

        Raises:
            SMCDError: The sprite atlas of the package is missing.
        """
        self.world.render(0)
        return super().validate()
