"""Shapes of a file's tensors, from which the config of a network is inferred."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from smcd_jax.errors import SMCDError
from smcd_jax.weights.conversion_engine import Shaped

Tensors = Mapping[str, Shaped]


class TensorShapes:
    """Shapes of the tensors of one network."""

    def __init__(self, tensors: Tensors, *, path: str | os.PathLike[str], network: str):
        """Creates the view; ``path`` and ``network`` name the file and the network in error messages."""
        self._tensors, self._path, self._network = tensors, path, network

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor.

        Raises:
            SMCDError: There is no such tensor; `value` is its name.
        """
        if name not in self._tensors:
            raise SMCDError(
                f"{self._path} contains no {self._network}: {name} is missing; check that this is the "
                "right file and that it is complete",
                path=self._path,
                value=name,
            )
        return tuple(self._tensors[name].shape)

    def count(self, pattern: str) -> int:
        """Returns 1 plus the largest number that the first group of a pattern matches at the start of a name."""
        numbers = {int(match[1]) for name in self._tensors if (match := re.match(pattern, name))}
        return max(numbers, default=-1) + 1
