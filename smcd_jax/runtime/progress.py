"""What a run tells of its stages while it works: bars on a terminal, a line for each in a log, or nothing."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

UNTOLD_SECONDS = 1.0  # `Lines` passes over a stage of unforeseen length that took less
_PATIENCE_SECONDS = 0.3  # a stage of unforeseen length shows only when it lasts longer: no flicker
_TICK_SECONDS = 0.5

Advance = Callable[[], object]


class Progress:
    """Tells nothing; the base of those that do.

    Attributes:
        live: whether parts are shown as they end, so that the run must wait for each instead of queueing them.
    """

    live = False

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Advance]:
        """A stage that lasts as long as the block.

        Args:
            name: in a word or three.
            total: number of parts; None where the end cannot be foreseen.
            unit: what a part is.

        Yields:
            What to call after each part.
        """
        yield lambda: None


class Bars(Progress):
    """Bars on stderr. One of unforeseen length shows the time it takes, and goes when it ends."""

    live = True

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Advance]:
        """See `Progress.stage`."""
        if total is None:
            with _ticking(lambda: tqdm(desc=name, bar_format="{desc} [{elapsed}]", leave=False, file=sys.stderr)):
                yield lambda: None
            return
        with tqdm(total=total, desc=name, unit=unit, file=sys.stderr) as bar, _ticking(lambda: bar):
            yield bar.update


class Lines(Progress):
    """One line for each stage, when it has ended; short ones without parts are passed over."""

    def __init__(self, write: Callable[[str], object]):
        self._write = write

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Advance]:
        """See `Progress.stage`."""
        start = time.perf_counter()
        yield lambda: None
        seconds = time.perf_counter() - start
        if total is not None:
            self._write(f"{name}: {total} {unit}{'s' * (total != 1)} in {seconds:.1f} s")
        elif seconds >= UNTOLD_SECONDS:
            self._write(f"{name}: {seconds:.1f} s")


@contextlib.contextmanager
def _ticking(make_bar: Callable[[], tqdm]) -> Iterator[None]:
    """Shows the bar after a moment and moves its clock while the block works, however long a part takes."""
    done = threading.Event()

    def tick() -> None:
        if done.wait(_PATIENCE_SECONDS):
            return
        bar = make_bar()
        while not done.wait(_TICK_SECONDS):
            bar.refresh()
        if not bar.leave:
            bar.close()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
