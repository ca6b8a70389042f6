"""The Frechet video distance (FVD, Unterthiner et al. 2018) between two sets of videos, with a confidence interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.frechet import frechet_distance
from smcd_jax.evaluation.metrics.fvd_preprocess import length_rule
from smcd_jax.evaluation.metrics.metric_rows import CONFIDENCE, SEED, Metric, MetricSource, source_fields

FEW_CLIPS = 256  # with fewer clips, the bias that a small set causes dominates the distance
RESAMPLES = 200

Features = Mapping[str, Float64[np.ndarray, " d"]]


def fvd(
    generated: Features,
    real: Features,
    *,
    frames: int,
    extractor: MetricSource,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Metric:
    """Returns the Frechet distance between the features of generated and real videos.

    Args:
        generated: Features of the generated videos by clip id, in any order.
        real: Features of the real videos by clip id; the videos have the same number of frames.
        frames: Number of frames of every video, before padding to the length that the network needs.
        extractor: Network that computed the features.
        resamples: Number of bootstrap samples; 0 for no interval.
        seed: Seed of the bootstrap.

    Returns:
        The distance, with the interval of `spread`.

    Raises:
        SMCDError: A set has fewer than two clips, or the features come from different networks, or are NaN or infinite.
    """
    rule, description = length_rule(frames)
    name, note = f"fvd-{extractor.name}-{rule}", ""
    sets = [np.stack([chosen[clip] for clip in sorted(chosen)]) if chosen else None for chosen in (generated, real)]
    if any(features is None or len(features) < 2 for features in sets):
        raise SMCDError(
            f"{name}: both sets must have at least 2 clips, got {len(generated)} generated and {len(real)} real",
            argument="generated" if len(generated) < 2 else "real",
            value=min(len(generated), len(real)),
        )
    value = frechet_distance(*sets)
    fewest = min(map(len, sets))
    if fewest < FEW_CLIPS:
        note = (
            f"computed from {fewest} clips, fewer than {FEW_CLIPS}: fewer clips give larger distances; compare only "
            "with distances of the same number of clips"
        )
    source = source_fields(extractor)
    source["frame_rule"] = f"{description}; {source['frame_rule']}"
    paired = set(generated) == set(real)
    interval = spread(*sets, value, paired=paired, resamples=resamples, seed=seed) if resamples else None
    return Metric(name, value, interval, count=len(generated), better="lower", note=note, **source)


def spread(
    generated: Float64[np.ndarray, "n d"],
    real: Float64[np.ndarray, "m d"],
    value: float,
    *,
    paired: bool,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Returns a 95 % bootstrap interval of a distance, centred on its value.

    A sample with replacement contains fewer different clips than the set, and fewer clips give larger distances, so all
    bootstrap distances are biased upwards. The interval therefore uses their deviations from their own mean.

    Args:
        generated: Features of the first set.
        real: Features of the second set.
        value: Distance between the sets.
        paired: Whether row k of both sets belongs to the same clip; the rows are then drawn together.
        resamples: Number of bootstrap samples.
        seed: Seed of the random number generator.

    Returns:
        Low end, at least 0, and high end.
    """
    random = np.random.default_rng(seed)
    distances = np.empty(resamples)
    for index in range(resamples):
        rows = random.integers(0, len(generated), len(generated))
        others = rows if paired else random.integers(0, len(real), len(real))
        distances[index] = frechet_distance(generated[rows], real[others])
    low, high = np.quantile(distances, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) - distances.mean()
    return max(0.0, value + float(low)), value + float(high)
