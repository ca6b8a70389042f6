"""Pools of worker processes on this machine, for work that holds Python's interpreter lock."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def available_cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_pool(
    workers: int, initializer: Callable[..., Any] | None = None, arguments: Iterable[Any] = ()
) -> ProcessPoolExecutor:
    """Returns a pool of processes that end with this process, even if it is killed.

    They are spawned, not forked: threads of JAX or TensorFlow in the caller do not survive a fork.

    Args:
        workers: Number of processes, at least 1.
        initializer: Function called once in each process when it starts.
        arguments: Arguments of `initializer`; sent once to each process rather than with each task.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_start, initargs=(initializer, tuple(arguments)))


def _start(initializer: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends workers at once, without a traceback from each
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    """Ends this worker when its parent ends; otherwise a worker whose parent was killed waits forever for a task."""
    multiprocessing.parent_process().join()
    os._exit(1)
