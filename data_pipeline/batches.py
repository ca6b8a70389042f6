"""Batches: the rows of each global batch that this process loads, filled in parallel in tf.data."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from data_pipeline.bad_clips import BadClipLog
from data_pipeline.checks import require
from data_pipeline.examples import ExampleSource
from data_pipeline.order.permutation import OrderState
from data_pipeline.order.sequence import Examples, GlobalSequence
from data_pipeline.order.windows import ShortClips
from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)

# Substitutes tried for one damaged clip; all of them fail only if most of the data set is damaged.
_ATTEMPTS = 16
_ORIGIN = ("sources", "clips", "starts")  # arrays added to those of the source: the origin of each row
_AHEAD = 2  # batches prefetched on the host

# Streams to close at exit. The threads of tf.data that fill batches run Python; at interpreter shutdown they and the
# interpreter would wait for each other forever.
_open_streams: weakref.WeakSet[Generator[HostBatch]] = weakref.WeakSet()


class HostBatch(NamedTuple):
    """This process's rows of one global batch.

    Attributes:
        arrays: Arrays [rows, ...] by name (docs/formats.md).
        clip_ids: Clip per row as "data set: clip".
        starts: First frame of each row's window.
        state: Position after this batch, the same on all hosts, to be stored in a checkpoint taken after it.
    """

    arrays: dict[str, Any]
    clip_ids: tuple[str, ...]
    starts: Int64[np.ndarray, " rows"]
    state: OrderState


class Batches:
    """An endless stream of batches whose contents are a pure function of (seed, epoch, position).

    Attributes:
        sequence: Order of examples, the same on all hosts.
        bad_clips: Damaged clips found so far.
        counts: Totals of "examples", "objects dropped" (beyond the size of an example) and "examples substituted".
    """

    def __init__(
        self,
        sources: Sequence[ExampleSource],
        global_batch: int,
        *,
        rows: range | None = None,
        weights: Sequence[float] | None = None,
        epoch_length: int | None = None,
        short_clips: ShortClips = "leave_out",
        max_bad_share: float = 0.01,
        threads: int | None = None,
    ):
        """Combines data sets.

        Args:
            sources: Data sets with the same arrays and size, all decoded or all cached; their order matters.
            global_batch: Number of examples per batch over all hosts, at least 1.
            rows: Rows of each global batch that this process loads (`host_rows`, or `prefetch.local_rows` for a mesh);
                None for all.
            weights: Weight of each data set, positive; None for its number of clips.
            epoch_length: Number of examples per epoch; None for the number of clips.
            short_clips: Rule for clips shorter than a window (`data_pipeline.order.windows`).
            max_bad_share: Largest share of damaged clips per data set; each is replaced by another clip.
            threads: Number of threads; None for one per available core.

        Raises:
            SMCDError: There are no sources, the sources cannot be mixed, or an argument is out of range.
        """
        require(global_batch >= 1, "global_batch", "at least 1", global_batch)
        self._rows = range(global_batch) if rows is None else rows
        inside = self._rows and self._rows.step == 1 and self._rows.start >= 0 and self._rows.stop <= global_batch
        require(inside, "rows", f"consecutive rows of a global batch of {global_batch}", self._rows)
        self._sources, self._global_batch = tuple(sources), global_batch
        _check_mixable(self._sources)
        self.sequence = GlobalSequence(
            sources, sources[0].size.frames, weights=weights, epoch_length=epoch_length, short_clips=short_clips
        )
        self.bad_clips = BadClipLog([(source.name, len(source.clip_ids)) for source in sources], max_bad_share)
        for source, short in zip(sources, self.sequence.left_out, strict=True):
            if short:
                logger.warning(
                    "%s: %d of %d clips are shorter than %d frames and are left out",
                    *(source.name, short, len(source.clip_ids), source.size.frames),
                )
        self.counts: Counter[str] = Counter()
        self._threads = threads or len(os.sched_getaffinity(0))
        self._lock = threading.Lock()

    def iterate(self, state: OrderState) -> Generator[HostBatch]:
        """Yields batches from a state on, without end; starting late takes no longer than starting at 0.

        A stream that is still open at exit is closed.

        Args:
            state: Position of the first example.

        Raises:
            SMCDError: More clips are damaged than allowed, or the state does not belong to these data sets.
        """
        stream = self._stream(state)
        _open_streams.add(stream)
        return stream

    def _stream(self, state: OrderState) -> Generator[HostBatch]:
        state.places(1, self.sequence.epoch_length)  # refuses a state of other data before any thread starts
        failures: dict[int, Exception] = {}
        for step, tensors in enumerate(self._dataset(state, failures)):
            if step in failures:
                raise failures[step]
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            sources, clips, starts = (arrays.pop(name) for name in _ORIGIN)
            after = state.advanced((step + 1) * self._global_batch, self.sequence.epoch_length)
            yield HostBatch(arrays, self._names(sources, clips), starts, after)

    def load(self, examples: Examples) -> dict[str, np.ndarray]:
        """Loads the arrays of examples, before `ExampleSource.finish`, with "sources", "clips" and "starts"."""
        arrays = self._empty(len(examples.clips))
        names = self._sources[0].specs()
        for row in range(len(examples.clips)):
            loaded = self._fill({name: arrays[name][row] for name in names}, examples.row(row))
            for name in _ORIGIN:
                arrays[name][row] = getattr(loaded, name)[0]
        return arrays

    def _empty(self, count: int) -> dict[str, np.ndarray]:
        arrays = {name: np.zeros((count, *spec.shape), spec.dtype) for name, spec in self._sources[0].specs().items()}
        return arrays | {name: np.zeros(count, np.int64) for name in _ORIGIN}

    def _dataset(self, state: OrderState, failures: dict[int, Exception]) -> Any:
        """Returns a `tf.data.Dataset` of batches; a failed step gives zeros and its error in `failures`."""
        import tensorflow as tf
        import tensorflow_datasets  # noqa: F401  imported here: importing it in several threads can deadlock

        specs = self._sources[0].specs()
        rows = len(self._rows)
        shapes = {name: (rows, *spec.shape) for name, spec in specs.items()}
        dtypes = {name: spec.dtype for name, spec in specs.items()}
        for name in _ORIGIN:
            shapes[name], dtypes[name] = (rows,), np.int64
        names = tuple(shapes)

        def load(step: Any) -> dict[str, Any]:
            loaded = tf.numpy_function(
                functools.partial(self._load_step, state, failures), [step], [dtypes[name] for name in names]
            )
            tensors = dict(zip(names, loaded, strict=True))
            for name, tensor in tensors.items():
                tensor.set_shape(shapes[name])
            return self._sources[0].finish(tensors)

        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = self._threads
        options.threading.max_intra_op_parallelism = 1
        steps = tf.data.Dataset.counter()
        batches = steps.map(load, num_parallel_calls=self._threads, deterministic=True)
        return batches.prefetch(_AHEAD).with_options(options)

    def _load_step(self, state: OrderState, failures: dict[int, Exception], step: np.ndarray) -> list[np.ndarray]:
        first = int(step) * self._global_batch
        examples = self.sequence.at(state, range(first + self._rows.start, first + self._rows.stop))
        try:
            arrays = self.load(examples)
        except Exception as error:
            # Not raised here: TensorFlow would keep only its text and print a traceback.
            failures[int(step)] = error
            arrays = self._empty(len(examples.clips))
        return list(arrays.values())

    def _fill(self, row: dict[str, np.ndarray], example: Examples) -> Examples:
        """Fills a row with an example, or a substitute if its clip is damaged; returns the example loaded."""
        original = example
        for attempt in range(1, _ATTEMPTS + 1):
            source, clip = self._sources[int(example.sources[0])], int(example.clips[0])
            try:
                dropped = source.fill(row, clip=clip, start=int(example.starts[0]), key=example.keys[0])
            except BadClip as error:
                self.bad_clips.add(int(example.sources[0]), source.clip_ids[clip], error)
                example = self.sequence.substitute(original, attempt)
                for array in row.values():
                    array[...] = 0
                continue
            self._count(dropped, substituted=attempt > 1)
            return example
        raise SMCDError(
            f"{source.name}: {_ATTEMPTS} clips in a row are damaged; prepare the data set again",
            argument="sources",
            value=_ATTEMPTS,
        )

    def _count(self, dropped: int, *, substituted: bool) -> None:
        with self._lock:
            self.counts.update({"examples": 1, "objects dropped": dropped, "examples substituted": int(substituted)})

    def _names(self, sources: np.ndarray, clips: np.ndarray) -> tuple[str, ...]:
        return tuple(
            f"{self._sources[source].name}: {self._sources[source].clip_ids[clip]}"
            for source, clip in zip(sources.tolist(), clips.tolist(), strict=True)
        )


def host_rows(global_batch: int, *, host: int, hosts: int) -> range:
    """Returns the rows of each global batch that a host loads: equal parts, in the order of the hosts.

    Args:
        global_batch: Number of examples per batch over all hosts, a multiple of `hosts`.
        host: Index of the host, 0 to hosts - 1.
        hosts: Number of hosts.

    Raises:
        SMCDError: The batch is not divisible, or the index is out of range.
    """
    require(0 <= host < hosts, "host", f"from 0 to {hosts - 1}", host)
    require(global_batch % hosts == 0, "global_batch", f"a multiple of {hosts}, the number of hosts", global_batch)
    share = global_batch // hosts
    return range(host * share, (host + 1) * share)


@atexit.register
def _close_streams() -> None:
    for stream in list(_open_streams):
        with contextlib.suppress(ValueError):  # a daemon thread is executing it
            stream.close()


def _check_mixable(sources: Sequence[ExampleSource]) -> None:
    require(bool(sources), "sources", "at least one data set", len(sources))
    specs = sources[0].specs()
    for source in sources[1:]:
        others = source.specs()
        different = sorted(name for name in {*specs, *others} if specs.get(name) != others.get(name))
        if different:
            raise SMCDError(
                f"{sources[0].name} and {source.name} cannot be mixed: they differ in {', '.join(different)}; use one "
                "size, and the feature cache for all data sets or for none",
                argument="sources",
                value=tuple(different),
            )
