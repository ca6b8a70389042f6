"""Graceful stop of a run on SIGTERM, SIGINT or JAX's preemption notice, at the same step on all processes."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

EXIT_RESTART = 42  # exit status of a run that stopped on request and has saved; starting it again resumes it
EXIT_LOST = 134  # exit status of a run that lost its other processes; the same as that of JAX's own abort (SIGABRT)

ELSEWHERE = "a stop notice"  # reason reported by processes that did not get the signal themselves


class StopRequest:
    """Catches stop signals within a ``with`` block; the training loop calls `requested` after every step.

    - A single process: SIGTERM and SIGINT set a flag.
    - Several processes with JAX's preemption service (the default of `jax.distributed`): JAX handles SIGTERM, which it
      checks once a second, and agrees with all processes on a step that none of them has passed. Its handler stays in
      place, and SIGINT is forwarded to it. Stopping takes a few seconds and some steps.
    - Several processes without that service (``jax_enable_preemption_service`` off): both signals set a flag, and the
      processes compare their flags every ``agree_every`` steps, which waits for the devices.

    In all cases a second SIGINT raises `KeyboardInterrupt` immediately. Python runs signal handlers in the main thread,
    so the block must be entered there.

    Args:
        agree_every: Number of steps between comparisons of the flags, at least 1.
    """

    def __init__(self, *, agree_every: int = 10):
        self._agree_every = agree_every
        self._reason: str | None = None
        self._interrupted = False
        self._agreed = False
        self._old_handlers: dict[int, object] = {}
        self._multiprocess = self._preemption_service = False

    def __enter__(self) -> StopRequest:
        self._multiprocess = jax.process_count() > 1
        service = jax.distributed.is_initialized() and jax.config.jax_enable_preemption_service
        self._preemption_service = self._multiprocess and service
        caught = (signal.SIGINT,) if self._preemption_service else (signal.SIGINT, signal.SIGTERM)
        for number in caught:
            self._old_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            # None is a handler that was not installed from Python and cannot be restored from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old_handlers.clear()

    def requested(self, step: int) -> str | None:
        """Returns why the run should stop after this step, or None; all processes agree on whether to stop.

        Args:
            step: Number of completed steps. All processes must call this after every step, from the same first step on.

        Returns:
            "SIGTERM", "SIGINT" or `ELSEWHERE`.
        """
        if not self._multiprocess:
            return self._reason
        if not self._agreed:
            self._agreed = self._agree(step)
        return (self._reason or ELSEWHERE) if self._agreed else None

    def _agree(self, step: int) -> bool:
        if self._preemption_service:
            return multihost_utils.reached_preemption_sync_point(step)
        if step % self._agree_every:
            return False
        return bool(np.any(multihost_utils.process_allgather(np.array(self._reason is not None))))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        name = signal.Signals(number).name
        self._reason = self._reason or name
        hint = "; press Ctrl-C again to stop immediately" if number == signal.SIGINT else ""
        # Written to the file descriptor because the handler may have interrupted a write to a Python stream, whose lock
        # it cannot acquire again.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{name}: stopping after this step{hint}\n".encode())
        if self._preemption_service:
            os.kill(os.getpid(), signal.SIGTERM)
