"""Turns of several processes on one device: they compile side by side and measure one after the other."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from smcd_jax.errors import SMCDError


class DeviceTurns:
    """Keeps processes with the same file from measuring while another one compiles or measures.

    A turn ends with its block, or with the process.

    Args:
        file: File that all processes name; it is created if it does not exist. None if no other process runs.

    Raises:
        SMCDError: The file cannot be opened.
    """

    def __init__(self, file: str | os.PathLike[str] | None = None):
        self._file = None if file is None else Path(file)
        if self._file is not None:
            with self._held(fcntl.LOCK_SH):
                pass

    def compiling(self) -> contextlib.AbstractContextManager[None]:
        """Waits until no process measures; other processes may compile at the same time."""
        return self._held(fcntl.LOCK_SH)

    def measuring(self) -> contextlib.AbstractContextManager[None]:
        """Waits until no other process compiles or measures."""
        return self._held(fcntl.LOCK_EX)

    @contextlib.contextmanager
    def _held(self, operation: int) -> Iterator[None]:
        if self._file is None:
            yield
            return
        try:
            opened = self._file.open("a")
        except OSError as error:
            raise SMCDError(
                f"cannot open {self._file} ({error.strerror}); name a file in a folder that exists and is writable",
                argument="turns",
                path=self._file,
            ) from error
        with opened:
            fcntl.flock(opened, operation)
            yield
