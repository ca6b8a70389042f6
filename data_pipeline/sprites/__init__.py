"""Procedural videos of named sprites that move, grow, cross, enter and leave; each clip is a function of its index."""

from __future__ import annotations

from data_pipeline.sprites.atlas import Patch, Sprite
from data_pipeline.sprites.config import SPLITS, WORLD_VERSION, WorldConfig
from data_pipeline.sprites.render import Rendering, render_scene
from data_pipeline.sprites.scene import Scene, SceneObject
from data_pipeline.sprites.world import SpriteWorld, clip_id, measure_rate, parse_clip_id

__all__ = [
    "SPLITS",
    "WORLD_VERSION",
    "Patch",
    "Rendering",
    "Scene",
    "SceneObject",
    "Sprite",
    "SpriteWorld",
    "WorldConfig",
    "clip_id",
    "measure_rate",
    "parse_clip_id",
    "render_scene",
]
