"""Owns the way back from records of sprites to the scenes they were drawn from, which the exact detector needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.records.reader import read_manifest
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from data_pipeline.sprites import Scene
    from smcd_jax.evaluation.video_store import AskedClip

NAME = "sprites"  # of the data set
_NOT_OF_THE_WORLD = ("train_clips", "val_clips", "test_clips")
_AGREES = 1e-4  # of the picture: another processor may round the last digits of a box otherwise


class SpriteScenes:
    """The scenes of a folder of records that `smcd prepare sprites` has written.

    What the world was like stands in the records' plan; that the scenes are the records' own is checked clip by clip.
    """

    def __init__(self, records: Path):
        """Reads which world the records are of.

        Raises:
            SMCDError: they are not of sprites, or of a world that this release cannot draw.
        """
        from data_pipeline.sprites import SpriteWorld, WorldConfig

        manifest = read_manifest(records)
        if manifest["name"] != NAME:
            raise SMCDError(f"the exact detector knows sprites only, and {records} holds {manifest['name']}")
        options: dict[str, Any] = manifest.get("plan", {}).get("options", {})
        known = {field.name for field in dataclasses.fields(WorldConfig)}
        world = {name: value for name, value in options.items() if name not in _NOT_OF_THE_WORLD}
        if unknown := sorted(set(world) - known):
            raise SMCDError(f"{records}: option {unknown[0]!r} is of another sprite world; prepare the records again")
        self._world = SpriteWorld(WorldConfig(**world))

    def scene(self, clip: AskedClip) -> Scene:
        """The scene in the clip's window, with all its objects in the record's order.

        Raises:
            SMCDError: the record was drawn from another world.
        """
        from data_pipeline.sprites import parse_clip_id, render_scene

        split, index = parse_clip_id(clip.clip_id)
        scene = self._world.scene(index, split=split)
        objects, window = list(clip.objects), slice(clip.start, clip.start + len(clip.boxes))
        if not (clip.caption == scene.caption and window.stop <= scene.num_frames and max(objects) < len(scene.labels)):
            raise _another_world(clip)
        drawn = render_scene(scene, frames=range(window.start, window.stop))
        same = np.array_equal(drawn.mask[:, objects], clip.mask)
        if not (same and np.allclose(drawn.boxes[:, objects], clip.boxes, atol=_AGREES)):
            raise _another_world(clip)
        placed = tuple(dataclasses.replace(item, boxes=item.boxes[window]) for item in scene.objects)
        return dataclasses.replace(scene, objects=placed)


def _another_world(clip: AskedClip) -> SMCDError:
    return SMCDError(f"clip {clip.clip_id} was drawn from another sprite world; prepare the records again")
