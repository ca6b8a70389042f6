"""Model families by name: their config class, presets and constructor."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.models.video_model import VideoModel
from smcd_jax.nn.layers import ComputePolicy


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        name: Name in ``model.json`` and in configs.
        config_class: Frozen dataclass of a model's config.
        presets: Configs by name.
        make: Function ``(config, policy) -> VideoModel``.
        conversion: Module whose ``CONVERSION`` is the `FamilyConversion`; empty if there is no published layout. It is
            imported by the first conversion.
    """

    name: str
    config_class: type
    presets: Mapping[str, Any]
    make: Callable[[Any, ComputePolicy], VideoModel]
    conversion: str = ""


# Families of this package are imported when first used; others call `register_family`.
_BUILT_IN = {
    "smcd": "smcd_jax.models.smcd.family",
    "dynamicrafter": "smcd_jax.models.dynamicrafter.family",
    "lfdm": "smcd_jax.models.lfdm.family",
    "lvmm": "smcd_jax.models.lvmm.family",
}
_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> None:
    """Makes a family known to this process by its name."""
    _FAMILIES[family.name] = family


def get_family(name: str) -> Family:
    """Returns the family with this name.

    Raises:
        SMCDError: No such family is registered.
    """
    if name not in _FAMILIES and name in _BUILT_IN:
        importlib.import_module(_BUILT_IN[name])
    if name not in _FAMILIES:
        known = ", ".join(sorted({*_FAMILIES, *_BUILT_IN}))
        raise SMCDError(f"unknown model family {name!r}; known families are {known}", argument="family", value=name)
    return _FAMILIES[name]


def family_of(config: Any) -> Family:
    """Returns the family that a model config belongs to.

    Raises:
        SMCDError: No registered family has configs of this class.
    """
    for name in _BUILT_IN:
        get_family(name)
    for family in _FAMILIES.values():
        if type(config) is family.config_class:
            return family
    message = f"no model family has configs of class {type(config).__name__}"
    raise SMCDError(message, argument="config", value=type(config).__name__)


def make_model(config: Any, policy: ComputePolicy | None = None) -> VideoModel:
    """Returns the model of a config, with a compute policy (float32 by default)."""
    return family_of(config).make(config, policy or ComputePolicy())


def presets() -> dict[str, Any]:
    """Returns the configs of every family's presets, by name."""
    for name in _BUILT_IN:
        get_family(name)
    return {name: config for family in _FAMILIES.values() for name, config in family.presets.items()}


def preset_family(preset: str) -> str:
    """Returns the name of the family that a preset belongs to."""
    return family_of(presets()[preset]).name
