"""Owns the mixing of data sets by weight: which data set, and which of its clips, is at a place of the global order.

An epoch has a fixed number of places. A data set gets as many of them as its weight says, spread at random, and fills
them with its own clips in random order: each of them once before any of them again, whether that takes less or more
than an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from data_pipeline.order.permutation import fold, permute
from smcd_jax.errors import SMCDError

# What a number drawn for a place is used for; the numbers only have to differ.
_PLACES, _PASSES = 1, 2


@dataclasses.dataclass(frozen=True)
class Mixture:
    """How many clips each data set has and how many places of an epoch it gets.

    Attributes:
        sizes: clips of each data set.
        quotas: places of each data set in an epoch.
    """

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]

    @property
    def epoch_length(self) -> int:
        """Places in an epoch."""
        return sum(self.quotas)

    def locate(
        self, seed: int, epochs: Int64[np.ndarray, " n"], positions: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Data set, and clip within it, at each place."""
        shuffled = permute(positions, self.epoch_length, fold(seed, _PLACES, epochs))
        ends = np.cumsum(self.quotas)
        sources = np.searchsorted(ends, shuffled, side="right")
        clips = np.empty_like(shuffled)
        for source, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            here = sources == source
            # how many clips of this data set come before this one since the first epoch
            before = epochs[here] * quota + shuffled[here] - (ends[source] - quota)
            clips[here] = permute(before % size, size, fold(seed, _PASSES, source, before // size))
        return sources.astype(np.int64), clips


def make_mixture(
    sizes: Sequence[int], weights: Sequence[float] | None = None, *, epoch_length: int | None = None
) -> Mixture:
    """Deals an epoch's places out to data sets.

    Args:
        sizes: clips of each data set, at least 1.
        weights: share of each data set, positive, on any scale; by default its size, so that every clip comes
            equally often.
        epoch_length: places in an epoch; by default as many as there are clips.

    Raises:
        SMCDError: no data set, an empty one, weights that are not positive or not one for each data set, or a weight so
            small that its data set gets no place.
    """
    if not sizes:
        raise SMCDError("no data set to train on: give at least one")
    if min(sizes) < 1:
        raise SMCDError(f"data set {list(sizes).index(min(sizes))} of the mixture has no clip: leave it out")
    if weights is None and epoch_length is None:
        return Mixture(tuple(sizes), tuple(sizes))
    shares = np.asarray(sizes if weights is None else weights, np.float64)
    if shares.shape != (len(sizes),) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise SMCDError(f"weights {weights} do not fit {len(sizes)} data sets: give one positive number for each")
    length = sum(sizes) if epoch_length is None else epoch_length
    exact = shares / shares.sum() * length
    quotas = np.floor(exact).astype(np.int64)
    # the places left by rounding down go to the largest remainders; ties to the data set named first
    quotas[np.argsort(quotas - exact, kind="stable")[: length - quotas.sum()]] += 1
    if (quotas < 1).any():
        source = int(np.argmin(quotas))
        raise SMCDError(
            f"weight {shares[source]:g} of data set {source} gives it none of the {length} places of an epoch: "
            "raise it, lengthen the epoch, or leave the data set out"
        )
    return Mixture(tuple(int(size) for size in sizes), tuple(int(quota) for quota in quotas))
