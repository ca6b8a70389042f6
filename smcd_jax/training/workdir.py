"""The folder of one training run: its subfolders, the lock against a second run, and the resolved config."""

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
from smcd_jax.files import write_json

logger = logging.getLogger(__name__)

_VISIBLE_WITHIN_SECONDS = 10.0  # a network file system may show a new file with a delay


class Workdir:
    """WORKDIR/{checkpoints, samples, logs}, created if missing, and locked until `close` or the end of the process.

    The kernel holds the lock (flock) and releases it however the process ends. In a run of several processes only
    process 0 holds it.

    Args:
        path: Folder of the run.

    Raises:
        SMCDError: The folder cannot be created or written, another run uses it, or not all processes see it.

    Attributes:
        path: Absolute path of the folder.
        checkpoints: Folder of checkpoints.
        samples: Folder of sample videos.
        logs: Folder of logs.
    """

    def __init__(self, path: str | os.PathLike[str]):
        if re.match(r"\w+:/", str(path)):
            raise SMCDError(
                f"--workdir must be a folder, got {path}; mount the bucket (gcsfuse, Filestore) and pass that folder",
                argument="workdir",
                value=str(path),
            )
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
                f"cannot write to {self.path} ({error.strerror or error}); choose a writable --workdir",
                argument="workdir",
                path=self.path,
            ) from error
        if jax.process_count() > 1:
            _check_shared(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes ``config.json`` atomically, on process 0 only."""
        if jax.process_index() == 0:
            write_json(self.path / "config.json", config)

    def close(self) -> None:
        """Releases the lock."""
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
    """Checks that all processes see the same folder; otherwise saving would never finish."""
    from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

    token = int(broadcast_one_to_all(np.uint32(secrets.randbits(32))))
    marker = path / f".shared.{token:08x}"
    if jax.process_index() == 0:
        marker.touch()
    visible, deadline = False, time.monotonic() + _VISIBLE_WITHIN_SECONDS
    process_allgather(np.zeros(1))  # process 0 has created the marker
    while not (visible := marker.exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    missing = [index for index, seen in enumerate(process_allgather(np.array([visible]))) if not seen]
    if jax.process_index() == 0:
        marker.unlink(missing_ok=True)
    if missing:
        raise SMCDError(
            f"{path} of process 0 is not visible to process {', '.join(map(str, missing))}; use a --workdir on a file "
            "system that all hosts share",
            argument="workdir",
            path=path,
            value=missing,
        )


def _locked(path: Path) -> TextIO:
    """Returns the open lock file, which names the process that holds it; closing the file releases the lock."""
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            holder = _holder(file)
            file.close()
            run = "another run, which has just started"
            if holder is not None:
                run = "the run of process {pid} on {host}, started {started}".format_map(holder)
            raise SMCDError(
                f"{path.parent} is in use by {run}; wait for that run, stop it, or use another --workdir (if its host "
                f"no longer exists, delete {path})",
                argument="workdir",
                path=path.parent,
                value=holder,
            ) from error
        logger.warning(
            "%s: this file system does not support locks (%s); do not start a second run in this folder",
            *(path, error.strerror),
        )
    file.seek(0)
    file.truncate()
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started}, file)
    file.flush()
    return file


def _holder(file: TextIO) -> dict[str, Any] | None:
    """Returns pid, host and start time of the process that holds the lock, or None if it has not written them yet."""
    file.seek(0)
    try:
        content = json.load(file)
        return {key: content[key] for key in ("pid", "host", "started")}
    except (ValueError, KeyError, TypeError):
        return None
