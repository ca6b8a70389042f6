"""The Frechet video distance (Unterthiner et al. 2018) between two sets of videos, with how sure it is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.frechet import frechet_distance
from smcd_jax.evaluation.metrics.fvd_preprocess import length_rule
from smcd_jax.evaluation.metrics.metric_rows import CONFIDENCE, SEED, Described, Measure, of_extractor

FEW_CLIPS = 256  # below, the distance says more of the number of clips than of the videos
RESAMPLES = 200

Features = Mapping[str, Float64[np.ndarray, " d"]]


def fvd(
    generated: Features,
    real: Features,
    *,
    frames: int,
    extractor: Described,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Measure:
    """The distance between the features of generated and real videos.

    Args:
        generated: features by clip id; the order does not matter.
        real: features by clip id, of videos with as many frames.
        frames: of every video, before it is held to what the network needs.
        extractor: that made the features.
        resamples: of the bootstrap; 0 for no interval.
        seed: of the bootstrap.

    Returns:
        The distance, with the interval of `spread`.

    Raises:
        SMCDError: fewer than two clips in a set, or features of different networks, NaN or infinite.
    """
    rule, words = length_rule(frames)
    name, note = f"fvd-{extractor.name}-{rule}", ""
    sets = [np.stack([chosen[clip] for clip in sorted(chosen)]) if chosen else None for chosen in (generated, real)]
    if any(features is None or len(features) < 2 for features in sets):
        raise SMCDError(f"{name}: {len(generated)} generated and {len(real)} real clips; at least 2 of each are needed")
    value = frechet_distance(*sets)
    fewest = min(map(len, sets))
    if fewest < FEW_CLIPS:
        note = (
            f"only {fewest} clips, under {FEW_CLIPS}: fewer clips give larger distances; compare it only with "
            "distances of as many"
        )
    described = of_extractor(extractor)
    described["frame_rule"] = f"{words}; {described['frame_rule']}"
    paired = set(generated) == set(real)
    interval = spread(*sets, value, paired=paired, resamples=resamples, seed=seed) if resamples else None
    return Measure(name, value, interval, count=len(generated), better="lower", note=note, **described)


def spread(
    generated: Float64[np.ndarray, "n d"],
    real: Float64[np.ndarray, "m d"],
    value: float,
    *,
    paired: bool,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """How far the distance would scatter with other clips: the middle 95 % of bootstrap distances, moved to the value.

    Drawn with replacement, a set holds fewer different clips than there are, and fewer clips give larger distances:
    bootstrap distances lie above the value as a whole. So their scatter around their own mean is what is reported.

    Args:
        generated: a set of features.
        real: another.
        value: their distance.
        paired: row k of both sets is of one clip, and they are drawn together.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        Low end, not below 0, and high end.
    """
    random = np.random.default_rng(seed)
    distances = np.empty(resamples)
    for index in range(resamples):
        rows = random.integers(0, len(generated), len(generated))
        others = rows if paired else random.integers(0, len(real), len(real))
        distances[index] = frechet_distance(generated[rows], real[others])
    low, high = np.quantile(distances, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) - distances.mean()
    return max(0.0, value + float(low)), value + float(high)
