"""Writes the ONNX file of a tracker that follows red objects, with the inputs and outputs that `learned_tracker` uses.

An ONNX file is a protocol buffer; the few messages needed here are written by their field numbers (onnx.proto3).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

_FLOAT, _INTS = 1, 7  # values of TensorProto.DataType and AttributeProto.AttributeType
CELLS, CELL = 16, 16  # cells per side of the search picture, which is 256 x 256, and pixels per side of a cell
SMALL_CELL = 8  # pixels per side of a cell in the template, which is 128 x 128
WIDE = 64  # side in pixels of the area around a cell's centre that determines its score


def write_red_tracker(path: Path, *, side: float = 0.25, search: str = "search") -> Path:
    """Writes a network that finds the reddest cell; it reads the template, but the template has no effect.

    ``side`` is the object's side in the output, as a fraction of the search picture's side.
    """
    red = np.zeros((1, 3, WIDE, WIDE), np.float32)
    red[:, 0], red[:, 1:] = 1 / WIDE**2, -0.5 / WIDE**2
    fixed = np.zeros((2, 3, CELL, CELL), np.float32)
    weights = {
        "red": red,
        "none": np.zeros((1, 3, SMALL_CELL, SMALL_CELL), np.float32),
        "fixed": fixed,
        "sides": np.full(2, side, np.float32),
        "middle": np.full(2, 0.5, np.float32),
    }
    nodes = [
        _convolution([search, "red"], "redness", CELL, pad=(WIDE - CELL) // 2),
        _convolution(["template", "none"], "nothing", SMALL_CELL),
        _node("Add", ["redness", "nothing"], "output1"),
        _convolution([search, "fixed", "sides"], "output2", CELL),
        _convolution([search, "fixed", "middle"], "output3", CELL),
    ]
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, b"red"),
            *(_field(5, _tensor(name, values)) for name, values in weights.items()),
            _field(11, _value("template", (1, 3, CELLS * SMALL_CELL, CELLS * SMALL_CELL))),
            _field(11, _value(search, (1, 3, CELLS * CELL, CELLS * CELL))),
            *(
                _field(12, _value(f"output{index}", (1, channels, CELLS, CELLS)))
                for index, channels in ((1, 1), (2, 2), (3, 2))
            ),
        ]
    )
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))
    return path


def _convolution(inputs: list[str], output: str, stride: int, *, pad: int = 0) -> bytes:
    numbers = {"strides": [stride] * 2, "pads": [pad] * 4}
    attributes = [
        _field(1, name.encode()) + b"".join(_field(8, value) for value in values) + _field(20, _INTS)
        for name, values in numbers.items()
    ]
    return _node("Conv", inputs, output) + b"".join(_field(5, attribute) for attribute in attributes)


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    named = b"".join(_field(1, name.encode()) for name in inputs)
    return named + _field(2, output.encode()) + _field(3, output.encode()) + _field(4, kind.encode())


def _tensor(name: str, values: np.ndarray) -> bytes:
    sizes = b"".join(_field(1, size) for size in values.shape)
    return sizes + _field(2, _FLOAT) + _field(8, name.encode()) + _field(9, values.astype("<f4").tobytes())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    sizes = b"".join(_field(1, _field(1, size)) for size in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, _FLOAT) + _field(2, sizes)))


def _field(number: int, content: bytes | int) -> bytes:
    """Returns a field of a protocol buffer: an integer, or bytes with their length."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
