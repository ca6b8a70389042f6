"""Rendering of scenes: sprites over the background, with boxes and mask of their visible parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from data_pipeline.checks import require
from data_pipeline.sprites.atlas import Patch
from data_pipeline.sprites.scene import Scene

# Smallest opacity, out of 255, of a pixel that belongs to the visible part of a sprite.
SEEN = 32


class Rendering(NamedTuple):
    """A clip as arrays.

    Attributes:
        video: Frames `[T, H, W, 3]`, uint8.
        boxes: Boxes `[T, N, 4]`, float32, x1, y1, x2, y2 in 0..1 of the picture; zeros where masked out.
        mask: Presence `[T, N]`, bool, True where the object is visible.
        labels: Label per object.
        caption: Caption that names every label.
    """

    video: UInt8[np.ndarray, "t h w 3"]
    boxes: Float32[np.ndarray, "t n 4"]
    mask: Bool[np.ndarray, "t n"]
    labels: tuple[str, ...]
    caption: str


def render_scene(scene: Scene, *, frames: Sequence[int] | None = None) -> Rendering:
    """Renders all frames of a scene, or those of the given indices.

    The box of an object is the box of its whole sprite clipped to the picture; if the border cuts the sprite, the box
    is tightened to the remaining part. As in tracking data sets, sprites in front do not change it. The mask is False
    where less than `scene.min_visible` of the sprite's opacity is inside the picture and not covered. Shadows fall on
    the background and on the sprites behind; boxes and mask do not include them.

    Args:
        scene: Scene with T frames.
        frames: Indices of the frames to render, 0 to T - 1; None for all.

    Raises:
        SMCDError: An index is out of range.
    """
    height, width = scene.background.shape[:2]
    count = len(scene.objects)
    frames = range(scene.num_frames) if frames is None else frames
    inside = all(0 <= frame < scene.num_frames for frame in frames)
    require(inside, "frames", f"from 0 to {scene.num_frames - 1}", list(frames))
    video = np.repeat(scene.background[None], len(frames), axis=0)
    boxes = np.zeros((len(frames), count, 4), np.float32)
    mask = np.zeros((len(frames), count), bool)
    size = np.array([width, height, width, height], np.float64)
    for row, (frame, picture) in enumerate(zip(frames, video, strict=True)):
        patches = [scene.patch(item, frame) for item in range(count)]
        for item, patch in enumerate(patches):
            for layer in (scene.shadow_patch(item, frame), patch):
                if layer is not None:
                    paint(picture, layer)
        seen = _opacity_seen(patches, height, width)
        for item, (patch, scene_object) in enumerate(zip(patches, scene.objects, strict=True)):
            if patch is None:
                continue
            box, drawn = scene_object.boxes[frame], scene.shown(frame)[item]
            whole = drawn.sprite.opacity * (drawn.boxes[frame, 2:] - drawn.boxes[frame, :2]).prod()
            if seen[item] >= scene.min_visible * whole:
                mask[row, item] = True
                patch = patch if drawn is scene_object else scene_object.sprite.draw(box.tolist(), width, height)
                boxes[row, item] = visible_box(box, patch, width=width, height=height) / size
    return Rendering(video, boxes, mask, scene.labels, scene.caption)


def paint(picture: UInt8[np.ndarray, "h w 3"], patch: Patch) -> None:
    """Paints a patch on a picture in place: background * (1 - opacity) + color, rounded exactly."""
    region = picture[patch.region]
    shown = region * (255 - patch.pixels[..., 3:]).astype(np.uint16) + 128
    region[...] = patch.pixels[..., :3] + ((shown + (shown >> 8)) >> 8)


def visible_box(box: np.ndarray, patch: Patch, *, width: int, height: int) -> np.ndarray:
    """Returns the box of a sprite clipped to the picture, x1, y1, x2, y2 in pixels, tight if the border cuts it."""
    size = np.array([width, height, width, height])
    cut = np.clip(box, 0, size)
    if (cut == box).all():
        return cut
    seen = patch.pixels[..., 3] >= SEEN
    columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
    if len(columns) == 0:
        return cut
    low = np.array([patch.left + columns[0], patch.top + rows[0]])
    high = np.array([patch.left + columns[-1], patch.top + rows[-1]]) + 1
    return np.concatenate([np.maximum(cut[:2], low), np.minimum(cut[2:], high)])


def _opacity_seen(patches: list[Patch | None], height: int, width: int) -> list[float]:
    """Returns the opacity of each patch that is not covered by later ones, summed over pixels."""
    if len(patches) == 1:
        return [_opacity(patches[0]).sum() if patches[0] is not None else 0.0]
    seen = [0.0] * len(patches)
    clear = np.ones((height, width), np.float32)
    for item in reversed(range(len(patches))):
        patch = patches[item]
        if patch is None:
            continue
        opacity = _opacity(patch)
        region = clear[patch.region]
        seen[item] = float((opacity * region).sum())
        region *= 1 - opacity
    return seen


def _opacity(patch: Patch) -> Float32[np.ndarray, "h w"]:
    return patch.pixels[..., 3] * np.float32(1 / 255)
