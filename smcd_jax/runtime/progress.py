"""Progress reporting for long-running stages: progress bars, log lines, or no output."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

MIN_LOGGED_SECONDS = 1.0  # `Lines` omits shorter stages without a total
_SHOW_AFTER_SECONDS = 0.3  # bars of shorter stages would only flicker
_TICK_SECONDS = 0.5

Advance = Callable[[], object]


class Progress:
    """Reports nothing; the base class of the other kinds.

    Attributes:
        live: Whether steps are shown as they finish, so that the caller must wait for each instead of queueing them.
    """

    live = False

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Advance]:
        """Reports the progress of the block.

        Args:
            name: Short name of the stage.
            total: Number of steps; None if it is unknown.
            unit: Singular noun for one step.

        Yields:
            Function to call after each step.
        """
        yield lambda: None


class Bars(Progress):
    """Progress bars on stderr; a stage without a total shows the elapsed time and disappears when it ends."""

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
    """One line per stage when it ends; stages without a total that end within a second are omitted.

    Args:
        write: Function that writes one line.
    """

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
        elif seconds >= MIN_LOGGED_SECONDS:
            self._write(f"{name}: {seconds:.1f} s")


@contextlib.contextmanager
def _ticking(make_bar: Callable[[], tqdm]) -> Iterator[None]:
    """Shows the bar after a short delay and refreshes its clock during the block, even within one long step."""
    done = threading.Event()

    def tick() -> None:
        if done.wait(_SHOW_AFTER_SECONDS):
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


def as_progress(progress: bool | Progress) -> Progress:
    """Returns a progress reporter: itself, progress bars for True, or one that shows nothing for False."""
    if isinstance(progress, Progress):
        return progress
    return Bars() if progress else Progress()
