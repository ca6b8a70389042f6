"""How well the objects of an evaluation's videos follow their boxes: figures by trackers, and by exact detection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.grounding import (
    ClipOverlap,
    GroundingScores,
    clip_overlap,
    displacement_correlation,
    grounding_scores,
)
from smcd_jax.evaluation.metrics.metric_rows import CONFIDENCE, MOST_NAMED, RESAMPLES, SEED, Measure
from smcd_jax.evaluation.trackers import sprite_detector
from smcd_jax.evaluation.trackers.learned_tracker import VIT, VitTracker
from smcd_jax.evaluation.trackers.object_trackers import OpenCVTracker, Tracker, track_objects
from smcd_jax.evaluation.trackers.sprite_scenes import SpriteScenes
from smcd_jax.evaluation.video_store import GENERATED, AskedClip, ClipStore, Video
from smcd_jax.media import resize_picture
from smcd_jax.runtime.progress import Progress

SPRITES = "sprites"  # the exact detector, among the names of trackers
COUNTED = "every frame of an object but its first, boxes cut to the picture"

Boxes = Float32[np.ndarray, "f n 4"]


class Found(NamedTuple):
    """Where a clip's objects were found.

    Attributes:
        boxes: by version of the clip; NaN where not found.
        lost: objects that cannot be followed in one of the versions, so that they count in none, each with the reason.
    """

    boxes: Mapping[str, Boxes]
    lost: Mapping[int, str]


class Follower(NamedTuple):
    """What finds objects.

    Attributes:
        name: goes into the names of its measures.
        implementation: with its version.
        frame_rule: how frames are made ready for it.
        find: where the objects of a clip are in each version of it.
        weights_sha256: of the file of a learned one, else None.
    """

    name: str
    implementation: str
    frame_rule: str
    find: Callable[[AskedClip, Mapping[str, Video]], Found]
    weights_sha256: str | None = None


class Grounding(NamedTuple):
    """What a follower has found.

    Attributes:
        measures: by version, of equal length.
        boxes: of the generated version, by clip id.
    """

    measures: Mapping[str, Sequence[Measure]]
    boxes: Mapping[str, Boxes]


def open_follower(name: str, scenes: Callable[[], SpriteScenes]) -> Follower:
    """What follows objects, by name.

    Args:
        name: one of `smcd_jax.evaluation.trackers.object_trackers.TRACKERS`, "vit:FILE.onnx", or `SPRITES`.
        scenes: of the records; called for `SPRITES` only.

    Raises:
        SMCDError: no such tracker or file, OpenCV is not installed, or the records are not of sprites.
    """
    if name == SPRITES:
        known = scenes()
        rule = "each frame by itself, resized to the size of the scene (bilinear)"
        return Follower(
            sprite_detector.NAME,
            f"the known sprites on the known background, found from a score of {sprite_detector.THRESHOLD:g} on",
            rule,
            lambda clip, videos: _detected(known, clip, videos),
        )
    method, colon, file = name.partition(":")
    return of_tracker(VitTracker(file) if (method, colon) == (VIT, ":") else OpenCVTracker(name))


def of_tracker(tracker: Tracker) -> Follower:
    """A tracker, as what follows objects; each is started from its box in the first frame that shows it."""
    return Follower(
        tracker.name,
        f"{tracker.name} of {tracker.version}, each object by itself from its first box",
        "every frame, enlarged by a whole factor to the shorter side in the tracker's name",
        lambda clip, videos: _tracked(tracker, clip, videos),
        tracker.weights_sha256,
    )


def measure_grounding(store: ClipStore, follower: Follower, progress: Progress) -> Grounding:
    """AO, SR50 and SR75, over all, by class and by number of objects, and the correlation of displacements.

    Raises:
        SMCDError: nothing can be followed.
    """
    overlaps: dict[str, dict[str, ClipOverlap]] = {}
    places: dict[str, list[Boxes]] = {}
    asked, masks, lost, shown = [], [], {}, {}
    with progress.stage(f"follow by {follower.name}", len(store), "clip") as advance:
        for clip, videos in store.pairs():
            if clip.objects:
                found = follower.find(clip, videos)
                lost |= {f"{clip.clip_id} ({clip.labels[item]})": reason for item, reason in found.lost.items()}
                mask = clip.mask.copy()
                mask[:, list(found.lost)] = False
                asked.append(clip.boxes)
                masks.append(mask)
                shown[clip.clip_id] = found.boxes[GENERATED]
                for version, boxes in found.boxes.items():
                    overlap = clip_overlap(boxes, clip.boxes, mask, labels=clip.labels)
                    overlaps.setdefault(version, {})[clip.clip_id] = overlap
                    places.setdefault(version, []).append(boxes)
            advance()
    if not overlaps:
        raise SMCDError("no clip has an object to follow")
    described = {
        "implementation": follower.implementation,
        "weights_sha256": follower.weights_sha256,
        "frame_rule": f"{COUNTED}; {follower.frame_rule}",
    }
    measures = {
        version: [
            *_measures(found, follower.name, described),
            _displacement(follower.name, asked, places[version], masks, described),
        ]
        for version, found in overlaps.items()
    }
    measures[GENERATED][0] = dataclasses.replace(measures[GENERATED][0], note=_left_out(lost))
    return Grounding(measures, shown)


def _measures(clips: Mapping[str, ClipOverlap], name: str, described: Mapping[str, Any]) -> list[Measure]:
    scores = grounding_scores([clips[clip_id] for clip_id in sorted(clips)])
    counted = {clip_id: ious[np.isfinite(ious)] for clip_id, (ious, _, _) in sorted(clips.items())}
    counted = {clip_id: ious for clip_id, ious in counted.items() if len(ious)}
    rates = {"ao": lambda ious: ious, "sr50": lambda ious: ious > 0.5, "sr75": lambda ious: ious > 0.75}
    pooled = []
    for kind, rate in rates.items():
        values = {clip_id: rate(ious).astype(np.float64) for clip_id, ious in counted.items()}
        pooled.append(
            Measure(
                f"{kind}-{name}",
                getattr(scores, kind),
                _pooled_interval(list(values.values())),
                count=len(values),
                per_clip={clip_id: value.mean() for clip_id, value in values.items()},
                **described,
            )
        )
    return [*pooled, *_parts(scores, name, described, clips=len(counted))]


def _parts(scores: GroundingScores, name: str, described: Mapping[str, Any], *, clips: int) -> list[Measure]:
    """Class-balanced scores, and AO by number of objects."""
    rule = f"{described['frame_rule']}; mean over classes of the mean over objects"
    parts = [
        Measure(f"{kind}-{name}", getattr(scores, kind), count=clips, **{**described, "frame_rule": rule})
        for kind in ("mao", "msr50", "msr75")
    ]
    if len(scores.ao_by_objects) > 1:
        parts += [
            Measure(f"ao-of-{objects}-{name}", value, count=clips, **described)
            for objects, value in scores.ao_by_objects.items()
        ]
    return parts


def _displacement(
    name: str, asked: Sequence[Boxes], found: Sequence[Boxes], masks: Sequence[np.ndarray], described: Mapping[str, Any]
) -> Measure:
    result = displacement_correlation(asked, found, masks)
    if not np.isfinite(result.rank_correlation):
        reason = "all displacements are equal, or fewer than two objects were found"
        return Measure.not_run(f"displacement-{name}", reason)
    note = (
        f"{result.missing} of {result.objects + result.missing} objects left out, not found" if result.missing else ""
    )
    how = {**described, "frame_rule": f"first and last frame of each object; {described['frame_rule']}", "note": note}
    return Measure(f"displacement-{name}", result.rank_correlation, count=len(asked), **how)


def _pooled_interval(values: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, float] | None:
    """95 % of the mean over all frames, with clips drawn again; None for fewer than two clips."""
    if len(values) < 2:
        return None
    sums, counts = np.array([value.sum() for value in values]), np.array([len(value) for value in values])
    drawn = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _tracked(tracker: Tracker, clip: AskedClip, videos: Mapping[str, Video]) -> Found:
    found = {version: np.full(clip.boxes.shape, np.nan, np.float32) for version in videos}
    lost: dict[int, str] = {}
    for item in range(len(clip.labels)):
        one = slice(item, item + 1)
        try:
            for version, frames in videos.items():
                found[version][:, one] = track_objects(tracker, frames, clip.boxes[:, one], clip.mask[:, one])
        except SMCDError as error:
            lost[item] = str(error)
    return Found(found, lost)


def _detected(scenes: SpriteScenes, clip: AskedClip, videos: Mapping[str, Video]) -> Found:
    scene = scenes.scene(clip)
    height, width = scene.background.shape[:2]
    found = {}
    for version, frames in videos.items():
        resized = np.stack([resize_picture(frame, height=height, width=width) for frame in frames])
        found[version] = sprite_detector.detect_sprites(resized, scene).boxes[:, list(clip.objects)]
    return Found(found, {})


def _left_out(lost: Mapping[str, str]) -> str:
    if not lost:
        return ""
    names = sorted(lost)
    more = ", ..." if len(names) > MOST_NAMED else ""
    return f"{len(names)} objects left out, such as {', '.join(names[:MOST_NAMED])}{more}: {lost[names[0]]}"
