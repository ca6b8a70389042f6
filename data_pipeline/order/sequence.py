"""Global sequence of examples: mixing, order and windows as one pure function of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64, UInt64

from data_pipeline.order.mixing import make_mixture
from data_pipeline.order.permutation import OrderState, below, fold
from data_pipeline.order.windows import ShortClips, eligible_clips, window_start
from smcd_jax.errors import SMCDError

# Stream ids for `fold`; they only have to differ.
_EXAMPLE, _WINDOW, _SUBSTITUTE = 11, 12, 13


class ClipTable(Protocol):
    """Name of a data set, and id and number of frames of each of its clips."""

    name: str
    clip_ids: Sequence[str]
    num_frames: Int64[np.ndarray, " n"]


class Examples(NamedTuple):
    """Examples of the sequence, one per row.

    Attributes:
        sources: Index of the data set.
        clips: Index of the clip in the data set.
        starts: First frame of the window.
        keys: Random bits for all further randomness of the example (crop, noise).
    """

    sources: Int64[np.ndarray, " n"]
    clips: Int64[np.ndarray, " n"]
    starts: Int64[np.ndarray, " n"]
    keys: UInt64[np.ndarray, " n"]

    def row(self, index: int) -> Examples:
        """Returns a single row as `Examples` of length 1."""
        return Examples(*(part[[index]] for part in self))


class GlobalSequence:
    """The endless sequence of examples, the same on all hosts.

    Attributes:
        frames: Number of frames per window.
        epoch_length: Number of examples in an epoch.
        left_out: Number of clips per data set that are too short for a window and left out.
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
        """Combines data sets.

        Args:
            tables: Data sets; their order matters.
            frames: Number of frames per window, at least 1.
            weights: Weight per data set, positive; None for its number of clips (see `data_pipeline.order.mixing`).
            epoch_length: Number of examples per epoch; None for the number of clips.
            short_clips: Rule for clips with fewer frames (see `data_pipeline.order.windows`).

        Raises:
            SMCDError: A data set has no clip that is long enough, or the weights do not match the data sets.
        """
        self.frames = frames
        self._num_frames = [np.asarray(table.num_frames, np.int64) for table in tables]
        self._eligible = [eligible_clips(lengths, frames, short_clips) for lengths in self._num_frames]
        for table, clips in zip(tables, self._eligible, strict=True):
            if not len(clips):
                longest = max(table.num_frames, default=0)
                raise SMCDError(
                    f"{table.name}: all {len(table.num_frames)} clips are shorter than the {frames} frames of a window "
                    f"(the longest has {longest}); use fewer frames or short_clips='hold'",
                    argument="frames",
                    value=frames,
                )
        self.left_out = tuple(
            len(lengths) - len(clips) for lengths, clips in zip(self._num_frames, self._eligible, strict=True)
        )
        sizes = [len(clips) for clips in self._eligible]
        self._mixture = make_mixture(sizes, weights, epoch_length=epoch_length)
        self.epoch_length = self._mixture.epoch_length

    def at(self, state: OrderState, rows: range) -> Examples:
        """Returns examples by their offset from a state; ``rows=range(0, 4)`` gives the next four.

        Args:
            state: Position of offset 0.
            rows: Offsets, consecutive.
        """
        epochs, positions = state.advanced(rows.start, self.epoch_length).places(len(rows), self.epoch_length)
        sources, indices = self._mixture.locate(state.seed, epochs, positions)
        keys = fold(state.seed, _EXAMPLE, epochs, positions)
        return self._with_windows(sources, indices, keys)

    def substitute(self, example: Examples, attempt: int) -> Examples:
        """Returns a substitute for an example whose clip is damaged: another clip of the same data set.

        The substitute is a pure function of example and attempt. Damage is a property of the file, so all hosts and
        all runs choose the same substitute, and no other place of the sequence changes.

        Args:
            example: Example of length 1.
            attempt: Number of the attempt, from 1; the caller increases it while substitutes are damaged, too.
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
