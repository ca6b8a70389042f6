"""TensorBoard event files, written with the messages and the record format of the `tensorboard` package.

TensorBoard's own ``EventFileWriter`` is not used: it imports TensorFlow where that is installed, and it writes in a
background thread, which prints a traceback when the disk is full. tensorboardX imports torch where that is installed.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_RGB = 3  # value of Summary.Image.colorspace


class DirectFile(io.FileIO):
    """An unbuffered file whose `write` passes all bytes to the operating system or raises `OSError`."""

    def write(self, data: Any) -> int:
        """Writes all of ``data``; the operating system may accept only a part at a time."""
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) :]
        return len(data)


class EventFile:
    """A new event file; every call writes one record to the operating system before it returns.

    Args:
        folder: Folder to create; TensorBoard shows all event files in it as one run.
        first_step: First step of a resumed run, from which TensorBoard hides the events of older files; None for a new
            run.

    Raises:
        ImportError: The `tensorboard` package is not installed.
        OSError: The folder or the file cannot be written.
    """

    def __init__(self, folder: Path, *, first_step: int | None = None):
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._new_event = event_pb2.Event
        self._records = RecordWriter(_create(folder))
        self._write(0, file_version="brain.Event:2")
        if first_step is not None:
            self._write(first_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one point per curve, as float32."""
        self._write(step, summary={"value": [{"tag": name, "simple_value": value} for name, value in values.items()]})

    def image(self, step: int, name: str, encoded: bytes, *, height: int, width: int) -> None:
        """Writes a PNG, JPEG or GIF file; TensorBoard plays animated GIFs."""
        image = {"height": height, "width": width, "colorspace": _RGB, "encoded_image_string": encoded}
        self._write(step, summary={"value": [{"tag": name, "image": image}]})

    def close(self) -> None:
        """Closes the file; all records have been written already."""
        self._records.close()

    def _write(self, step: int, **content: Any) -> None:
        self._records.write(self._new_event(wall_time=time.time(), step=step, **content).SerializeToString())


def _create(folder: Path) -> DirectFile:
    stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    for number in itertools.count():
        try:
            return DirectFile(folder / f"{stem}.{number}", "xb")
        except FileExistsError:  # created by this process within the same second
            continue
