"""Cosine similarities within a clip: frames with the caption (CLIP-SIM), and each frame with the next."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.metric_rows import Metric, MetricSource, describe_omitted, source_fields

ClipFeatures = Mapping[str, Float64[np.ndarray, "f d"]]


def caption_similarity(
    frames: ClipFeatures, captions: Mapping[str, Float64[np.ndarray, " d"]], extractor: MetricSource
) -> Metric:
    """Returns CLIP-SIM, the mean cosine of frames and caption, over frames, then over clips; -1..1.

    Args:
        frames: Features of each clip's frames, by clip id.
        captions: Feature of each clip's caption, by clip id; clips without one are omitted and named in the note.
        extractor: Extractor that computed the features.

    Raises:
        SMCDError: No clip has a caption, or a feature has no direction (all zeros, NaN or infinite).
    """
    values = {
        clip: float(cosines(frames[clip], captions[clip], clip).mean()) for clip in sorted(frames) if clip in captions
    }
    note = describe_omitted(set(frames) - set(values), len(frames), "no caption")
    return Metric.mean_of_clips(f"clip-sim-{extractor.name}", values, note=note, **source_fields(extractor))


def frame_consistency(frames: ClipFeatures, extractor: MetricSource) -> Metric:
    """Returns the mean cosine of consecutive frames, over frames, then over clips; 1 for a still video.

    Args:
        frames: Features of each clip's frames, by clip id; clips of one frame are omitted and named in the note.
        extractor: Extractor that computed the features.

    Raises:
        SMCDError: No clip has two frames, or a feature has no direction (all zeros, NaN or infinite).
    """
    values = {
        clip: float(cosines(features[:-1], features[1:], clip).mean())
        for clip, features in sorted(frames.items())
        if len(features) > 1
    }
    note = describe_omitted(set(frames) - set(values), len(frames), "a single frame")
    return Metric.mean_of_clips(f"frame-consistency-{extractor.name}", values, note=note, **source_fields(extractor))


def cosines(
    first: Float64[np.ndarray, "n d"], second: Float64[np.ndarray, "#n d"] | Float64[np.ndarray, " d"], clip: str
) -> Float64[np.ndarray, " n"]:
    """Returns the cosines of the rows of two matrices, or of the rows with one vector.

    Args:
        first: Features, one per row.
        second: Features to compare with.
        clip: Id of the clip, for messages.

    Raises:
        SMCDError: A feature is all zeros, NaN or infinite, or the widths differ.
    """
    first, second = (np.atleast_2d(np.asarray(features, np.float64)) for features in (first, second))
    if first.shape[1] != second.shape[1]:
        raise SMCDError(
            f"clip {clip}: features must have the same width, got {first.shape[1]} and {second.shape[1]}",
            argument="second",
            value=second.shape[1],
        )
    lengths = [np.linalg.norm(features, axis=1) for features in (first, second)]
    if not all(np.isfinite(length).all() and length.all() for length in lengths):
        raise SMCDError(
            f"clip {clip}: a feature is all zeros, NaN or infinite; check the frames and the weights of the network",
            argument="features",
            value=clip,
        )
    return np.clip((first * second).sum(axis=1) / (lengths[0] * lengths[1]), -1.0, 1.0)
