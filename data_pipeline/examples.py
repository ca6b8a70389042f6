"""Owns what an example is to the pipeline: its size, the arrays it fills in a batch, and what a source offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64

from data_pipeline.transforms import choose_objects
from smcd_jax.errors import SMCDError


@dataclasses.dataclass(frozen=True)
class ExampleSize:
    """How much of a clip an example holds.

    Attributes:
        frames: of a window.
        height: of a frame in pixels.
        width: of a frame in pixels.
        objects: room for that many, N; fewer are filled up with mask 0, the excess is dropped and counted.
    """

    frames: int = 8
    height: int = 256
    width: int = 256
    objects: int = 8

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SMCDError(f"examples of {field.name}={value!r}: must be a whole number, 1 or more")


class ArraySpec(NamedTuple):
    """Shape, without the batch axis, and type of an array of a batch."""

    shape: tuple[int, ...]
    dtype: type


class ExampleSource(Protocol):
    """A data set that fills rows of batches with windows of its clips. Called from several threads at once.

    Attributes:
        name: for messages.
        size: of an example.
        clip_ids: by clip index.
        num_frames: by clip index.
    """

    name: str
    size: ExampleSize
    clip_ids: Sequence[str]
    num_frames: Int64[np.ndarray, " n"]

    def specs(self) -> dict[str, ArraySpec]:
        """The arrays that `fill` writes; the same for all sources that are mixed."""

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """Writes one example.

        Args:
            row: zeros of `specs`, to be written in place. After `BadClip` its content is undefined.
            clip: index of the clip.
            start: first frame of the window.
            key: random bits from which all chance is drawn.

        Returns:
            How many objects were dropped for lack of room.

        Raises:
            BadClip: the clip, or this window of it, cannot be used.
        """

    def finish(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """What remains to be done to a whole batch, on TensorFlow tensors within tf.data."""


def fill_boxes(row: Mapping[str, np.ndarray], boxes: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Writes the boxes and mask of the objects that there is room for.

    Args:
        row: with "boxes" [F, N, 4] and "mask" [F, N].
        boxes: float32 [F, objects, 4].
        mask: bool [F, objects].

    Returns:
        Indices of the objects written, at most N, and how many were dropped.
    """
    chosen, dropped = choose_objects(boxes, mask, row["mask"].shape[1])
    row["boxes"][:, : len(chosen)] = boxes[:, chosen]
    row["mask"][:, : len(chosen)] = mask[:, chosen]
    return chosen, dropped
