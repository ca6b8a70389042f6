"""Owns the global sequence of examples: mixing, order and windows in one pure function of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64, UInt64

from data_pipeline.order.mixing import make_mixture
from data_pipeline.order.permutation import OrderState, below, fold
from data_pipeline.order.windows import ShortClips, eligible_clips, window_start
from smcd_jax.errors import SMCDError

# What a number drawn for a place is used for; the numbers only have to differ.
_EXAMPLE, _WINDOW, _SUBSTITUTE = 11, 12, 13


class ClipTable(Protocol):
    """What the sequence needs to know of a data set: its name, its clips' ids, and how many frames each has."""

    name: str
    clip_ids: Sequence[str]
    num_frames: Int64[np.ndarray, " n"]


class Examples(NamedTuple):
    """Some examples of the sequence.

    Attributes:
        sources: index of each one's data set.
        clips: index of its clip in the data set.
        starts: first frame of its window.
        keys: 64 random bits of its own, from which all further chance is drawn (crop, noise).
    """

    sources: Int64[np.ndarray, " n"]
    clips: Int64[np.ndarray, " n"]
    starts: Int64[np.ndarray, " n"]
    keys: UInt64[np.ndarray, " n"]

    def row(self, index: int) -> Examples:
        """One of them alone."""
        return Examples(*(part[[index]] for part in self))


class GlobalSequence:
    """The endless sequence of examples that all hosts share.

    Attributes:
        epoch_length: examples in an epoch.
        left_out: for each data set, how many clips are too short for a window and left out.
    """

    def __init__(
        self,
        tables: Sequence[ClipTable],
        frames: int,
        *,
        weights: Sequence[float] | None = None,
        epoch_length: int | None = None,
        short_clips: ShortClips = "leave_out",
    ):
        """Puts data sets together.

        Args:
            tables: the data sets; their order is part of the sequence.
            frames: of a window.
            weights: share of each data set, by default its number of clips (see `data_pipeline.order.mixing`).
            epoch_length: by default as many examples as there are clips.
            short_clips: the rule for clips with fewer frames (see `data_pipeline.order.windows`).

        Raises:
            SMCDError: no clip of a data set is long enough, or the weights do not fit.
        """
        self.frames = frames
        self._num_frames = [np.asarray(table.num_frames, np.int64) for table in tables]
        self._eligible = [eligible_clips(lengths, frames, short_clips) for lengths in self._num_frames]
        for table, clips in zip(tables, self._eligible, strict=True):
            if not len(clips):
                longest = max(table.num_frames, default=0)
                raise SMCDError(
                    f"{table.name}: none of its {len(table.num_frames)} clips has the {frames} frames of a window (the "
                    f"longest has {longest}): use fewer frames, or short_clips='hold'"
                )
        self.left_out = tuple(
            len(lengths) - len(clips) for lengths, clips in zip(self._num_frames, self._eligible, strict=True)
        )
        sizes = [len(clips) for clips in self._eligible]
        self._mixture = make_mixture(sizes, weights, epoch_length=epoch_length)
        self.epoch_length = self._mixture.epoch_length

    def at(self, state: OrderState, rows: range) -> Examples:
        """Examples by their distance from a state: ``rows`` of range(0, 4) are the four from the state on."""
        epochs, positions = state.advanced(rows.start, self.epoch_length).places(len(rows), self.epoch_length)
        sources, indices = self._mixture.locate(state.seed, epochs, positions)
        keys = fold(state.seed, _EXAMPLE, epochs, positions)
        return self._with_windows(sources, indices, keys)

    def substitute(self, example: Examples, attempt: int) -> Examples:
        """What stands in for an example whose clip is damaged: another clip of the same data set.

        It is a pure function of the example and the number of the attempt (from 1). Whether a clip is damaged is a
        property of its file, so all hosts and all runs substitute alike and no other place of the sequence changes.

        Args:
            example: exactly one.
            attempt: counted up while the substitutes are damaged too.
        """
        keys = fold(example.keys, _SUBSTITUTE, attempt)
        indices = below(keys, len(self._eligible[int(example.sources[0])]))
        return self._with_windows(example.sources, indices, keys)

    def _with_windows(self, sources: np.ndarray, indices: np.ndarray, keys: np.ndarray) -> Examples:
        clips, lengths = np.empty_like(indices), np.empty_like(indices)
        for source in np.unique(sources):
            here = sources == source
            clips[here] = self._eligible[source][indices[here]]
            lengths[here] = self._num_frames[source][clips[here]]
        starts = window_start(fold(keys, _WINDOW), lengths, self.frames)
        return Examples(sources, clips, starts, keys)
