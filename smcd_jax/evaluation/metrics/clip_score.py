"""Cosine similarities within a clip: of its frames with its caption (CLIP-SIM), and of each frame with the next."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.metric_rows import Described, Measure, left_out, of_extractor

ClipFeatures = Mapping[str, Float64[np.ndarray, "f d"]]


def caption_similarity(
    frames: ClipFeatures, captions: Mapping[str, Float64[np.ndarray, " d"]], extractor: Described
) -> Measure:
    """CLIP-SIM: mean cosine of every frame with the caption, over frames, then over clips; -1..1.

    Args:
        frames: features of each clip's frames, by clip id.
        captions: feature of each clip's caption; clips without one are left out, and the note says so.
        extractor: that made the features.

    Raises:
        SMCDError: no clip has a caption, or a feature without direction (all zeros, NaN or infinite).
    """
    values = {
        clip: float(cosines(frames[clip], captions[clip], clip).mean()) for clip in sorted(frames) if clip in captions
    }
    note = left_out(set(frames) - set(values), len(frames), "no caption")
    return Measure.mean_of_clips(f"clip-sim-{extractor.name}", values, note=note, **of_extractor(extractor))


def frame_consistency(frames: ClipFeatures, extractor: Described) -> Measure:
    """Mean cosine of consecutive frames, over frames, then over clips; 1 for a still video.

    Args:
        frames: features of each clip's frames, by clip id; clips of one frame are left out, and the note says so.
        extractor: that made the features.

    Raises:
        SMCDError: no clip has two frames, or a feature without direction.
    """
    values = {
        clip: float(cosines(features[:-1], features[1:], clip).mean())
        for clip, features in sorted(frames.items())
        if len(features) > 1
    }
    note = left_out(set(frames) - set(values), len(frames), "a single frame")
    return Measure.mean_of_clips(f"frame-consistency-{extractor.name}", values, note=note, **of_extractor(extractor))


def cosines(
    first: Float64[np.ndarray, "n d"], second: Float64[np.ndarray, "#n d"] | Float64[np.ndarray, " d"], clip: str
) -> Float64[np.ndarray, " n"]:
    """Cosines of rows with rows, or with one vector.

    Raises:
        SMCDError: a feature is all zeros, NaN or infinite; or widths differ. ``clip`` says where.
    """
    first, second = (np.atleast_2d(np.asarray(features, np.float64)) for features in (first, second))
    if first.shape[1] != second.shape[1]:
        raise SMCDError(f"clip {clip}: features of width {first.shape[1]} and {second.shape[1]} cannot be compared")
    lengths = [np.linalg.norm(features, axis=1) for features in (first, second)]
    if not all(np.isfinite(length).all() and length.all() for length in lengths):
        raise SMCDError(
            f"clip {clip}: a feature is all zeros, NaN or infinite, so it has no direction; check frames and weights"
        )
    return np.clip((first * second).sum(axis=1) / (lengths[0] * lengths[1]), -1.0, 1.0)
