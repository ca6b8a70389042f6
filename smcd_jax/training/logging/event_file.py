"""TensorBoard's event files, written without TensorBoard: TFRecords of the few kinds of `Event` a run needs.

The messages are tensorflow/core/util/event.proto and tensorflow/core/framework/summary.proto; the field numbers below
are theirs. The libraries that write them import torch or tensorflow where those are installed, or write in a thread
that dies of a full disk and then blocks the run.
"""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.records.tfrecord import frame_record

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5  # wire types of protocol buffers
_RGB = 3
_START = 1  # SessionLog.START


class EventFile:
    """A new event file in a folder; every call is one record, handed to the system before it returns."""

    def __init__(self, folder: Path, *, first_step: int | None = None):
        """Makes the folder and the file.

        Args:
            folder: TensorBoard reads all event files in it as one run.
            first_step: of a run that goes on: whatever older files hold from this step on is hidden by TensorBoard.

        Raises:
            OSError: the folder or the file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _open_new(folder)
        self._write(_field(3, b"brain.Event:2"), step=0)
        if first_step is not None:
            self._write(_field(7, _varint_field(1, _START)), step=first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Points of as many curves as there are values, as float32."""
        written = b"".join(
            _field(1, _field(1, name.encode()) + _float_field(2, value)) for name, value in values.items()
        )
        self._write(_field(5, written), step=step)

    def picture(self, step: int, name: str, encoded: bytes, *, height: int, width: int) -> None:
        """A PNG, JPEG or GIF; a GIF moves."""
        image = _varint_field(1, height) + _varint_field(2, width) + _varint_field(3, _RGB) + _field(4, encoded)
        self._write(_field(5, _field(1, _field(1, name.encode()) + _field(4, image))), step=step)

    def close(self) -> None:
        """The file is whole without it, too."""
        self._file.close()

    def _write(self, content: bytes, *, step: int) -> None:
        event = _key(1, _DOUBLE) + struct.pack("<d", time.time()) + _varint_field(2, step) + content
        write_whole(self._file, frame_record(event))


def write_whole(file: io.FileIO, data: bytes) -> None:
    """Writes to an unbuffered file, which may take only a part at a time; a buffer would fail again when it closes."""
    while data:
        data = data[file.write(data) :]


def _open_new(folder: Path) -> io.FileIO:
    stem = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    for number in itertools.count():
        try:
            return (folder / f"{stem}.{number}").open("xb", buffering=0)
        except FileExistsError:  # of this process, within this second
            continue


def _key(number: int, wire_type: int) -> bytes:
    return _varint(number << 3 | wire_type)


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(content)) + content


def _varint_field(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _varint(value)


def _float_field(number: int, value: float) -> bytes:
    # a float32 by rounding and without struct's OverflowError: beyond its range is infinity
    with np.errstate(over="ignore"):
        return _key(number, _FLOAT) + np.array(value, "<f4").tobytes()


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
