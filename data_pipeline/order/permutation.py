"""Owns the order of examples and the chance in them: pure functions of (seed, epoch, position), however many the hosts.

Nothing here has state that advances: `OrderState` names a place, and what stands there is computed from it alone. So
any host can compute any row of any batch, and to start in the middle of training costs no more than at its beginning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt64

from smcd_jax.errors import SMCDError

# Of the Feistel network: four make it hard to tell from a random permutation (Luby and Rackoff 1988); the halves are
# short here, so a few more.
_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the increment of splitmix64


@dataclasses.dataclass(frozen=True)
class OrderState:
    """A place in the global order: all that a checkpoint needs to continue the data exactly.

    Attributes:
        seed: of the whole run, 0 up to 2^63 - 1.
        epoch: from 0.
        position: of the next example in the epoch, over all hosts; from 0 up to the examples of an epoch - 1.
    """

    seed: int
    epoch: int = 0
    position: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
                raise SMCDError(f"data position: {field.name} must be a whole number from 0 to 2^63 - 1, got {value!r}")

    def advanced(self, examples: int, epoch_length: int) -> OrderState:
        """The place that many examples later; an epoch that ends is followed by the next."""
        epochs, position = divmod(self.position + examples, epoch_length)
        return dataclasses.replace(self, epoch=self.epoch + epochs, position=position)

    def places(self, examples: int, epoch_length: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
        """Epoch and position of each of the next ``examples`` examples.

        Raises:
            SMCDError: the state's position lies beyond the epoch, so it was made for other data.
        """
        if self.position >= epoch_length:
            raise SMCDError(
                f"data position {self.position} lies beyond the epoch of {epoch_length} examples: "
                "the data sets are not those the checkpoint was made with; give the same, or start the data anew"
            )
        epochs, positions = np.divmod(self.position + np.arange(examples, dtype=np.int64), epoch_length)
        return self.epoch + epochs, positions

    def to_dict(self) -> dict[str, int]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OrderState:
        """The inverse of `to_dict`.

        Raises:
            SMCDError: keys or values are not those of a state.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise SMCDError(
                f"data position: needs the keys {', '.join(sorted(names))}, got {', '.join(map(str, values))}"
            )
        return cls(**values)


def fold(*parts: int | np.ndarray) -> UInt64[np.ndarray, ...]:
    """64 well-mixed bits for each tuple of whole numbers; arrays broadcast. Any other tuple gives unrelated bits.

    The mixing is that of splitmix64 (Steele, Lea and Flood 2014), applied after each part.
    """
    state = np.asarray(0, np.uint64)
    for part in parts:
        with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is what is meant
            state = _mix((state + _GOLDEN) ^ np.asarray(part).astype(np.uint64))
    return state


def uniform(bits: UInt64[np.ndarray, ...]) -> Float64[np.ndarray, ...]:
    """Random bits as numbers in [0, 1)."""
    return (np.asarray(bits, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: UInt64[np.ndarray, ...], bound: int | np.ndarray) -> Int64[np.ndarray, ...]:
    """Random bits as whole numbers in 0 .. bound - 1; ``bound`` is at least 1 and below 2^53."""
    return np.floor(uniform(bits) * bound).astype(np.int64)


def permute(index: Int64[np.ndarray, " n"], size: int, key: UInt64[np.ndarray, ...]) -> Int64[np.ndarray, " n"]:
    """Where a keyed random permutation of 0 .. size - 1 sends each index, without making the permutation.

    A Feistel network permutes the numbers of 2k bits, the smallest such range that holds ``size``; what lands outside
    is sent through again until it lands inside, which keeps it one to one (cycle walking, Black and Rogaway 2002).

    Args:
        index: in 0 .. size - 1.
        size: how many are permuted, at least 1.
        key: one for all or one for each index; each key is another permutation.
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
