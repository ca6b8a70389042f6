"""Scenes from which records of sprites were drawn, for the exact detector."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.records.reader import read_manifest
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from data_pipeline.sprites import Scene
    from smcd_jax.evaluation.video_store import EvalClip

NAME = "sprites"  # name of the data set
_NOT_WORLD_OPTIONS = ("train_clips", "val_clips", "test_clips")
_TOLERANCE = 1e-4  # as a share of the picture; other processors may round the last digits of a box differently


class SpriteScenes:
    """Scenes of records from `smcd prepare sprites`.

    The plan of the records describes the sprite world; each scene is compared with its record.
    """

    def __init__(self, records: Path):
        """Reads the description of the sprite world.

        Args:
            records: Folder of the records.

        Raises:
            SMCDError: The records do not contain sprites, or come from a world that this release cannot draw.
        """
        from data_pipeline.sprites import SpriteWorld, WorldConfig

        manifest = read_manifest(records)
        if manifest["name"] != NAME:
            raise SMCDError(
                f"{records}: the tracker sprites needs records of sprites, got {manifest['name']}",
                argument="trackers",
                path=records,
                value=manifest["name"],
            )
        options: dict[str, Any] = manifest.get("plan", {}).get("options", {})
        known = {field.name for field in dataclasses.fields(WorldConfig)}
        world = {name: value for name, value in options.items() if name not in _NOT_WORLD_OPTIONS}
        if unknown := sorted(set(world) - known):
            raise SMCDError(
                f"{records}: unknown option {unknown[0]!r} of the sprite world; prepare the records again",
                path=records,
                value=unknown[0],
            )
        self._world = SpriteWorld(WorldConfig(**world))

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of the sprite world."""
        return self._world.config.labels

    def scene(self, clip: EvalClip) -> Scene:
        """Returns the scene of the clip's window, with all its objects in the order of the record.

        Raises:
            SMCDError: The record was drawn from another world.
        """
        from data_pipeline.sprites import parse_clip_id, render_scene

        split, index = parse_clip_id(clip.clip_id)
        scene = self._world.scene(index, split=split)
        objects, window = list(clip.objects), slice(clip.start, clip.start + len(clip.boxes))
        if not (clip.caption == scene.caption and window.stop <= scene.num_frames and max(objects) < len(scene.labels)):
            raise _another_world(clip)
        drawn = render_scene(scene, frames=range(window.start, window.stop))
        same = np.array_equal(drawn.mask[:, objects], clip.mask)
        if not (same and np.allclose(drawn.boxes[:, objects], clip.boxes, atol=_TOLERANCE)):
            raise _another_world(clip)
        placed = tuple(dataclasses.replace(item, boxes=item.boxes[window]) for item in scene.objects)
        return dataclasses.replace(scene, objects=placed)


def _another_world(clip: EvalClip) -> SMCDError:
    return SMCDError(
        f"clip {clip.clip_id}: drawn from another sprite world; prepare the records again",
        argument="data",
        value=clip.clip_id,
    )
