"""Durations of the stages of a run, with loading and compiling counted separately."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """Measures stages, excluding the time spent on loading and compiling within them.

    Args:
        aside: Function that returns the seconds spent loading and compiling so far.
    """

    def __init__(self, aside: Callable[[], tuple[float, float]]):
        self._aside, self._begin = aside, aside()
        self._stages: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of a ``with`` block to a stage."""
        start = self._now()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + self._now() - start

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of loading, of compiling and of each stage so far."""
        load, compiled = (after - before for after, before in zip(self._aside(), self._begin, strict=True))
        return {"load": load, "compile": compiled, **self._stages}

    def _now(self) -> float:
        return time.perf_counter() - sum(self._aside())
