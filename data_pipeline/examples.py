"""Training examples: their size, their arrays, and the interface of a source of examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64

from data_pipeline.checks import require
from data_pipeline.transforms import choose_objects


@dataclasses.dataclass(frozen=True)
class ExampleSize:
    """Size of an example; all values are at least 1.

    Attributes:
        frames: Number of frames per window.
        height: Frame height in pixels.
        width: Frame width in pixels.
        objects: Largest number of objects, N; missing objects have mask 0, excess objects are dropped and counted.

    Raises:
        SMCDError: A value is not a positive integer.
    """

    frames: int = 8
    height: int = 256
    width: int = 256
    objects: int = 8

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            require(whole and value >= 1, field.name, "an integer of at least 1", value)


class ArraySpec(NamedTuple):
    """Shape, without the batch axis, and dtype of one array of a batch."""

    shape: tuple[int, ...]
    dtype: type


class ExampleSource(Protocol):
    """A data set that fills rows of batches with windows of its clips. Must be thread-safe.

    Attributes:
        name: Name in messages.
        size: Size of an example.
        clip_ids: Clip ids by clip index.
        num_frames: Number of frames by clip index.
    """

    name: str
    size: ExampleSize
    clip_ids: Sequence[str]
    num_frames: Int64[np.ndarray, " n"]

    def specs(self) -> dict[str, ArraySpec]:
        """Returns the arrays that `fill` writes; equal for all sources of a mixture."""

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """Writes one example.

        Args:
            row: Output arrays of `specs`, zeros. Undefined after `BadClip`.
            clip: Index of the clip.
            start: First frame of the window.
            key: Random bits; all randomness of the example is a function of them.

        Returns:
            Number of objects dropped because the example has no room for them.

        Raises:
            BadClip: The clip, or this window of it, cannot be used.
        """


def fill_boxes(row: Mapping[str, np.ndarray], boxes: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Writes boxes and mask of the chosen objects into a row.

    Args:
        row: Output arrays "boxes" [F, N, 4] and "mask" [F, N].
        boxes: Boxes of the window, float32 [F, objects, 4].
        mask: Presence, bool [F, objects].

    Returns:
        Indices of the objects written, at most N, and the number of objects dropped.
    """
    chosen, dropped = choose_objects(boxes, mask, row["mask"].shape[1])
    row["boxes"][:, : len(chosen)] = boxes[:, chosen]
    row["mask"][:, : len(chosen)] = mask[:, chosen]
    return chosen, dropped
