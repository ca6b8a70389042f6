"""Grounding metrics: AO, SR50 and SR75 by the GOT-10k protocol, and the rank correlation of displacements.

Huang, Zhao, Huang, "GOT-10k: A Large High-Diversity Benchmark for Generic Object Tracking in the Wild", TPAMI 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Shaped

from smcd_jax.errors import SMCDError
from smcd_jax.tracks.box_tracks import format_box

Clipping = Literal["picture", "toolkit"]


class ClipOverlap(NamedTuple):
    """Overlap of found and true boxes in one clip.

    Attributes:
        ious: Intersection over union, 0..1; NaN in frames that do not count.
        labels: Label of each object, for class-balanced scores; may be empty.
        objects: Number of objects present in at least one frame, without padding.
    """

    ious: Float64[np.ndarray, "f n"]
    labels: tuple[str, ...]
    objects: int


@dataclass(frozen=True)
class GroundingScores:
    """Scores of a set of clips, 0..1; higher is better.

    Attributes:
        ao: Average overlap, the mean IoU over the frames of all clips and objects.
        sr50: Success rate, the share of those frames with IoU > 0.5.
        sr75: Share of those frames with IoU > 0.75.
        mao: Class-balanced AO: mean over classes of the mean over sequences (one object in one clip); None without
            labels.
        msr50: Class-balanced SR50; None without labels.
        msr75: Class-balanced SR75; None without labels.
        frames: Number of counted frames, over clips and objects.
        sequences: Number of sequences with at least one counted frame.
        classes: Number of different labels; 0 without labels.
        ao_by_objects: AO of the clips by their number of objects.
    """

    ao: float
    sr50: float
    sr75: float
    mao: float | None
    msr50: float | None
    msr75: float | None
    frames: int
    sequences: int
    classes: int
    ao_by_objects: Mapping[int, float]


class DisplacementCorrelation(NamedTuple):
    """Rank correlation of requested and found displacements.

    Attributes:
        rank_correlation: Spearman's correlation, -1..1, over x and y of all objects; NaN if it is not defined: fewer
            than two objects, or equal displacements as in a still video.
        objects: Number of counted objects.
        missing: Number of objects that were not found in their first or last frame and are not counted.
    """

    rank_correlation: float
    objects: int
    missing: int


def clip_overlap(
    found: Float[np.ndarray, "f n 4"],
    boxes: Float[np.ndarray, "f n 4"],
    mask: Shaped[np.ndarray, "f n"],
    *,
    labels: Sequence[str] = (),
    cover: Shaped[np.ndarray, "f n"] | None = None,
    clipping: Clipping = "picture",
) -> ClipOverlap:
    """Returns the IoU of found and true boxes in the counted frames of one clip.

    The first frame of an object is not counted, because the tracker receives its box. It is frame 0, as in GOT-10k,
    unless the object enters later.

    Args:
        found: Boxes found, xyxy in 0..1; may reach beyond the picture. A box that is NaN or has no area counts as not
            found, with an IoU of 0.
        boxes: True boxes.
        mask: 1 or true where the object is present; other frames do not count.
        labels: Label of each object; may be empty.
        cover: Visible share of the object on any scale; frames with 0 do not count. None if unknown.
        clipping: Treatment of boxes beyond the picture, see `box_iou`.

    Raises:
        SMCDError: The shapes do not match, or a counted true box has no area within the picture.
    """
    found, boxes, mask, labels = np.asarray(found), np.asarray(boxes), np.asarray(mask, bool), tuple(labels)
    fits = {
        "boxes": boxes.ndim == 3 and boxes.shape[-1] == 4,
        "mask": mask.shape == boxes.shape[:-1],
        "found": found.shape == boxes.shape,
        "cover": cover is None or np.shape(cover) == mask.shape,
        "labels": len(labels) in (0, *boxes.shape[1:2]),
    }
    if not all(fits.values()):
        raise SMCDError(
            "grounding: found and boxes must have the shape [frames, objects, 4], mask [frames, objects], and labels "
            f"one entry per object, got {list(found.shape)}, {list(boxes.shape)}, {list(mask.shape)} and "
            f"{len(labels)} labels",
            argument=next(name for name, fit in fits.items() if not fit),
        )
    counted = mask & (np.cumsum(mask, axis=0) > 1)
    if cover is not None:
        counted &= np.asarray(cover) > 0
    _check_areas(boxes, counted)
    ious = box_iou(found, np.where(counted[..., None], boxes, 0), clipping=clipping)
    return ClipOverlap(np.where(counted, ious, np.nan), labels, int(mask.any(axis=0).sum()))


def grounding_scores(clips: Sequence[ClipOverlap]) -> GroundingScores:
    """Computes AO, SR50 and SR75 over all frames of all clips, and class-balanced scores if all clips have labels.

    Raises:
        SMCDError: There is no frame to count, or only some of the clips have labels.
    """
    sequences = [(clip, item, _counted(clip.ious[:, item])) for clip in clips for item in range(clip.ious.shape[1])]
    sequences = [(clip, item, ious) for clip, item, ious in sequences if len(ious)]
    if not sequences:
        raise SMCDError(
            f"grounding: no frame to measure in {len(clips)} clips; objects count from their second frame on",
            argument="clips",
            value=len(clips),
        )
    labelled = {bool(clip.labels) for clip, _, _ in sequences}
    if len(labelled) > 1:
        raise SMCDError(
            "grounding: only some of the clips have labels; pass labels for all clips or for none", argument="labels"
        )
    pooled = np.concatenate([ious for _, _, ious in sequences])
    by_class: dict[str, list[np.ndarray]] = {}
    by_objects: dict[int, list[np.ndarray]] = {}
    for clip, item, ious in sequences:
        by_objects.setdefault(clip.objects, []).append(ious)
        if clip.labels:
            by_class.setdefault(clip.labels[item], []).append(ious)
    balanced = [np.mean([_rates(ious) for ious in of_class], axis=0) for of_class in by_class.values()]
    ao, sr50, sr75 = _rates(pooled).tolist()
    mao, msr50, msr75 = np.mean(balanced, axis=0).tolist() if balanced else (None, None, None)
    return GroundingScores(
        ao=ao,
        sr50=sr50,
        sr75=sr75,
        mao=mao,
        msr50=msr50,
        msr75=msr75,
        frames=len(pooled),
        sequences=len(sequences),
        classes=len(by_class),
        ao_by_objects={count: float(np.concatenate(by_objects[count]).mean()) for count in sorted(by_objects)},
    )


def box_iou(
    first: Float[np.ndarray, "*b 4"], second: Float[np.ndarray, "*b 4"], *, clipping: Clipping = "picture"
) -> Float64[np.ndarray, "*b"]:
    """Returns the intersection over union of boxes clipped to the picture, 0..1.

    Args:
        first: Boxes, xyxy in 0..1. A box that is NaN or has no area has an IoU of 0 with every box.
        second: Boxes to compare with.
        clipping: "picture" cuts off what lies outside. "toolkit" follows the published GOT-10k toolkit, which moves a
            left or top side into the picture without shrinking the box. Both agree on boxes that do not reach beyond
            the left or the top of the picture.

    Raises:
        SMCDError: `clipping` is neither of the two.
    """
    if clipping not in ("picture", "toolkit"):
        raise SMCDError(
            f"clipping must be 'picture' or 'toolkit', got {clipping!r}", argument="clipping", value=clipping
        )
    first, second = (_clipped(np.asarray(box, np.float64), clipping) for box in (first, second))
    shared = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.maximum(shared, 0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def displacement_correlation(
    boxes: Sequence[Float[np.ndarray, "f n 4"]],
    found: Sequence[Float[np.ndarray, "f n 4"]],
    masks: Sequence[Shaped[np.ndarray, "f n"]],
) -> DisplacementCorrelation:
    """Returns the rank correlation of the displacements of true and found boxes, x and y pooled.

    The displacement of an object is that of the centre of its box, cut to the picture, from the first frame where the
    object is present to the last. Objects present in a single frame do not count.

    Args:
        boxes: True boxes of each clip, xyxy in 0..1.
        found: Boxes found in each clip; NaN where not found.
        masks: Masks of each clip, 1 or true where an object is present.
    """
    pairs, missing = [], 0
    for true, seen, mask in zip(boxes, found, masks, strict=True):
        mask = np.asarray(mask, bool)
        for item in np.flatnonzero(mask.sum(axis=0) > 1):
            ends = np.flatnonzero(mask[:, item])[[0, -1]]
            moves = [np.diff(_centers(one[ends, item]), axis=0)[0] for one in (true, seen)]
            if np.isfinite(moves).all():
                pairs.append(moves)
            else:
                missing += 1
    return DisplacementCorrelation(_rank_correlation(pairs), len(pairs), missing)


def _rank_correlation(pairs: list[list[np.ndarray]]) -> float:
    from scipy.stats import rankdata  # slow to import

    values = np.array(pairs).reshape(-1, 2, 2)
    ranks = [rankdata(values[:, which].ravel()) for which in (0, 1)]
    if len(values) < 2 or any(np.ptp(rank) == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def _counted(ious: np.ndarray) -> np.ndarray:
    return ious[np.isfinite(ious)]


def _rates(ious: np.ndarray) -> Float64[np.ndarray, " 3"]:
    return np.array([ious.mean(), (ious > 0.5).mean(), (ious > 0.75).mean()])


def _centers(boxes: np.ndarray) -> Float64[np.ndarray, "*b 2"]:
    """Returns the centres of the parts within the picture; NaN where a box has no such part."""
    boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)
    has_area = (boxes[..., :2] < boxes[..., 2:]).all(axis=-1, keepdims=True)
    return np.where(has_area, (boxes[..., :2] + boxes[..., 2:]) / 2, np.nan)


def _clipped(boxes: np.ndarray, clipping: Clipping) -> np.ndarray:
    """Returns the boxes cut to the picture; empty where a box is NaN or inverted."""
    boxes = np.where(np.isfinite(boxes).all(axis=-1, keepdims=True), boxes, 0)
    low, high = np.clip(boxes[..., :2], 0, 1), boxes[..., 2:]
    if clipping == "toolkit":
        high = low + (high - boxes[..., :2])
    return np.concatenate([low, np.maximum(np.clip(high, 0, 1), low)], axis=-1)


def _check_areas(boxes: np.ndarray, counted: np.ndarray) -> None:
    cut = np.clip(boxes, 0, 1)
    bad = np.argwhere(counted & ~(np.isfinite(boxes).all(axis=-1) & (cut[..., :2] < cut[..., 2:]).all(axis=-1)))
    if len(bad):
        frame, item = bad[0]
        raise SMCDError(
            f"grounding: the true box of object {item} in frame {frame} must have an area within the picture, got "
            f"{format_box(boxes[frame, item])}; mask out frames without the object",
            argument="boxes",
            value=(int(frame), int(item)),
        )
