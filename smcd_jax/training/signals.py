"""When a run should stop before its end: SIGTERM, SIGINT or JAX's preemption notice, at one step on all processes."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

EXIT_RESTART = 42  # exit status of a run that was told to stop and has saved: start it again and it goes on
EXIT_LOST = 134  # of a run whose other processes have gone: that of the abort by which JAX ends such a process itself

ELSEWHERE = "a stop notice"  # the reason where the signal came to another process, or to JAX


class StopRequest:
    """Catches stop signals for the length of a `with` block; the loop asks `requested` after every step.

    One process: SIGTERM and SIGINT set a flag.

    Several processes that `jax.distributed` knows: JAX catches SIGTERM itself, looks once a second, tells all the
    processes and names a step that none of them has passed; that is kept, since whoever sets a handler in its place
    makes the notice deaf. SIGINT is passed on as such a notice. It takes a few seconds and then some steps.

    Several processes without that service (``jax_enable_preemption_service`` off): both signals set a flag, and the
    processes compare flags every ``agree_every`` steps, which waits for the devices.

    Always: a second SIGINT raises `KeyboardInterrupt` at once. Python runs handlers in the main thread, so that is
    where the block must be entered.
    """

    def __init__(self, *, agree_every: int = 10):
        self._agree_every = agree_every
        self._reason: str | None = None
        self._interrupted = False
        self._agreed = False
        self._old_handlers: dict[int, object] = {}
        self._several = self._notified = False

    def __enter__(self) -> StopRequest:
        self._several = jax.process_count() > 1
        served = jax.distributed.is_initialized() and jax.config.jax_enable_preemption_service
        self._notified = self._several and served
        caught = (signal.SIGINT,) if self._notified else (signal.SIGINT, signal.SIGTERM)
        for number in caught:
            self._old_handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            # None stands for a handler that was not set from Python and cannot be set again from here
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old_handlers.clear()

    def requested(self, step: int) -> str | None:
        """Why the run should stop after this step, or None; the same answer on all processes, but for the wording.

        Args:
            step: just done. All processes ask after every step, and start from the same one.

        Returns:
            "SIGTERM", "SIGINT" or `ELSEWHERE`.
        """
        if not self._several:
            return self._reason
        if not self._agreed:
            self._agreed = self._ask_all(step)
        return (self._reason or ELSEWHERE) if self._agreed else None

    def _ask_all(self, step: int) -> bool:
        if self._notified:
            return multihost_utils.reached_preemption_sync_point(step)
        if step % self._agree_every:
            return False
        return bool(np.any(multihost_utils.process_allgather(np.array(self._reason is not None))))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        name = signal.Signals(number).name
        self._reason = self._reason or name
        again = "; once more stops at once" if number == signal.SIGINT else ""
        # straight to the terminal: the handler may have interrupted a write, and Python's streams and locks do not
        # let it in twice
        with contextlib.suppress(OSError):
            os.write(2, f"\n{name}: stopping after this step{again}\n".encode())
        if self._notified:
            os.kill(os.getpid(), signal.SIGTERM)
