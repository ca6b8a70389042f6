"""The part of a model family that `smcd convert` uses: it finds published weights and writes them back.

`smcd_jax.conversion` checks the tables, converts and writes; a family determines which tensors, configs and tables
belong together. A family's conversion module is imported only by a conversion, so sampling does not load it.
"""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.models.registry import Family
from smcd_jax.weights.conversion_table import Row
from smcd_jax.weights.tensor_files import LazyTensor


@dataclasses.dataclass(frozen=True)
class Source:
    """Published weights of one component.

    Attributes:
        file: File of the weights.
        tensors: Tensors by the names that the table uses.
        config: Config of the component.
        rows: Conversion table of the component.
        left_out: Number of tensors of the file that are deliberately not converted, such as training state.
    """

    file: Path
    tensors: Mapping[str, LazyTensor]
    config: Any
    rows: list[Row]
    left_out: int = 0


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A model as found in published files.

    Attributes:
        config: Config of the model, whose components are those in ``sources``.
        sources: Weights by component.
        license: License of the weights, as one line.
        notes: Observations for the user, one line each, such as a stored noise schedule that differs from the model's.
    """

    config: Any
    sources: Mapping[str, Source]
    license: str = "unknown"
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """A file of PyTorch tensors to write.

    Attributes:
        name: Name of the file. In the format "safetensors" the suffix becomes ``.safetensors``.
        tables: Conversion table of each component whose tensors the file holds.
        key: Key of the dictionary under which ``torch.save`` puts the tensors; empty for the top level.
        groups: Keys of several dictionaries; names in the tables then begin with a key and a dot.
    """

    name: str
    tables: Mapping[str, Iterable[Row]]
    key: str = ""
    groups: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ReferenceNetwork:
    """A network of the official PyTorch code, and ours on the same inputs.

    Attributes:
        component: Component of the model that has its weights.
        class_name: Name of the class in the official code.
        arguments: Arguments of its constructor, by name; those that it does not take are left out.
        method: Method that is called.
        inputs: Arrays in PyTorch's layout, by the name of the method's argument.
        rows: Conversion table of the weights.
        ours: Function ``params -> output`` of our network, with its output in PyTorch's layout.
    """

    component: str
    class_name: str
    arguments: Mapping[str, Any]
    method: str
    inputs: Mapping[str, np.ndarray]
    rows: list[Row]
    ours: Callable[[Any], np.ndarray]


class FamilyConversion(abc.ABC):
    """Conversion of one family between published files and the model folder.

    Options are the values of the family's flags in `smcd_jax.models.conversion_flags`, by name.
    """

    @abc.abstractmethod
    def read(self, options: Mapping[str, Any]) -> PublishedModel:
        """Returns the published model that the options describe; no values of tensors are read.

        Raises:
            SMCDError: A file is missing, is damaged or belongs to another model.
        """

    @abc.abstractmethod
    def torch_files(self, config: Any) -> list[TorchFile]:
        """Returns the files that hold a model in the published layout.

        Args:
            config: Config of the model.

        Raises:
            SMCDError: The published layout has no place for one of the components.
        """

    def text_files(self, config: Any) -> dict[str, str]:
        """Returns the content of further files of the published layout, by name; `read` takes them into account."""
        del config
        return {}

    def reference_networks(self, config: Any) -> list[ReferenceNetwork]:
        """Returns the networks of the official code that `smcd verify --reference` compares; none by default."""
        del config
        return []

    def preset_config(self, config: Any, options: Mapping[str, Any]) -> Any:
        """Returns the config of an untrained model, from the config of a preset and the options."""
        del options
        return config


def get_conversion(family: Family) -> FamilyConversion:
    """Returns the conversion of a family, which its module names ``CONVERSION``.

    Raises:
        SMCDError: The family has no published layout.
    """
    if not family.conversion:
        message = f"model family {family.name} has no PyTorch layout to convert"
        raise SMCDError(message, argument="family", value=family.name)
    return importlib.import_module(family.conversion).CONVERSION
