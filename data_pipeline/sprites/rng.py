"""Random numbers of the sprite world, as a pure function of seed, split, index and stream.

They come from the counter-based generator Philox (Salmon et al. 2011), whose raw output is stable across versions of
NumPy; NumPy's distributions, which may change, are not used. For a given key (the seed), different counters give
different blocks, so no two clips of any splits share a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

T = TypeVar("T")

_CHUNK = 64


class ClipRng:
    """Random numbers of one stream of one clip.

    Args:
        seed: Seed of the world, 0 to 2^63 - 1.
        split: Number of the split.
        index: Index of the clip in its split, 0 to 2^63 - 1.
        stream: Number of the stream; streams are independent, so using more numbers of one does not change others.
    """

    def __init__(self, seed: int, *, split: int, index: int, stream: int):
        self._bits = np.random.Philox(key=seed, counter=[0, stream, index, split])
        self._values: list[float] = []

    def unit(self) -> float:
        """Returns a number in [0, 1), a multiple of 2^-53."""
        if not self._values:
            raw = self._bits.random_raw(_CHUNK)
            self._values = ((raw >> np.uint64(11)) * 2.0**-53).tolist()[::-1]
        return self._values.pop()

    def units(self, *shape: int) -> Float64[np.ndarray, ...]:
        """Returns an array of numbers in [0, 1), independent of those that `unit` has returned."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def uniform(self, low: float, high: float) -> float:
        """Returns a number in [low, high)."""
        return low + (high - low) * self.unit()

    def below(self, bound: int) -> int:
        """Returns an integer in 0 .. bound - 1."""
        return int(self.unit() * bound)

    def chance(self, probability: float) -> bool:
        """Returns True with this probability."""
        return self.unit() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Returns one of the items, each equally likely."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[tuple[T, float]]) -> T:
        """Returns an item of (item, weight) pairs with probability proportional to its weight."""
        left = self.unit() * sum(weight for _, weight in items)
        for item, weight in items:
            left -= weight
            if left < 0:
                return item
        return next(item for item, weight in reversed(items) if weight > 0)  # reached only through rounding of the sum

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Returns `count` different items in random order; `count` is at most their number."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]
