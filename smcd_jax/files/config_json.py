"""Config dataclasses as plain JSON values, and back with every key and type checked."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from smcd_jax.errors import SMCDError


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values (tuples become lists)."""
    return {
        field.name: to_dict(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
        if value != field.default or not field.metadata.get("unless_default")
    }


def from_dict(
    cls: type, values: Mapping[str, Any], *, where: str = "config", classes: Mapping[str, type] | None = None
) -> Any:
    """A config dataclass from plain JSON values, the inverse of `to_dict`.

    Raises:
        SMCDError: an unknown key, or a value of another type; ``where`` says in which file.
    """
    hints = {**typing.get_type_hints(cls), **(classes or {})}
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise SMCDError(f"{where}: unknown key {unknown[0]!r} of {cls.__name__}; known are {', '.join(sorted(hints))}")
    return cls(**{key: _from_value(hints[key], value, f"{where}: {key}") for key, value in values.items()})


def _from_value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SMCDError(f"{where} must be an object, not {value!r}")
        return from_dict(hint, value, where=where)
    origin = typing.get_origin(hint)
    if origin is collections.abc.Mapping:
        if not isinstance(value, Mapping):
            raise SMCDError(f"{where} must be an object, not {value!r}")
        item = typing.get_args(hint)[1]
        return {name: _from_value(item, entry, f"{where}.{name}") for name, entry in value.items()}
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise SMCDError(f"{where} must be a list, not {value!r}")
        return tuple(_from_value(item, entry, where) for entry in value)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise SMCDError(f"{where} must be one of {', '.join(map(repr, typing.get_args(hint)))}, not {value!r}")
        return value
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise SMCDError(f"{where} must be {hint.__name__}, not {value!r}")
    return hint(value)
