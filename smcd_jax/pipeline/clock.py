"""Seconds of the stages of a run, with loading and compiling shown apart from the work itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Clock:
    """Counts the time of stages, less what was spent aside in them.

    Args:
        aside: (load, compile) seconds so far; what they grow by during a stage is not the stage's.
    """

    def __init__(self, aside: Callable[[], tuple[float, float]]):
        self._aside, self._begin = aside, aside()
        self._stages: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time of a ``with`` block towards that stage."""
        start = self._now()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + self._now() - start

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, and of load and compile."""
        load, compiled = (after - before for after, before in zip(self._aside(), self._begin, strict=True))
        return {"load": load, "compile": compiled, **self._stages}

    def _now(self) -> float:
        return time.perf_counter() - sum(self._aside())
