"""The folder of one training run: its parts, the lock that keeps a second run out, and the resolved config."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import jax
import numpy as np

from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)

_SHOWS_WITHIN_SECONDS = 10.0  # a network file system may show a new file late


class Workdir:
    """WORKDIR/{checkpoints, samples, logs}, made where they are missing, and locked until `close` or death.

    The lock is the kernel's (flock), so that it goes with the process, however that ends. In a run of several processes
    the first one locks.

    Args:
        path: of the folder.

    Raises:
        SMCDError: it cannot be made or written to, another run is in it, or not all processes see it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if re.match(r"\w+:/", str(path)):
            raise SMCDError(f"--workdir {path}: no folder; mount the bucket (gcsfuse, Filestore) and give that folder")
        self.path = Path(path).absolute()
        self.checkpoints, self.samples, self.logs = (self.path / name for name in ("checkpoints", "samples", "logs"))
        self._lock: TextIO | None = None
        try:
            for folder in (self.checkpoints, self.samples, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()
            if jax.process_index() == 0:
                self._lock = _locked(self.path / "lock")
        except OSError as error:
            raise SMCDError(
                f"cannot write to {self.path} ({error.strerror or error}); give a --workdir on a disk you may write to"
            ) from error
        if jax.process_count() > 1:
            _check_shared(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes ``config.json``, whole or not at all; only the first process does."""
        if jax.process_index() == 0:
            write_whole(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def close(self) -> None:
        """Lets another run in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Workdir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check_shared(path: Path) -> None:
    """Whether all processes of the run see one folder: with several, saving would wait for ever."""
    from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

    number = int(broadcast_one_to_all(np.uint32(secrets.randbits(32))))
    sign = path / f".shared.{number:08x}"
    if jax.process_index() == 0:
        sign.touch()
    sees, patience = False, time.monotonic() + _SHOWS_WITHIN_SECONDS
    process_allgather(np.zeros(1))  # the first process has made it
    while not (sees := sign.exists()) and time.monotonic() < patience:
        time.sleep(0.2)
    blind = [str(index) for index, seen in enumerate(process_allgather(np.array([sees]))) if not seen]
    if jax.process_index() == 0:
        sign.unlink(missing_ok=True)
    if blind:
        raise SMCDError(
            f"{path} of the first process is not seen by process {', '.join(blind)}: give a --workdir on a disk that "
            "all hosts share"
        )


def write_whole(path: Path, text: str) -> None:
    """Writes a file that appears under its name only when it is whole and on the disk.

    Raises:
        SMCDError: it cannot be written; what was there before is still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SMCDError(f"cannot write {path} ({error.strerror}); make room or mend its permissions") from error


def _locked(path: Path) -> TextIO:
    """The open lock file, which says who holds it; closing it unlocks."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            holder = _holder(file)
            file.close()
            raise SMCDError(
                f"{path.parent} is in use by {holder}; wait until that run ends, stop it, or give another --workdir "
                f"(if its host is gone for good, remove {path})"
            ) from error
        logger.warning("%s: this file system knows no locks (%s): start no second run here", path, error.strerror)
    file.seek(0)
    file.truncate()
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started}, file)
    file.flush()
    return file


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        run = json.load(file)
        return f"the run of process {run['pid']} on {run['host']}, started {run['started']}"
    except (ValueError, KeyError, TypeError):  # between its lock and its writing
        return "another run, which has just started"
