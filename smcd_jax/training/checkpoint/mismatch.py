"""Errors, with a table, for a valid checkpoint of a different run: different arrays or a different config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.training.checkpoint.manifest import ArrayRecord, describe

ROWS = 10  # maximum number of rows in a table; further rows are only counted
_ABSENT = "-"


def refuse_other_arrays(folder: Path, saved: Mapping[str, ArrayRecord], wanted: Mapping[str, Any]) -> None:
    """Refuses a checkpoint whose arrays differ from those of the run.

    Args:
        folder: Folder of the step.
        saved: Arrays of the checkpoint by name.
        wanted: Arrays of the run, or `jax.ShapeDtypeStruct`, by name.

    Raises:
        SMCDError: An array is missing, unexpected, or has another shape or dtype; ``value`` lists the names.
    """
    old = {name: (record.shape, record.dtype) for name, record in saved.items()}
    new = {name: describe(leaf) for name, leaf in wanted.items()}
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if names:
        rows = [(name, _array_text(old.get(name)), _array_text(new.get(name))) for name in names]
        raise SMCDError(
            f"{folder}: its arrays differ from those of this run; resume with the config of the checkpoint, "
            "or use another --workdir",
            path=folder,
            value=names,
            table=_table(("array", "in checkpoint", "in this run"), rows),
        )


def config_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: Iterable[str] = ()
) -> list[tuple[str, Any, Any]]:
    """Returns (key, old value, new value) for every difference between two nested configs, sorted by key.

    Keys are joined by dots, tuples are equal to lists, and the value of a missing key is None.

    Args:
        old: Nested config as read from JSON.
        new: Nested config to compare with.
        ignore: Keys to ignore; the key of a group ignores the whole group.
    """
    before, after, absent = _flat(old), _flat(new), object()
    ignored = set(ignore)
    return [
        (key, before.get(key), after.get(key))
        for key in sorted({*before, *after})
        if before.get(key, absent) != after.get(key, absent) and ignored.isdisjoint(_prefixes(key))
    ]


def refuse_other_config(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: Iterable[str] = ()
) -> None:
    """Refuses a checkpoint whose config differs from that of the run.

    Args:
        folder: Folder of the step.
        old: Config of the checkpoint.
        new: Config of the run.
        ignore: Keys that may differ, see `config_differences`.

    Raises:
        SMCDError: The configs differ; ``value`` lists the keys.
    """
    differences = config_differences(old, new, ignore=ignore)
    if differences:
        rows = [(key, repr(before), repr(after)) for key, before, after in differences]
        raise SMCDError(
            f"{folder}: its config differs from that of this run; resume with the config of the "
            "checkpoint, or use another --workdir",
            path=folder,
            value=[key for key, *_ in differences],
            table=_table(("key", "in checkpoint", "in this run"), rows),
        )


def _prefixes(key: str) -> list[str]:
    """Returns "a", "a.b" and "a.b.c" for "a.b.c"."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = _as_lists(value)
    return values


def _as_lists(value: Any) -> Any:
    return [_as_lists(part) for part in value] if isinstance(value, list | tuple) else value


def _array_text(described: tuple[tuple[int, ...], str] | None) -> str:
    return _ABSENT if described is None else f"{described[1]} {list(described[0])}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown = [header, *rows[:ROWS]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    if len(rows) > ROWS:
        lines.append(f"and {len(rows) - ROWS} more")
    return "\n".join(f"  {line}" for line in lines)
