"""Recognition of the sprite at a known place: which label of the sprite world explains the picture best.

At every frame of an object but its first, each label's sprite is drawn around the object's box, with the area of the
box and its own aspect ratio, and compared with the frame as in `sprite_detector`. The best sprites are moved and
resized a little before the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from smcd_jax.evaluation.trackers.sprite_places import blurred, compare_sprite

if TYPE_CHECKING:
    from data_pipeline.sprites import Scene, Sprite

_BLUR = 1.0  # standard deviation in pixels
_SCALES = (0.8, 1.0, 1.2)  # sizes to try for every sprite, relative to the box
_REFINED = 4  # number of sprites whose place is refined
_STEPS = (2.0, 1.0)  # moves of the refinement, in pixels
# Frames in which other boxes cover more than this share of an object's box are left out.
_MOST_COVERED = 0.3


class _Candidate(NamedTuple):
    label: str
    sprite: Sprite
    aspect: float


def recognized_labels(
    frames: UInt8[np.ndarray, "f h w 3"], scene: Scene, mask: Bool[np.ndarray, "f n"], labels: Sequence[str]
) -> Mapping[int, list[str]]:
    """Returns the recognized labels of each object, one for each frame that can be judged.

    Args:
        frames: RGB frames of the size of the scene's background.
        scene: Scene that the video was made from; only its background and boxes are used.
        mask: True where an object is present.
        labels: Labels to choose from.
    """
    background = blurred(scene.background.astype(np.float32) / 255, _BLUR)
    candidates = _candidates(labels)
    found: dict[int, list[str]] = {}
    for frame in range(1, len(frames)):
        difference = blurred(frames[frame].astype(np.float32) / 255, _BLUR) - background
        difference -= np.median(difference, axis=(0, 1))  # decoders may shift all colors a little
        boxes = np.stack([item.boxes[frame] for item in scene.objects])
        for item in np.flatnonzero(mask[frame] & mask[:frame].any(axis=0)):
            others = np.delete(boxes, item, axis=0)[np.delete(mask[frame], item)]
            free = _free(boxes[item], others, difference.shape[:2])
            if free is not None:
                label = _recognized(candidates, boxes[item], difference, free, background)
                found.setdefault(int(item), []).append(label)
    return found


def _candidates(labels: Sequence[str]) -> list[_Candidate]:
    from data_pipeline.sprites.atlas import sprite, sprite_classes

    candidates = []
    for label in labels:
        color, _, name = label.partition(" ")
        if name not in sprite_classes():
            color, name = None, label
        aspect = sprite_classes()[name].aspect
        candidates += [_Candidate(label, sprite(name, color, mirrored=mirrored), aspect) for mirrored in (False, True)]
    return candidates


def _free(
    box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "m 4"], shape: tuple[int, int]
) -> Float32[np.ndarray, "h w"] | None:
    """Returns 1 for the pixels outside the other boxes; None if these cover too much of the box."""
    free = np.ones(shape, np.float32)
    for other in others:
        free[_inside(other)] = 0
    here = free[_inside(box)]
    return free if here.size and here.mean() >= 1 - _MOST_COVERED else None


def _inside(box: Float[np.ndarray, " 4"]) -> tuple[slice, slice]:
    x1, y1, x2, y2 = np.maximum(np.rint(box), 0).astype(int)
    return slice(y1, y2), slice(x1, x2)


def _recognized(
    candidates: Sequence[_Candidate],
    box: Float[np.ndarray, " 4"],
    difference: Float32[np.ndarray, "h w 3"],
    free: Float32[np.ndarray, "h w"],
    background: Float32[np.ndarray, "h w 3"],
) -> str:
    """Returns the label of the sprite that explains most of the frame near the box."""
    center, area = (box[:2] + box[2:]) / 2, float(np.prod(box[2:] - box[:2]))

    def gain(candidate: _Candidate, place: tuple[float, float, float]) -> float:
        x, y, scale = place
        half_x, half_y = (0.5 * scale * np.sqrt(area) * candidate.aspect ** np.array([0.5, -0.5])).tolist()
        drawn = (x - half_x, y - half_y, x + half_x, y + half_y)
        return compare_sprite(candidate.sprite, drawn, difference, free, background=background, blur=_BLUR)[0]

    first = []
    for candidate in candidates:
        places = [(*center.tolist(), scale) for scale in _SCALES]
        gains = [gain(candidate, place) for place in places]
        first.append((max(gains), candidate, places[int(np.argmax(gains))]))
    best = {}
    for value, candidate, place in sorted(first, key=lambda entry: -entry[0])[:_REFINED]:
        for step in _STEPS:
            x, y, scale = place
            moved = [(x + step * i, y + step * j, scale) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            value, place = max((gain(candidate, one), one) for one in moved)
        best[candidate.label] = max(value, best.get(candidate.label, -np.inf))
    return max(best, key=best.__getitem__)
