"""Grounding of an evaluation: how well objects follow their boxes, measured by a tracker or by exact detection."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.clip_calls import ClipCalls
from smcd_jax.evaluation.metrics.grounding import (
    ClipOverlap,
    GroundingScores,
    clip_overlap,
    displacement_correlation,
    grounding_scores,
)
from smcd_jax.evaluation.metrics.metric_rows import CONFIDENCE, MAX_NAMED, RESAMPLES, SEED, Metric
from smcd_jax.evaluation.trackers import sprite_detector
from smcd_jax.evaluation.trackers.learned_tracker import VIT, VitTracker
from smcd_jax.evaluation.trackers.object_trackers import OpenCVTracker, Tracker, track_objects
from smcd_jax.evaluation.trackers.sprite_labels import recognized_labels
from smcd_jax.evaluation.trackers.sprite_scenes import SpriteScenes
from smcd_jax.evaluation.video_store import GENERATED, EvalClip, Video
from smcd_jax.media import resize_picture

if TYPE_CHECKING:
    from data_pipeline.sprites import Scene

SPRITES = "sprites"  # tracker name that selects the exact sprite detector
COUNTED_FRAMES = "every frame of an object except its first, boxes cut to the picture"

Boxes = Float32[np.ndarray, "f n 4"]
RecognizeLabels = Callable[[EvalClip, Video], Mapping[int, list[str]]]


class TrackedBoxes(NamedTuple):
    """Boxes of a clip's objects as found in its videos.

    Attributes:
        boxes: Boxes by version of the clip; NaN where an object was not found.
        lost: Reasons, by index, for objects that cannot be tracked in one of the versions; they count in no version.
    """

    boxes: Mapping[str, Boxes]
    lost: Mapping[int, str]


class ObjectTracker(NamedTuple):
    """A method that finds all objects of a clip in its videos.

    Attributes:
        name: Suffix of the names of its metrics.
        implementation: Implementation with its version.
        frame_rule: Preparation of the frames.
        find: Function that finds the objects of a clip in each of its versions.
        weights_sha256: Hash of the weights of a learned tracker, else None.
        recognize: Function that returns the label recognized in each frame of each object of a clip; None if the method
            does not recognize labels.
        picklable: Whether `find` and `recognize` can be pickled, so that worker processes can call them.
    """

    name: str
    implementation: str
    frame_rule: str
    find: Callable[[EvalClip, Mapping[str, Video]], TrackedBoxes]
    weights_sha256: str | None = None
    recognize: RecognizeLabels | None = None
    picklable: bool = False


class GroundingResult(NamedTuple):
    """Grounding metrics of one tracker.

    Attributes:
        metrics: Metrics by version; the lists have equal length.
        boxes: Boxes found in the generated version, by clip id.
    """

    metrics: Mapping[str, Sequence[Metric]]
    boxes: Mapping[str, Boxes]


def open_tracker(name: str, scenes: Callable[[], SpriteScenes]) -> ObjectTracker:
    """Opens a tracker by name.

    Args:
        name: One of `smcd_jax.evaluation.trackers.object_trackers.TRACKERS`, "vit:FILE.onnx", or `SPRITES`.
        scenes: Function that opens the scenes of the records; called for `SPRITES` only.

    Raises:
        SMCDError: The tracker or file does not exist, OpenCV is not installed, or the records do not contain sprites.
    """
    if name == SPRITES:
        known_scenes = scenes()
        return ObjectTracker(
            sprite_detector.NAME,
            f"the known sprites on the known background, found at a score of at least {sprite_detector.THRESHOLD:g}",
            "each frame by itself, resized to the size of the scene (bilinear)",
            functools.partial(_detect, known_scenes),
            recognize=functools.partial(_recognize, known_scenes),
            picklable=True,
        )
    method, colon, file = name.partition(":")
    return from_tracker(VitTracker(file) if (method, colon) == (VIT, ":") else OpenCVTracker(name))


def from_tracker(tracker: Tracker) -> ObjectTracker:
    """Returns an object tracker that starts ``tracker`` from each object's box in the first frame that shows it."""
    return ObjectTracker(
        tracker.name,
        f"{tracker.name} of {tracker.version}, each object by itself from its first box",
        "every frame, enlarged by a whole factor to the shorter side in the tracker's name",
        lambda clip, videos: _track(tracker, clip, videos),
        tracker.weights_sha256,
    )


def measure_grounding(calls: ClipCalls, tracker: ObjectTracker) -> GroundingResult:
    """Computes AO, SR50 and SR75, overall, by class and by number of objects, and the correlation of displacements.

    Raises:
        SMCDError: No clip has an object to track.
    """
    overlaps: dict[str, dict[str, ClipOverlap]] = {}
    found_boxes: dict[str, list[Boxes]] = {}
    true_boxes, masks, lost, generated_boxes = [], [], {}, {}
    for clip, tracked in calls.each(f"track with {tracker.name}", tracker.find, picklable=tracker.picklable):
        if not clip.objects:
            continue
        lost |= {f"{clip.clip_id} ({clip.labels[item]})": reason for item, reason in tracked.lost.items()}
        mask = clip.mask.copy()
        mask[:, list(tracked.lost)] = False
        true_boxes.append(clip.boxes)
        masks.append(mask)
        generated_boxes[clip.clip_id] = tracked.boxes[GENERATED]
        for version, boxes in tracked.boxes.items():
            overlap = clip_overlap(boxes, clip.boxes, mask, labels=clip.labels)
            overlaps.setdefault(version, {})[clip.clip_id] = overlap
            found_boxes.setdefault(version, []).append(boxes)
    if not overlaps:
        raise SMCDError("grounding needs at least one clip with an object", argument="metrics", value="grounding")
    source = {
        "implementation": tracker.implementation,
        "weights_sha256": tracker.weights_sha256,
        "frame_rule": f"{COUNTED_FRAMES}; {tracker.frame_rule}",
    }
    metrics = {
        version: [
            *_overlap_metrics(clips, tracker.name, source),
            _displacement(tracker.name, true_boxes, found_boxes[version], masks, source),
        ]
        for version, clips in overlaps.items()
    }
    metrics[GENERATED][0] = dataclasses.replace(metrics[GENERATED][0], note=_describe_lost(lost))
    return GroundingResult(metrics, generated_boxes)


def _overlap_metrics(clips: Mapping[str, ClipOverlap], name: str, source: Mapping[str, Any]) -> list[Metric]:
    scores = grounding_scores([clips[clip_id] for clip_id in sorted(clips)])
    counted = {clip_id: ious[np.isfinite(ious)] for clip_id, (ious, _, _) in sorted(clips.items())}
    counted = {clip_id: ious for clip_id, ious in counted.items() if len(ious)}
    rates = {"ao": lambda ious: ious, "sr50": lambda ious: ious > 0.5, "sr75": lambda ious: ious > 0.75}
    pooled = []
    for kind, rate in rates.items():
        values = {clip_id: rate(ious).astype(np.float64) for clip_id, ious in counted.items()}
        pooled.append(
            Metric(
                f"{kind}-{name}",
                getattr(scores, kind),
                _pooled_interval(list(values.values())),
                count=len(values),
                per_clip={clip_id: value.mean() for clip_id, value in values.items()},
                **source,
            )
        )
    return [*pooled, *_partial_scores(scores, name, source, clips=len(counted))]


def _partial_scores(scores: GroundingScores, name: str, source: Mapping[str, Any], *, clips: int) -> list[Metric]:
    """Returns class-balanced scores, and AO by number of objects."""
    rule = f"{source['frame_rule']}; mean over classes of the mean over objects"
    metrics = [
        Metric(f"{kind}-{name}", getattr(scores, kind), count=clips, **{**source, "frame_rule": rule})
        for kind in ("mao", "msr50", "msr75")
    ]
    if len(scores.ao_by_objects) > 1:
        metrics += [
            Metric(f"ao-of-{objects}-{name}", value, count=clips, **source)
            for objects, value in scores.ao_by_objects.items()
        ]
    return metrics


def _displacement(
    name: str,
    true_boxes: Sequence[Boxes],
    found_boxes: Sequence[Boxes],
    masks: Sequence[np.ndarray],
    source: Mapping[str, Any],
) -> Metric:
    result = displacement_correlation(true_boxes, found_boxes, masks)
    if not np.isfinite(result.rank_correlation):
        reason = "all displacements are equal, or fewer than two objects were found"
        return Metric.not_run(f"displacement-{name}", reason)
    total = result.objects + result.missing
    return Metric(
        f"displacement-{name}",
        result.rank_correlation,
        count=len(true_boxes),
        implementation=source["implementation"],
        weights_sha256=source["weights_sha256"],
        frame_rule=f"first and last frame of each object; {source['frame_rule']}",
        note=f"{result.missing} of {total} objects omitted: not found" if result.missing else "",
    )


def _pooled_interval(values: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, float] | None:
    """Returns the 95 % bootstrap interval over clips of the mean over all frames; None for fewer than two clips."""
    if len(values) < 2:
        return None
    sums, counts = np.array([value.sum() for value in values]), np.array([len(value) for value in values])
    rows = np.random.default_rng(SEED).integers(0, len(values), (RESAMPLES, len(values)))
    means = sums[rows].sum(axis=1) / counts[rows].sum(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _track(tracker: Tracker, clip: EvalClip, videos: Mapping[str, Video]) -> TrackedBoxes:
    found = {version: np.full(clip.boxes.shape, np.nan, np.float32) for version in videos}
    lost: dict[int, str] = {}
    for item in range(len(clip.labels)):
        one = slice(item, item + 1)
        try:
            for version, frames in videos.items():
                found[version][:, one] = track_objects(tracker, frames, clip.boxes[:, one], clip.mask[:, one])
        except SMCDError as error:
            lost[item] = str(error)
    return TrackedBoxes(found, lost)


def _detect(scenes: SpriteScenes, clip: EvalClip, videos: Mapping[str, Video]) -> TrackedBoxes:
    scene = scenes.scene(clip.recorded or clip)
    found = {
        version: sprite_detector.detect_sprites(_resized(frames, scene), scene).boxes[:, list(clip.objects)]
        for version, frames in videos.items()
    }
    return TrackedBoxes(found, {})


def _recognize(scenes: SpriteScenes, clip: EvalClip, video: Video) -> dict[int, list[str]]:
    scene = scenes.scene(clip.recorded or clip)
    mask = np.zeros((len(video), len(scene.objects)), bool)
    mask[:, list(clip.objects)] = clip.mask
    found = recognized_labels(_resized(video, scene), scene, mask, scenes.labels)
    return {index: found[item] for index, item in enumerate(clip.objects) if item in found}


def _resized(video: Video, scene: Scene) -> Video:
    height, width = scene.background.shape[:2]
    return np.stack([resize_picture(frame, height=height, width=width) for frame in video])


def _describe_lost(lost: Mapping[str, str]) -> str:
    if not lost:
        return ""
    names = sorted(lost)
    more = ", ..." if len(names) > MAX_NAMED else ""
    return f"{len(names)} objects omitted ({', '.join(names[:MAX_NAMED])}{more}): {lost[names[0]]}"
