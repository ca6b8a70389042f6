"""Rows of conversion tables: the PyTorch name of an array, its path in Flax, and its layout, for both directions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """Conversion of a PyTorch array to a Flax array: axes of length 1 are removed, then the others are permuted.

    Attributes:
        permutation: Remaining axes of the PyTorch array in the order of Flax; None for the same order.
        ones: Axes of the PyTorch array that have length 1 and do not exist in Flax, in ascending order.
    """

    permutation: tuple[int, ...] | None = None
    ones: tuple[int, ...] = ()

    def to_flax(self, array: np.ndarray) -> np.ndarray:
        """Returns the Flax view of a PyTorch array.

        Raises:
            ValueError: An axis of ``ones`` has another length.
        """
        array = array.squeeze(self.ones)
        return array if self.permutation is None else array.transpose(self.permutation)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Returns the PyTorch view of a Flax array."""
        if self.permutation is not None:
            array = array.transpose(np.argsort(self.permutation))
        return np.expand_dims(array, self.ones)

    def torch_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the PyTorch shape of a Flax array."""
        return self.to_torch(np.broadcast_to(np.zeros(()), shape)).shape


KEEP = Layout()
LINEAR = Layout((1, 0))  # [out, in] -> [in, out]
CONV = Layout((2, 3, 1, 0))  # [out, in, h, w] -> [h, w, in, out]
POINTWISE_1D = Layout((1, 0), ones=(2,))  # Conv1d of width 1 -> linear
POINTWISE_2D = Layout((1, 0), ones=(2, 3))  # Conv2d 1x1 -> linear
POINTWISE_3D = Layout((1, 0), ones=(2, 3, 4))  # Conv3d 1x1x1 -> linear
CONV_3D = Layout((2, 3, 4, 1, 0))  # [out, in, t, h, w] -> [t, h, w, in, out]
TEMPORAL = Layout((2, 3, 1, 0), ones=(4,))  # Conv3d [out, in, 3, 1, 1] -> [3, 1, in, out]
# Conv3d [out, in, 1, h, w] -> [h, w, in, out], and ConvTranspose3d [in, out, 1, h, w] -> [h, w, out, in]
FRAMEWISE = Layout((2, 3, 1, 0), ones=(2,))


class Row(NamedTuple):
    """An array: its PyTorch name, its path in Flax, such as "encoder_0/conv/kernel", and its layout."""

    torch: str
    path: str
    layout: Layout


Rows = Iterable[Row]


def array(torch: str, path: str, layout: Layout = KEEP) -> list[Row]:
    """Returns the row of a single parameter."""
    return [Row(torch, path, layout)]


def weighted(torch: str, path: str, layout: Layout, *, bias: bool = True) -> list[Row]:
    """Returns the rows of a linear or convolutional layer: weight and, unless ``bias`` is False, bias."""
    rows = [Row(f"{torch}.weight", f"{path}/kernel", layout)]
    return rows + [Row(f"{torch}.bias", f"{path}/bias", KEEP)] * bias


def norm(torch: str, path: str) -> list[Row]:
    """Returns the rows of a GroupNorm or LayerNorm."""
    return [Row(f"{torch}.weight", f"{path}/scale", KEEP), Row(f"{torch}.bias", f"{path}/bias", KEEP)]


def under(torch: str, path: str, rows: Rows) -> list[Row]:
    """Returns the rows with prefixes added to their PyTorch names and paths."""
    return [Row(f"{torch}.{row.torch}", f"{path}/{row.path}", row.layout) for row in rows]
