"""Calls of a function for every clip of a video store, in worker processes where that is faster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.video_store import EvalClip, Video, VideoStore
from smcd_jax.runtime.progress import Progress
from smcd_jax.runtime.worker_processes import open_pool

_LEAST = 8  # clips per worker below which starting another takes longer than it saves
_AHEAD = 2  # clips per worker that are in memory at the same time

Value = TypeVar("Value")


class ClipCalls:
    """Calls functions with every clip of a store and its videos, and reports progress.

    Args:
        store: Clips and videos.
        progress: Progress reporting, advanced once per clip.
        workers: Maximum number of processes for functions that can run in other processes.
    """

    def __init__(self, store: VideoStore, progress: Progress, *, workers: int = 1):
        self._store, self._progress = store, progress
        self._workers = max(1, min(workers, len(store) // _LEAST))

    def each(
        self, name: str, function: Callable[[EvalClip, Mapping[str, Video]], Value], *, picklable: bool = False
    ) -> Iterator[tuple[EvalClip, Value]]:
        """Yields each clip with the function's value, in the order of the store.

        Args:
            name: Name of the stage in progress reports.
            function: Function of a clip and its videos by version.
            picklable: Whether function and values can be pickled, so that they can be computed by worker processes.

        Raises:
            SMCDError: A worker process died.
        """
        if picklable and self._workers > 1:
            calls = self._in_workers(function)
        else:
            calls = ((clip, function(clip, videos)) for clip, videos in self._store.pairs())
        with self._progress.stage(name, len(self._store), "clip") as advance:
            for clip, value in calls:
                yield clip, value
                advance()

    def _in_workers(
        self, function: Callable[[EvalClip, Mapping[str, Video]], Value]
    ) -> Iterator[tuple[EvalClip, Value]]:
        pool, waiting = open_pool(self._workers), deque[tuple[EvalClip, Future[Value]]]()
        try:
            for clip, videos in self._store.pairs():
                waiting.append((clip, pool.submit(function, clip, videos)))
                if len(waiting) == _AHEAD * self._workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for clip, future in waiting:
                yield clip, future.result()
        except BrokenProcessPool as error:
            raise SMCDError(
                "a worker process died, possibly out of memory; rerun the command with fewer --workers",
                argument="workers",
                value=self._workers,
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
