"""Owns chance in the sprite world: numbers that are a pure function of seed, split, index and stream.

They come from the counter of Philox (Salmon et al. 2011), whose raw output NumPy keeps the same in every version;
NumPy's own distributions, which it may change, are not used. One key (the seed) turns different counters into
different blocks, one to one, so that no two clips of a seed, in whatever splits, are made from the same block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_CHUNK = 64


class Draws:
    """Numbers in a fixed order, drawn from one stream of one clip.

    Args:
        seed: of the world, 0 up to 2^63 - 1.
        split: number of the split.
        index: of the clip in its split, 0 up to 2^63 - 1.
        stream: number of the aspect drawn, so that more draws of one aspect leave the others as they were.
    """

    def __init__(self, seed: int, *, split: int, index: int, stream: int):
        self._bits = np.random.Philox(key=seed, counter=[0, stream, index, split])
        self._values: list[float] = []

    def unit(self) -> float:
        """A number in [0, 1), a multiple of 2^-53."""
        if not self._values:
            raw = self._bits.random_raw(_CHUNK)
            self._values = ((raw >> np.uint64(11)) * 2.0**-53).tolist()[::-1]
        return self._values.pop()

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, bound: int) -> int:
        """A whole number in 0 .. bound - 1."""
        return int(self.unit() * bound)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[tuple[T, float]]) -> T:
        """One of the items of (item, weight) pairs, with probability in proportion to its weight."""
        left = self.unit() * sum(weight for _, weight in items)
        for item, weight in items:
            left -= weight
            if left < 0:
                return item
        return next(item for item, weight in reversed(items) if weight > 0)  # the sum was rounded up

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order; at most as many as there are."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]
