"""How well objects follow their boxes: AO, SR50 and SR75 by the GOT-10k protocol, and whether they move as asked.

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
    """How far found and true boxes agree in one clip.

    Attributes:
        ious: 0..1, NaN in frames that do not count.
        labels: of each object, to balance classes by; may be empty if nobody asks for that.
        objects: number of objects present at some time; padding is not counted.
    """

    ious: Float64[np.ndarray, "f n"]
    labels: tuple[str, ...]
    objects: int


@dataclass(frozen=True)
class GroundingScores:
    """Scores of a set of clips, 0..1, more is better.

    Attributes:
        ao: average overlap: mean IoU over the frames of all clips and objects.
        sr50: success rate: share of those frames with IoU > 0.5.
        sr75: with IoU > 0.75.
        mao: class-balanced: AO of each sequence (one object in one clip), mean over a class, mean over classes. None
            without labels; so are the next two.
        msr50: likewise.
        msr75: likewise.
        frames: counted, over clips and objects.
        sequences: objects in clips with at least one counted frame.
        classes: different labels among them; 0 without labels.
        ao_by_objects: AO of the clips with one object, with two, ...
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
    """Whether objects move as asked.

    Attributes:
        rank_correlation: Spearman's, -1..1, over x and y of all objects; NaN where it is not defined: fewer than two
            objects, or all displacements equal, as those of a still video are.
        objects: that took part.
        missing: that did not, because they were not found in their first or last frame.
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
    """IoU of found and true boxes in the frames of one clip that count.

    An object's first frame does not count, because the tracker was given its box. That is frame 0, as in GOT-10k,
    unless the object enters later; frames before are without it anyway.

    Args:
        found: x1, y1, x2, y2 in 0..1; may reach beyond the picture. NaN, or without area: not found, an IoU of 0.
        boxes: the true ones.
        mask: 1 or true where the object is present; other frames do not count.
        labels: one per object, or none.
        cover: how much of the object is visible, any scale; frames with 0 do not count either.
        clipping: see `box_iou`.

    Raises:
        SMCDError: shapes that do not belong together, or a counted true box without area in the picture.
    """
    found, boxes, mask, labels = np.asarray(found), np.asarray(boxes), np.asarray(mask, bool), tuple(labels)
    fits = {
        "mask": mask.ndim == 2,
        "boxes": boxes.shape == (*mask.shape, 4),
        "found boxes": found.shape == boxes.shape,
        "cover": cover is None or np.shape(cover) == mask.shape,
        "labels": len(labels) in (0, mask.shape[-1]),
    }
    if not all(fits.values()):
        wrong = ", ".join(name for name, fit in fits.items() if not fit)
        raise SMCDError(
            f"grounding: {wrong} of another shape: found boxes {list(found.shape)}, boxes {list(boxes.shape)}, mask "
            f"{list(mask.shape)}, {len(labels)} labels; give boxes [frames, objects, 4] and mask [frames, objects]"
        )
    counted = mask & (np.cumsum(mask, axis=0) > 1)
    if cover is not None:
        counted &= np.asarray(cover) > 0
    _check_areas(boxes, counted)
    ious = box_iou(found, np.where(counted[..., None], boxes, 0), clipping=clipping)
    return ClipOverlap(np.where(counted, ious, np.nan), labels, int(mask.any(axis=0).sum()))


def grounding_scores(clips: Sequence[ClipOverlap]) -> GroundingScores:
    """AO, SR50 and SR75 over all frames of all clips, and class-balanced where all clips have labels.

    Raises:
        SMCDError: no frame counts, or some clips have labels and others none.
    """
    sequences = [(clip, item, _counted(clip.ious[:, item])) for clip in clips for item in range(clip.ious.shape[1])]
    sequences = [(clip, item, ious) for clip, item, ious in sequences if len(ious)]
    if not sequences:
        raise SMCDError(
            f"grounding: no frame to measure in {len(clips)} clips; an object counts from its second frame on"
        )
    labelled = {bool(clip.labels) for clip, _, _ in sequences}
    if len(labelled) > 1:
        raise SMCDError("grounding: some clips have labels and others none; give labels for all clips, or for none")
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
    """Intersection over union of boxes cut to the picture, 0..1.

    Args:
        first: x1, y1, x2, y2 in 0..1. A box that is NaN or has no area overlaps with nothing.
        second: likewise.
        clipping: "picture" cuts off what lies outside. "toolkit" does as the published GOT-10k toolkit: a left or top
            side outside is moved in without making the box smaller, so that the box is wider than its visible part.
            They agree on boxes that do not reach beyond the left or the top.

    Raises:
        SMCDError: another clipping.
    """
    if clipping not in ("picture", "toolkit"):
        raise SMCDError(f"clipping {clipping!r} is unknown: use 'picture' or 'toolkit'")
    first, second = (_clipped(np.asarray(box, np.float64), clipping) for box in (first, second))
    shared = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.maximum(shared, 0).prod(axis=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def displacement_correlation(
    asked: Sequence[Float[np.ndarray, "f n 4"]],
    found: Sequence[Float[np.ndarray, "f n 4"]],
    masks: Sequence[Shaped[np.ndarray, "f n"]],
) -> DisplacementCorrelation:
    """Rank correlation of how far objects should move and how far they do, x and y pooled.

    A displacement is that of the centre of the box, cut to the picture, from the first frame where the object is
    present to the last. An object present in one frame only has none, and does not count.

    Args:
        asked: of each clip, boxes as given, x1, y1, x2, y2 in 0..1.
        found: of each clip, boxes as found; NaN where not found.
        masks: of each clip, 1 or true where an object is present.
    """
    pairs, missing = [], 0
    for true, seen, mask in zip(asked, found, masks, strict=True):
        mask = np.asarray(mask, bool)
        for item in np.flatnonzero(mask.sum(axis=0) > 1):
            ends = np.flatnonzero(mask[:, item])[[0, -1]]
            moves = [np.diff(_centers(boxes[ends, item]), axis=0)[0] for boxes in (true, seen)]
            if np.isfinite(moves).all():
                pairs.append(moves)
            else:
                missing += 1
    return DisplacementCorrelation(_rank_correlation(pairs), len(pairs), missing)


def _rank_correlation(pairs: list[list[np.ndarray]]) -> float:
    from scipy.stats import rankdata  # takes longer to import than all else here

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
    """Of the parts within the picture; NaN where there is none."""
    boxes = np.clip(np.asarray(boxes, np.float64), 0, 1)
    has_area = (boxes[..., :2] < boxes[..., 2:]).all(axis=-1, keepdims=True)
    return np.where(has_area, (boxes[..., :2] + boxes[..., 2:]) / 2, np.nan)


def _clipped(boxes: np.ndarray, clipping: Clipping) -> np.ndarray:
    """Within the picture, and empty where it is NaN or inside out."""
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
            f"grounding: frame {frame}, object {item}: true box {format_box(boxes[frame, item])} has no area within "
            "the picture; mask out frames without the object"
        )
