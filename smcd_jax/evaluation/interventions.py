"""Interventions: one input of every clip is changed before sampling, to measure how much the videos depend on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.video_store import EvalClip
from smcd_jax.tracks import BoxTracks

_MARGIN = 0.15  # minimum distance of a mirrored box's centre from the border, as a share of the picture


def apply_intervention(clips: Sequence[EvalClip], name: str) -> list[EvalClip]:
    """Returns the clips with one input changed.

    Args:
        clips: Clips as recorded.
        name: One of `INTERVENTIONS`.

    Raises:
        SMCDError: The name is unknown, or the clips have too few different labels to swap.
    """
    if name not in INTERVENTIONS:
        raise SMCDError(
            f"intervention must be one of {', '.join(INTERVENTIONS)}, got {name!r}", argument="intervention", value=name
        )
    changed = INTERVENTIONS[name](clips)
    return [dataclasses.replace(one, recorded=clip) for one, clip in zip(changed, clips, strict=True)]


def mirrored(boxes: Float32[np.ndarray, "f n 4"], mask: Bool[np.ndarray, "f n"]) -> Float32[np.ndarray, "f n 4"]:
    """Returns boxes with the same sizes and starts that move in the opposite direction, within the picture."""
    size, center = boxes[..., 2:] - boxes[..., :2], (boxes[..., 2:] + boxes[..., :2]) / 2
    start = center[mask.argmax(axis=0), np.arange(mask.shape[1])]  # centre of each object in its first frame
    center = np.clip(2 * start - center, _MARGIN, 1 - _MARGIN)
    return np.clip(np.concatenate([center - size / 2, center + size / 2], axis=-1), 0, 1).astype(np.float32)


def _mirrored_boxes(clips: Sequence[EvalClip]) -> list[EvalClip]:
    return [dataclasses.replace(clip, boxes=mirrored(clip.boxes, clip.mask)) for clip in clips]


def _no_boxes(clips: Sequence[EvalClip]) -> list[EvalClip]:
    empty = [BoxTracks(np.zeros_like(clip.boxes), np.zeros_like(clip.mask), clip.labels) for clip in clips]
    return [dataclasses.replace(clip, given=tracks) for clip, tracks in zip(clips, empty, strict=True)]


def _swapped_labels(clips: Sequence[EvalClip]) -> list[EvalClip]:
    """Replaces each label by one from the list that the clip does not have, chosen by the clip's seed."""
    known = sorted({label for clip in clips for label in clip.labels})
    swapped = []
    for clip in clips:
        others = [label for label in known if label not in clip.labels]
        if not others:
            raise SMCDError(
                f"swapped_labels needs labels that clip {clip.clip_id} does not have, got {known}",
                argument="intervention",
                value="swapped_labels",
            )
        labels = tuple(others[(clip.seed + index) % len(others)] for index in range(len(clip.labels)))
        swapped.append(dataclasses.replace(clip, given=BoxTracks(clip.boxes, clip.mask, labels)))
    return swapped


INTERVENTIONS: Mapping[str, Callable[[Sequence[EvalClip]], list[EvalClip]]] = {
    "mirrored_boxes": _mirrored_boxes,
    "swapped_labels": _swapped_labels,
    "no_boxes": _no_boxes,
}
