"""Batches: the rows of each global batch that this process loads, filled in parallel by tf.data or a thread pool."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import logging
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

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
_ORIGIN = ("sources", "clips", "starts")  # arrays with the origin of each row, added to those of the source
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
        backend: Literal["tensorflow", "threads"] | None = None,
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
            backend: "tensorflow" for tf.data, "threads" for a thread pool, with the same batches; None for tf.data
                if TensorFlow is installed, else threads.

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
        self._use_tensorflow = backend == "tensorflow" if backend else _has_tensorflow()
        self._lock = threading.Lock()

    def iterate(self, state: OrderState) -> Generator[HostBatch]:
        """Yields an endless stream of batches from a state; starting in the middle is as fast as starting at 0.

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
        state.places(1, self.sequence.epoch_length)  # raises an error for a state of other data before threads start
        load = functools.partial(self._load_step, state)
        steps = _tensorflow_steps if self._use_tensorflow else _pool_steps
        with contextlib.closing(steps(load, threads=self._threads)) as loaded:
            for step, arrays in enumerate(loaded):
                sources, clips, starts = (arrays.pop(name) for name in _ORIGIN)
                after = state.advanced((step + 1) * self._global_batch, self.sequence.epoch_length)
                yield HostBatch(arrays, self._names(sources, clips), starts, after)

    def _load_step(self, state: OrderState, step: int) -> dict[str, np.ndarray]:
        first = step * self._global_batch
        return self.load(self.sequence.at(state, range(first + self._rows.start, first + self._rows.stop)))

    def load(self, examples: Examples) -> dict[str, np.ndarray]:
        """Loads the arrays of examples, with "sources", "clips" and "starts"."""
        count, specs = len(examples.clips), self._sources[0].specs()
        arrays = {name: np.zeros((count, *spec.shape), spec.dtype) for name, spec in specs.items()}
        origins = {name: np.zeros(count, np.int64) for name in _ORIGIN}
        for row in range(count):
            loaded = self._fill({name: array[row, ...] for name, array in arrays.items()}, examples.row(row))
            for name, values in origins.items():
                values[row] = getattr(loaded, name)[0]
        return arrays | origins

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


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _tensorflow_steps(
    load: Callable[[int], dict[str, np.ndarray]], *, threads: int
) -> Generator[dict[str, np.ndarray]]:
    """Yields ``load(0)``, ``load(1)``, ... in order, computed ahead by tf.data."""
    import tensorflow as tf

    results: dict[int, dict[str, np.ndarray] | Exception] = {}

    def load_one(step: np.ndarray) -> np.ndarray:
        try:
            results[int(step)] = load(int(step))
        except Exception as error:
            # Not raised here: TensorFlow would keep only its text and print a traceback.
            results[int(step)] = error
        return step

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    steps = tf.data.Dataset.counter().map(
        lambda step: tf.numpy_function(load_one, [step], tf.int64), num_parallel_calls=threads, deterministic=True
    )
    for step in steps.prefetch(_AHEAD).with_options(options):
        result = results.pop(int(step))
        if isinstance(result, Exception):
            raise result
        yield result


def _pool_steps(load: Callable[[int], dict[str, np.ndarray]], *, threads: int) -> Generator[dict[str, np.ndarray]]:
    """Yields ``load(0)``, ``load(1)``, ... in order, computed ahead by a thread pool."""
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = deque(pool.submit(load, step) for step in range(threads + _AHEAD))
        for step in itertools.count(len(waiting)):
            yield waiting.popleft().result()
            waiting.append(pool.submit(load, step))
    finally:
        pool.shutdown(cancel_futures=True)


@atexit.register
def _close_streams() -> None:
    for stream in list(_open_streams):
        with contextlib.suppress(ValueError):  # a daemon thread is executing the generator
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
