"""Overrides of config values from the command line, with suggestions for misspelled keys."""

from __future__ import annotations

import ast
import difflib
from typing import Any

from ml_collections import ConfigDict

from smcd_jax.errors import SMCDError


def apply_override(config: ConfigDict, override: str) -> None:
    """Sets one key of a config.

    Args:
        config: Config to change.
        override: "KEY.OF.CONFIG=VALUE"; the value is a Python literal, anything else is text.

    Raises:
        SMCDError: The value is missing, or the key is unknown or a group of keys.
    """
    key, equals, text = override.partition("=")
    if not equals:
        raise SMCDError(f"--config.{key}: missing value; write --config.{key}=VALUE", argument=key)
    *parents, last = key.split(".")
    node = config
    for depth, name in enumerate(parents):
        if not isinstance(node, ConfigDict) or name not in node:
            _unknown(node, ".".join(parents[: depth + 1]), name)
        node = node[name]
    if not isinstance(node, ConfigDict) or last not in node:
        _unknown(node, key, last)
    if isinstance(node[last], ConfigDict):
        raise SMCDError(
            f"--config.{key} is a group of keys; set one of {', '.join(node[last])}", argument=key, value=text
        )
    with node.ignore_type():
        node[last] = _value(text, node[last])


def _value(text: str, before: Any) -> Any:
    if isinstance(before, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    if isinstance(before, tuple | list) and not isinstance(value, tuple | list):
        value = tuple(text.split(",")) if text else ()
    return list(value) if isinstance(value, tuple) else value


def _unknown(node: Any, key: str, name: str) -> None:
    known = list(node) if isinstance(node, ConfigDict) else []
    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}" if known else ""
    raise SMCDError(f"--config.{key}: unknown key{hint}", argument=key)
