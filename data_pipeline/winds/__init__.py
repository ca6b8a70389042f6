"""Procedural videos of textured pictures that sway, grow and drift, with ground-truth motion fields."""

from __future__ import annotations

from data_pipeline.winds.config import SPLITS, WORLD_VERSION, WindConfig
from data_pipeline.winds.render import WindRendering, render_scene, true_fields
from data_pipeline.winds.scene import Layer, Scene, draw_scene
from data_pipeline.winds.world import WindWorld, clip_id, parse_clip_id

__all__ = [
    "SPLITS",
    "WORLD_VERSION",
    "Layer",
    "Scene",
    "WindConfig",
    "WindRendering",
    "WindWorld",
    "clip_id",
    "draw_scene",
    "parse_clip_id",
    "render_scene",
    "true_fields",
]
