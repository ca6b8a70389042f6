"""The options of every command, from its parser: names, defaults, choices and numbers of values, but no wording."""

from __future__ import annotations

import argparse
from typing import Any

from tests.snapshots import adapters

_PER_MACHINE = ("workers",)  # options whose default is the number of cores


def tables() -> dict[str, dict[str, dict[str, Any]]]:
    """Returns options by command, such as "smcd tracks draw", and by flag, or by name for positional arguments."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    defaults = adapters.option_defaults()
    for name, parser in adapters.command_parsers().items():
        _read(f"smcd {name}".strip(), parser, found)
    for flag, option in found["smcd animate"].items():
        default = defaults.get(flag.removeprefix("--"))
        if "default" not in option and default is not None:
            option["default"] = _plain(default)
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns a line for every option that was added, removed or changed."""
    before, now = _by_flag(old), _by_flag(new)
    lines = [f"removed  {flag}  {before[flag]}" for flag in before if flag not in now]
    lines += [f"added    {flag}  {now[flag]}" for flag in now if flag not in before]
    for flag in before:
        if flag in now and before[flag] != now[flag]:
            lines.append(f"changed  {flag}  {before[flag]} -> {now[flag]}")
    return lines


def _by_flag(tables: dict[str, Any]) -> dict[str, Any]:
    return {f"{command} {flag}": option for command, options in tables.items() for flag, option in options.items()}


def _read(command: str, parser: argparse.ArgumentParser, found: dict[str, Any]) -> None:
    options = found.setdefault(command, {})
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                _read(f"{command} {name}", child, found)
        else:
            options[" ".join(action.option_strings) or action.dest] = _describe(action)
    found[command] = dict(sorted(options.items()))


def _describe(action: argparse.Action) -> dict[str, Any]:
    default = action.default if action.dest not in _PER_MACHINE else None
    described = {"default": default, "choices": action.choices, "nargs": action.nargs}
    described = {name: _plain(value) for name, value in described.items() if value not in (None, argparse.SUPPRESS)}
    if action.required:
        described["required"] = True
    if action.nargs != 0 or action.option_strings == []:
        described["type"] = getattr(action.type, "__name__", "str").removeprefix("_") if action.type else "str"
    kind = type(action).__name__.strip("_").removesuffix("Action")
    return described if kind == "Store" else {**described, "action": kind}


def _plain(value: Any) -> Any:
    if isinstance(value, dict | set | frozenset | range | tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
