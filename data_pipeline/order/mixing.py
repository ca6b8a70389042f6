"""Mixing data sets by weight: maps a place in the global order to a data set and one of its clips.

An epoch has a fixed number of places. Each data set gets a number of places in proportion to its weight, at random
positions, and fills them with its clips in random order. Every clip is used once before any is repeated, even if this
takes more than one epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from data_pipeline.checks import require
from data_pipeline.order.permutation import fold, permute
from smcd_jax.errors import SMCDError

# Stream ids for `fold`; they only have to differ.
_PLACES, _PASSES = 1, 2


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Sizes of data sets and their places in an epoch.

    Attributes:
        sizes: Number of clips per data set.
        quotas: Number of places per epoch, per data set.
    """

    sizes: tuple[int, ...]
    quotas: tuple[int, ...]

    @property
    def epoch_length(self) -> int:
        """Number of places in an epoch."""
        return sum(self.quotas)

    def locate(
        self, seed: int, epochs: Int64[np.ndarray, " n"], positions: Int64[np.ndarray, " n"]
    ) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Returns the data set at each place, and the clip within it.

        Args:
            seed: Seed of the order.
            epochs: Epoch of each place, from 0.
            positions: Position of each place in its epoch, 0 to epoch_length - 1.
        """
        shuffled = permute(positions, self.epoch_length, fold(seed, _PLACES, epochs))
        ends = np.cumsum(self.quotas)
        sources = np.searchsorted(ends, shuffled, side="right")
        clips = np.empty_like(shuffled)
        for source, (size, quota) in enumerate(zip(self.sizes, self.quotas, strict=True)):
            here = sources == source
            # Number of clips of this data set used before this place, since the first epoch.
            before = epochs[here] * quota + shuffled[here] - (ends[source] - quota)
            clips[here] = permute(before % size, size, fold(seed, _PASSES, source, before // size))
        return sources.astype(np.int64), clips


def make_mixture(
    sizes: Sequence[int], weights: Sequence[float] | None = None, *, epoch_length: int | None = None
) -> Mixture:
    """Distributes the places of an epoch over data sets.

    Args:
        sizes: Number of clips per data set, at least 1.
        weights: Weight per data set, positive, on any scale; None for its size, so that every clip is equally
            frequent.
        epoch_length: Number of places in an epoch; None for the number of clips.

    Raises:
        SMCDError: There is no data set, a data set is empty, the weights are not one positive number per data set, or
            a weight is so small that its data set gets no place.
    """
    require(bool(sizes), "sizes", "those of at least one data set", len(sizes))
    if min(sizes) < 1:
        source = list(sizes).index(min(sizes))
        raise SMCDError(f"data set {source} of the mixture has no clips; leave it out", argument="sizes", value=source)
    if weights is None and epoch_length is None:
        return Mixture(tuple(sizes), tuple(sizes))
    shares = np.asarray(sizes if weights is None else weights, np.float64)
    positive = shares.shape == (len(sizes),) and np.isfinite(shares).all() and (shares > 0).all()
    require(positive, "weights", f"{len(sizes)} positive numbers, one per data set", weights)
    length = sum(sizes) if epoch_length is None else epoch_length
    exact = shares / shares.sum() * length
    quotas = np.floor(exact).astype(np.int64)
    # Places left over from rounding down go to the largest remainders; ties go to the first data set.
    quotas[np.argsort(quotas - exact, kind="stable")[: length - quotas.sum()]] += 1
    if (quotas < 1).any():
        source = int(np.argmin(quotas))
        raise SMCDError(
            f"weight {shares[source]:g} of data set {source} is too small for a place in an epoch of {length}; raise "
            "it, lengthen the epoch, or leave the data set out",
            argument="weights",
            value=source,
        )
    return Mixture(tuple(int(size) for size in sizes), tuple(int(quota) for quota in quotas))
