"""Rendering of scenes of winds: frames with boxes, and the ground-truth motion field with its validity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from data_pipeline.winds.scene import Layer, Scene, texture_at

_SEEN = 0.02  # smallest visible share of the picture's pixels for which a layer counts as present


class WindRendering(NamedTuple):
    """A clip as arrays.

    Attributes:
        video: Frames `[T, H, W, 3]`, uint8.
        boxes: Boxes `[T, N, 4]`, float32, x1, y1, x2, y2 in 0..1 of the visible part of each layer; zeros where masked
            out.
        mask: Presence `[T, N]`, bool.
        labels: Kind per layer.
        caption: Description of the motion.
    """

    video: UInt8[np.ndarray, "t h w 3"]
    boxes: Float32[np.ndarray, "t n 4"]
    mask: Bool[np.ndarray, "t n"]
    labels: tuple[str, ...]
    caption: str


def render_scene(scene: Scene, *, width: int, height: int, frames: Sequence[float] | None = None) -> WindRendering:
    """Renders frames of a scene.

    Args:
        scene: Scene.
        width: Width in pixels.
        height: Height in pixels.
        frames: Times in frames, which may be fractional; None for every frame of the scene.
    """
    times = range(scene.num_frames) if frames is None else frames
    points = pixel_centers(width, height)
    behind = texture_at(scene.background, points)
    count = len(scene.layers)
    video = np.zeros((len(times), height, width, 3), np.uint8)
    boxes, mask = np.zeros((len(times), count, 4), np.float32), np.zeros((len(times), count), bool)
    for row, time in enumerate(times):
        picture, front = behind, np.full((height, width), -1)
        for number, layer in enumerate(scene.layers):
            origins = layer.origin(points, time)
            opacity = np.clip(0.5 + layer.inside(origins) * width, 0, 1)[..., None].astype(np.float32)
            picture = picture * (1 - opacity) + texture_at(layer.texture, origins) * opacity
            front[opacity[..., 0] > 0.5] = number
        video[row] = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
        for number in range(count):
            boxes[row, number], mask[row, number] = _box(front == number)
    return WindRendering(video, boxes, mask, scene.labels, scene.caption)


def true_fields(
    scene: Scene, *, side: int, width: int, height: int, frames: Sequence[float] | None = None
) -> Float32[np.ndarray, "t side side 3"]:
    """Returns the true backward motion from frame 0, on a grid whose corners are the centers of the corner pixels.

    Args:
        scene: Scene.
        side: Number of points of the grid along each axis.
        width: Width of the picture in pixels.
        height: Height of the picture in pixels.
        frames: Times in frames, which may be fractional; None for every frame of the scene.

    Returns:
        Displacement (x, y) from the point of frame t to its place in frame 0, in units in which the picture spans
        -1..1; and 1 where that place shows the same layer in frame 0, 0 where it is covered or outside.
    """
    times = range(scene.num_frames) if frames is None else frames
    corner = pixel_centers(width, height)[[0, -1], [0, -1]]
    at = [np.linspace(low, high, side) for low, high in zip(*corner, strict=True)]
    points = np.stack(np.meshgrid(*at), axis=-1)
    fields = np.zeros((len(times), side, side, 3), np.float32)
    spans = (corner[1] - corner[0]) / 2
    for row, time in enumerate(times):
        front, origins = _front(scene.layers, points, time)
        before, _ = _front(scene.layers, origins, 0.0)
        inside = np.all((origins >= corner[0] - 1e-9) & (origins <= corner[1] + 1e-9), axis=-1)
        fields[row, ..., :2] = (origins - points) / spans
        fields[row, ..., 2] = inside & (front == before)
    return fields


def pixel_centers(width: int, height: int) -> Float[np.ndarray, "h w 2"]:
    """Returns the centers of all pixels as (x, y) in 0..1."""
    return np.stack(np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height), axis=-1)


def _front(layers: Sequence[Layer], points: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the index of the front layer at each point (-1: background), and its position in frame 0."""
    front, origins = np.full(points.shape[:-1], -1), points.copy()
    for number, layer in enumerate(layers):
        own = layer.origin(points, time)
        covers = layer.inside(own) > 0
        front[covers], origins[covers] = number, own[covers]
    return front, origins


def _box(seen: Bool[np.ndarray, "h w"]) -> tuple[np.ndarray, bool]:
    if seen.mean() < _SEEN:
        return np.zeros(4, np.float32), False
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    height, width = seen.shape
    box = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    return np.asarray(box, np.float32), True
