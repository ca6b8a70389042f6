"""Conversion of config dataclasses to plain JSON values and back, with every key and type checked."""

from __future__ import annotations

import collections.abc
import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from smcd_jax.files.json_value import JsonValue


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as plain JSON values; tuples become lists."""
    return {
        field.name: _to_json(value)
        for field in dataclasses.fields(config)
        for value in [getattr(config, field.name)]
        if value != field.default or not field.metadata.get("unless_default")
    }


def from_dict(
    cls: type,
    values: Mapping[str, Any],
    *,
    path: str | os.PathLike[str] | None = None,
    classes: Mapping[str, type] | None = None,
) -> Any:
    """Builds a config of class ``cls`` from plain JSON values; the inverse of `to_dict`.

    Args:
        cls: Dataclass of the config.
        values: Value of each key; a missing key takes its default.
        path: File that the values come from, for error messages.
        classes: Config class by key, for keys whose type is not known in advance.

    Raises:
        SMCDError: A key is unknown, or a value has the wrong type. `argument` is the key, such as `unet.head_dim`.
    """
    return _from_json(cls, JsonValue(values, None if path is None else os.fspath(path)), classes or {})


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def _from_json(hint: Any, value: JsonValue, classes: Mapping[str, type] = MappingProxyType({})) -> Any:
    if isinstance(hint, types.UnionType):
        if value.data is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        hints = {**typing.get_type_hints(hint), **classes}
        value.check_keys((), optional=sorted(hints))
        return hint(**{key: _from_json(hints[key], value.get(key)) for key in value.data})
    origin = typing.get_origin(hint)
    if origin is collections.abc.Mapping:
        value.check_keys((), optional=sorted(value.data) if isinstance(value.data, Mapping) else ())
        return {name: _from_json(typing.get_args(hint)[1], value.get(name)) for name in value.data}
    if origin is tuple:
        return tuple(_from_json(typing.get_args(hint)[0], item) for item in value.items())
    if origin is Literal:
        if value.data not in typing.get_args(hint):
            raise value.error(f"must be one of {', '.join(map(repr, typing.get_args(hint)))}")
        return value.data
    accepted = (int, float) if hint is float else hint
    if not isinstance(value.data, accepted) or (isinstance(value.data, bool) and hint is not bool):
        raise value.error(f"must be {hint.__name__}")
    return hint(value.data)
