"""Owns batches: the rows of each global batch that this process loads, filled in parallel in tf.data."""

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

from data_pipeline.bad_clips import DamageLog
from data_pipeline.examples import ExampleSource
from data_pipeline.order.permutation import OrderState
from data_pipeline.order.sequence import Examples, GlobalSequence
from data_pipeline.order.windows import ShortClips
from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)

# Substitutes tried for one damaged clip; that all are damaged by chance takes a share far above any allowed.
_ATTEMPTS = 16
_PLACE = ("sources", "clips", "starts")  # arrays beside those of the source: where each row is from
_AHEAD = 2  # batches that wait, ready, on the host

# Streams nobody has closed. The threads of tf.data that fill batches run Python: while the interpreter ends they would
# wait for it, and it for them, for ever.
_open_streams: weakref.WeakSet[Generator[HostBatch]] = weakref.WeakSet()


class HostBatch(NamedTuple):
    """This process's rows of one global batch.

    Attributes:
        arrays: by name, as formats.md lists them, rows first.
        clip_ids: of each row, as "data set: clip".
        starts: first frame of each row's window.
        state: the place after this batch, of all hosts: what a checkpoint taken after it must hold.
    """

    arrays: dict[str, Any]
    clip_ids: tuple[str, ...]
    starts: Int64[np.ndarray, " rows"]
    state: OrderState


class Batches:
    """An endless stream of batches whose content is a pure function of (seed, epoch, position).

    Attributes:
        sequence: the order that all hosts share.
        damage: the clips that could not be used.
        counts: since the start: "examples", "objects dropped" (more than there is room for), "examples substituted".
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
        """Puts data sets together.

        Args:
            sources: all of one path (decoded or cached) and size; their order is part of the sequence.
            global_batch: examples of a batch over all hosts.
            rows: those of each global batch that this process loads (`host_rows`, or `prefetch.local_rows` of a mesh);
                by default all.
            weights: share of each data set, by default its number of clips.
            epoch_length: examples of an epoch, by default the number of clips.
            short_clips: the rule for clips shorter than a window (`data_pipeline.order.windows`).
            max_bad_share: the share of a data set's clips that may be damaged; each is replaced by another clip.
            threads: by default one for each core this process may use.

        Raises:
            SMCDError: no source, sources that cannot be mixed, or arguments that do not fit.
        """
        if global_batch < 1:
            raise SMCDError(f"a batch of {global_batch} examples is none; use 1 or more")
        self._rows = range(global_batch) if rows is None else rows
        if not self._rows or self._rows.step != 1 or self._rows.start < 0 or self._rows.stop > global_batch:
            raise SMCDError(f"rows {self._rows} are not rows of a global batch of {global_batch}")
        self._sources, self._global_batch = tuple(sources), global_batch
        _check_mixable(self._sources)
        self.sequence = GlobalSequence(
            sources, sources[0].size.frames, weights=weights, epoch_length=epoch_length, short_clips=short_clips
        )
        self.damage = DamageLog([(source.name, len(source.clip_ids)) for source in sources], max_bad_share)
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
        """Batches from a state on, without end; the first takes no longer than any other.

        A stream that is still open when the program ends is closed then.

        Raises:
            SMCDError: more damaged clips than allowed, or a state that these data sets do not have.
        """
        stream = self._stream(state)
        _open_streams.add(stream)
        return stream

    def _stream(self, state: OrderState) -> Generator[HostBatch]:
        state.places(1, self.sequence.epoch_length)  # a state of other data is refused before any thread starts
        failures: dict[int, Exception] = {}
        for step, tensors in enumerate(self._dataset(state, failures)):
            if step in failures:
                raise failures[step]
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            sources, clips, starts = (arrays.pop(name) for name in _PLACE)
            after = state.advanced((step + 1) * self._global_batch, self.sequence.epoch_length)
            yield HostBatch(arrays, self._names(sources, clips), starts, after)

    def load(self, examples: Examples) -> dict[str, np.ndarray]:
        """The arrays of some examples before `ExampleSource.finish`, and "sources", "clips" and "starts" as loaded."""
        arrays = self._empty(len(examples.clips))
        names = self._sources[0].specs()
        for row in range(len(examples.clips)):
            loaded = self._fill({name: arrays[name][row] for name in names}, examples.row(row))
            for name in _PLACE:
                arrays[name][row] = getattr(loaded, name)[0]
        return arrays

    def _empty(self, count: int) -> dict[str, np.ndarray]:
        arrays = {name: np.zeros((count, *spec.shape), spec.dtype) for name, spec in self._sources[0].specs().items()}
        return arrays | {name: np.zeros(count, np.int64) for name in _PLACE}

    def _dataset(self, state: OrderState, failures: dict[int, Exception]) -> Any:
        """A `tf.data.Dataset` of batches; of a step that failed the arrays are zeros, and `failures` has the error."""
        import tensorflow as tf
        import tensorflow_datasets  # noqa: F401  here, since threads that import it at the same time wait for each other

        specs = self._sources[0].specs()
        rows = len(self._rows)
        shapes = {name: (rows, *spec.shape) for name, spec in specs.items()}
        dtypes = {name: spec.dtype for name, spec in specs.items()}
        for name in _PLACE:
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
            # Not raised here: TensorFlow would pass on its text only, and write a traceback on the terminal.
            failures[int(step)] = error
            arrays = self._empty(len(examples.clips))
        return list(arrays.values())

    def _fill(self, row: dict[str, np.ndarray], example: Examples) -> Examples:
        """Fills a row with an example or, where its clip is damaged, with its substitute; returns what it holds."""
        wanted = example
        for attempt in range(1, _ATTEMPTS + 1):
            source, clip = self._sources[int(example.sources[0])], int(example.clips[0])
            try:
                dropped = source.fill(row, clip=clip, start=int(example.starts[0]), key=example.keys[0])
            except BadClip as error:
                self.damage.note(int(example.sources[0]), source.clip_ids[clip], error)
                example = self.sequence.substitute(wanted, attempt)
                for array in row.values():
                    array[...] = 0
                continue
            self._count(dropped, substituted=attempt > 1)
            return example
        raise SMCDError(
            f"{source.name}: {_ATTEMPTS} clips drawn one after the other are damaged: prepare the data set again"
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
    """Rows of each global batch that a host loads: the batch in equal parts, in the order of the hosts.

    Raises:
        SMCDError: the batch does not divide, or there is no such host.
    """
    if not 0 <= host < hosts:
        raise SMCDError(f"there is no host {host} of {hosts}")
    if global_batch % hosts:
        raise SMCDError(f"a global batch of {global_batch} does not divide by {hosts} hosts: choose a multiple")
    share = global_batch // hosts
    return range(host * share, (host + 1) * share)


@atexit.register
def _close_streams() -> None:
    for stream in list(_open_streams):
        with contextlib.suppress(ValueError):  # a daemon thread is within it
            stream.close()


def _check_mixable(sources: Sequence[ExampleSource]) -> None:
    if not sources:
        raise SMCDError("no data set to train on: give at least one")
    for source in sources[1:]:
        if source.specs() != sources[0].specs():
            raise SMCDError(
                f"{sources[0].name} and {source.name} cannot be mixed: their examples hold other arrays "
                f"({_differences(sources[0], source)}); use one size, and the feature cache for all or for none"
            )


def _differences(one: ExampleSource, other: ExampleSource) -> str:
    ours, theirs = one.specs(), other.specs()
    return ", ".join(sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)))
