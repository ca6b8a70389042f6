"""All metrics of an evaluation, by their names on the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.grounding_run import COUNTED_FRAMES, SPRITES, ObjectTracker, RecognizeLabels, measure_grounding
from smcd_jax.evaluation.metrics import fidelity, motion
from smcd_jax.evaluation.metrics.clip_score import caption_similarity, frame_consistency
from smcd_jax.evaluation.metrics.fvd import fvd
from smcd_jax.evaluation.metrics.metric_rows import Direction, Metric, describe_omitted
from smcd_jax.evaluation.trackers.opencv import load_cv2
from smcd_jax.evaluation.video_store import GENERATED, REAL, SLID, STILL, EvalClip, Video, read_clip_video

if TYPE_CHECKING:
    from smcd_jax.evaluation.measure_run import MetricRun

ByVersion = Mapping[str, Sequence[Metric]]


class MetricSpec(NamedTuple):
    """Definition of a metric that can be requested by name.

    Attributes:
        run: Function that computes the metrics by version.
        extractor: Name of the feature network or weights; None if the metric needs none.
        better: Direction, for the row of a metric that did not run.
        default: Whether the metric runs when no metrics are requested by name.
    """

    run: Callable[[MetricRun, str | None], ByVersion]
    extractor: str | None = None
    better: Direction = "higher"
    default: bool = True


def _clip_sim(run: MetricRun, extractor: str | None) -> ByVersion:
    features = run.features(extractor)
    return {
        version: [caption_similarity(frames, features.texts, features.source)]
        for version, frames in features.frames.items()
    }


def _consistency(run: MetricRun, extractor: str | None) -> ByVersion:
    features = run.features(extractor)
    return {version: [frame_consistency(frames, features.source)] for version, frames in features.frames.items()}


def _fff(run: MetricRun, extractor: str | None) -> ByVersion:
    features = run.features(extractor)
    pictures = {clip: rows[0] for clip, rows in features.frames[REAL].items()}
    return {
        version: fidelity.first_frame_fidelity(frames, pictures, features.source)
        for version, frames in features.frames.items()
    }


def _fvd(run: MetricRun, extractor: str | None) -> ByVersion:
    network = run.open_extractor(extractor)
    features = run.over_clips(
        f"features of {extractor}",
        lambda clip, videos: {version: network.features(video[None])[0] for version, video in videos.items()},
    )
    settings = {"frames": run.store.frames, "extractor": network}
    metrics = {GENERATED: [fvd(features[GENERATED], features[REAL], **settings)]}
    for version in (STILL, SLID):
        metrics[version] = [fvd(features[version], features[REAL], resamples=0, **settings)]
    return metrics


def _pixels(kind: str, frames: slice = slice(None)) -> Callable[[MetricRun, str | None], ByVersion]:
    """Returns PSNR, SSIM or LPIPS of the generated clip and of the baselines against the real clip."""

    def run_pixels(run: MetricRun, extractor: str | None) -> ByVersion:
        lpips = run.open_extractor(extractor) if extractor else None
        distance = {"psnr": fidelity.psnr, "ssim": fidelity.ssim}[kind] if lpips is None else lpips.distance
        first_only = frames.stop == 1
        values = run.over_clips(
            f"{kind} of first frames" if first_only else kind,
            lambda clip, videos: {
                version: distance(videos[version][frames], videos[REAL][frames])
                for version in ((GENERATED,) if first_only else (GENERATED, STILL, SLID))
            },
        )
        return {
            version: [fidelity.pixel_metric(kind, per_clip, lpips=lpips, first_only=first_only)]
            for version, per_clip in values.items()
        }

    return run_pixels


def _psnr_autoencoder(run: MetricRun, extractor: str | None) -> ByVersion:
    """Returns the PSNR of the picture after encoding and decoding, an upper bound for the model's first frame."""
    autoencoder = run.open_extractor(extractor)
    values = run.over_clips(
        "autoencoder",
        lambda clip, videos: {GENERATED: fidelity.psnr(autoencoder.reconstruct(videos[REAL][:1]), videos[REAL][:1])},
    )
    source = {"implementation": autoencoder.implementation, "weights_sha256": autoencoder.weights_sha256}
    rule = "frame 0, encoded (mean of the posterior) and decoded"
    return {GENERATED: [Metric.mean_of_clips("psnr-autoencoder", values[GENERATED], frame_rule=rule, **source)]}


def _pixel_difference(run: MetricRun, _: str | None) -> ByVersion:
    """Returns the mean absolute difference of pixels from other videos of the same clips, 0 to 255."""
    folder = run.difference_from
    if folder is None:
        raise SMCDError("pixel-difference needs --difference_from DIR", argument="difference_from")

    def difference(clip: EvalClip, videos: Mapping[str, Video]) -> dict[str, float]:
        try:
            other, _ = read_clip_video(folder, clip)
        except BadClip as error:
            raise SMCDError(error.reason, argument="difference_from", path=folder) from error
        return {GENERATED: fidelity.pixel_difference(videos[GENERATED], other)}

    values = run.over_clips("pixel difference", difference)
    rule = "every frame against the frame of the same index in the other video"
    metric = Metric.mean_of_clips(
        "pixel-difference",
        values[GENERATED],
        better="lower",
        implementation="mean absolute difference of 8-bit values, 0..255",
        frame_rule=rule,
    )
    return {GENERATED: [metric]}


def _motion(run: MetricRun, _: str | None) -> ByVersion:
    motions = run.over_clips(
        "motion",
        lambda clip, videos: {
            version: motion.motion_magnitude(video, clip.boxes, clip.mask) for version, video in videos.items()
        },
    )
    cv2 = load_cv2("optical flow", "calcOpticalFlowFarneback")
    source = {
        "implementation": f"Farneback's optical flow, OpenCV {cv2.__version__}",
        "frame_rule": f"between neighbouring frames, shorter side {motion.SHORTER_SIDE}, in shorter sides per frame",
    }
    directions: dict[str, Direction] = {"inside": "higher", "outside": "lower"}
    return {
        version: [
            _mean_motion(per_clip, where, better, version == GENERATED, source) for where, better in directions.items()
        ]
        for version, per_clip in motions.items()
    }


def _mean_motion(
    motions: Mapping[str, motion.Motion], where: str, better: Direction, noted: bool, source: Mapping[str, str]
) -> Metric:
    values = {clip: getattr(one, where) for clip, one in motions.items() if np.isfinite(getattr(one, where))}
    reason = f"no pixel is {where} the boxes"
    name = f"motion-{where}-{motion.NAME}"
    if not values:
        return Metric.not_run(name, f"{reason} of any clip", better=better)
    note = describe_omitted(set(motions) - set(values), len(motions), reason) if noted else ""
    return Metric.mean_of_clips(name, values, better=better, note=note, **source)


def _grounding(run: MetricRun, tracker: str | None) -> ByVersion:
    result = measure_grounding(run.calls, run.open_tracker(tracker))
    run.boxes = run.boxes or result.boxes
    return result.metrics


def _labels(run: MetricRun, _: str | None) -> ByVersion:
    """Returns the share of an object's frames in which the label given to the model is recognized at its box.

    In the real clip, the recorded labels count.
    """
    tracker = run.open_tracker(SPRITES)
    shares = functools.partial(_label_shares, tracker.recognize)
    values = run.over_clips(f"labels by {tracker.name}", shares, picklable=tracker.picklable)
    return {version: [_label_metric(per_clip, tracker, version == GENERATED)] for version, per_clip in values.items()}


def _label_shares(recognize: RecognizeLabels, clip: EvalClip, videos: Mapping[str, Video]) -> dict[str, float]:
    """Returns the share of the frames with the expected label, by version; NaN if no frame can be judged."""
    shares = {}
    for version, labels in ((GENERATED, clip.tracks.labels), (REAL, clip.labels)):
        found = recognize(clip, videos[version])
        frames = [label == labels[item] for item, seen in found.items() for label in seen]
        shares[version] = float(np.mean(frames)) if frames else np.nan
    return shares


def _label_metric(per_clip: Mapping[str, float], tracker: ObjectTracker, noted: bool) -> Metric:
    known = {clip: value for clip, value in per_clip.items() if np.isfinite(value)}
    omitted = describe_omitted(set(per_clip) - set(known), len(per_clip), "other objects cover the boxes")
    return Metric.mean_of_clips(
        f"label-{tracker.name}",
        known,
        implementation="the label of the world whose sprite explains most of the picture at the object's box",
        frame_rule=COUNTED_FRAMES,
        note=omitted if noted else "",
    )


# Metrics by their names on the command line, in the order of the results.
METRICS: Mapping[str, MetricSpec] = {
    "grounding": MetricSpec(_grounding),
    "motion": MetricSpec(_motion),
    "psnr": MetricSpec(_pixels("psnr")),
    "psnr-first": MetricSpec(_pixels("psnr", slice(1))),
    "ssim": MetricSpec(_pixels("ssim")),
    "lpips": MetricSpec(_pixels("lpips"), "lpips", "lower"),
    "clip-sim": MetricSpec(_clip_sim, "openclip"),
    "consistency": MetricSpec(_consistency, "openclip"),
    "fff-clip": MetricSpec(_fff, "openclip"),
    "fff-dino-s16": MetricSpec(_fff, "dino-s16"),
    "fvd": MetricSpec(_fvd, "i3d", "lower"),
    "clip-sim-openai": MetricSpec(_clip_sim, "openai-clip", default=False),
    "consistency-openai": MetricSpec(_consistency, "openai-clip", default=False),
    "fff-clip-openai": MetricSpec(_fff, "openai-clip", default=False),
    "fff-dino-b16": MetricSpec(_fff, "dino-b16", default=False),
    "fvd-torchscript": MetricSpec(_fvd, "i3d-torchscript", "lower", default=False),
    "psnr-autoencoder": MetricSpec(_psnr_autoencoder, "autoencoder", default=False),
    "labels": MetricSpec(_labels, default=False),
    "pixel-difference": MetricSpec(_pixel_difference, better="lower", default=False),
}
DEFAULT_METRICS = tuple(name for name, spec in METRICS.items() if spec.default)


def check_names(names: Sequence[str]) -> None:
    """Checks that every name is the name of a metric.

    Raises:
        SMCDError: A name is unknown.
    """
    for name in names:
        if name not in METRICS:
            raise SMCDError(
                f"metrics must be names among {', '.join(METRICS)}, got {name!r}", argument="metrics", value=name
            )
