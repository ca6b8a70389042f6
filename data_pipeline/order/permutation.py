"""Random order and random numbers as pure functions of (seed, epoch, position), independent of the number of hosts.

There is no mutable state: `OrderState` names a position, and everything about the example there is computed from it.
Any host can compute any row of any batch, and starting in the middle of training is as fast as starting at the
beginning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from data_pipeline.checks import require
from smcd_jax.errors import SMCDError

# Rounds of the Feistel network. Four give a pseudorandom permutation (Luby and Rackoff 1988); two more make up for the
# short halves used here.
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the increment of splitmix64


@dataclasses.dataclass(frozen=True)
class OrderState:
    """A position in the global order; stored in checkpoints to resume the data exactly.

    Attributes:
        seed: Seed of the run, 0 to 2^63 - 1.
        epoch: Epoch, from 0.
        position: Position of the next example in the epoch over all hosts, 0 to the examples per epoch - 1.

    Raises:
        SMCDError: A value is not an integer in its range.
    """

    seed: int
    epoch: int = 0
    position: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and 0 <= value < 2**63, field.name, "an integer from 0 to 2^63 - 1", value)

    def advanced(self, examples: int, epoch_length: int) -> OrderState:
        """Returns the position that many examples later, in a later epoch if necessary."""
        epochs, position = divmod(self.position + examples, epoch_length)
        return dataclasses.replace(self, epoch=self.epoch + epochs, position=position)

    def places(self, examples: int, epoch_length: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Returns epoch and position of each of the next ``examples`` examples.

        Raises:
            SMCDError: The position exceeds the epoch, so the state was made for other data.
        """
        if self.position >= epoch_length:
            raise SMCDError(
                f"data position must be below {epoch_length}, the examples per epoch, got {self.position}; use the "
                "data sets of the checkpoint or restart the data from position 0",
                argument="position",
                value=self.position,
            )
        epochs, positions = np.divmod(self.position + np.arange(examples, dtype=np.int64), epoch_length)
        return self.epoch + epochs, positions

    def to_dict(self) -> dict[str, int]:
        """Returns the state as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OrderState:
        """Builds a state from the values of `to_dict`.

        Raises:
            SMCDError: Keys or values are not those of a state.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        require(set(values) == names, "keys", ", ".join(sorted(names)), tuple(values))
        return cls(**values)


def fold(*parts: int | np.ndarray) -> UInt64[np.ndarray, ...]:
    """Hashes each tuple of integers to 64 bits; arrays broadcast. Different tuples give unrelated bits.

    Applies the mixing function of splitmix64 (Steele, Lea and Flood 2014) after each part.
    """
    state = np.asarray(0, np.uint64)
    for part in parts:
        with np.errstate(over="ignore"):  # arithmetic is modulo 2^64
            state = _mix((state + _GOLDEN) ^ np.asarray(part).astype(np.uint64))
    return state


def uniform(bits: UInt64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
    """Converts random bits to numbers in [0, 1)."""
    return (np.asarray(bits, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: UInt64[np.ndarray, ...], bound: int | np.ndarray) -> Int64[np.ndarray, ...]:
    """Converts random bits to integers in 0 .. bound - 1; ``bound`` is at least 1 and below 2^53."""
    return np.floor(uniform(bits) * bound).astype(np.int64)


def permute(index: Int64[np.ndarray, " n"], size: int, key: UInt64[np.ndarray, ...]) -> Int64[np.ndarray, " n"]:
    """Applies a keyed random permutation of 0 .. size - 1 to each index, without storing the permutation.

    A Feistel network permutes the numbers of 2k bits, the smallest such range that holds ``size``. Results outside
    0 .. size - 1 are permuted again until they fall inside, which keeps the map one to one (cycle walking, Black and
    Rogaway 2002).

    Args:
        index: Indices in 0 .. size - 1.
        size: Size of the permutation, at least 1.
        key: Key of the permutation, one for all indices or one per index.
    """
    half = max(1, -(-int(size - 1).bit_length() // 2))
    values = np.array(index, np.uint64)
    keys = np.broadcast_to(np.asarray(key, np.uint64), values.shape)
    outside = np.ones(values.shape, bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half, keys[outside])
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    shift, low = np.uint64(half), np.uint64(2**half - 1)
    left, right = values >> shift, values & low
    for number in range(_ROUNDS):
        left, right = right, left ^ (fold(keys, number, right) & low)
    return (left << shift) | right


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
