"""Refusals, with a table, of a checkpoint that is whole but of another run: other arrays or another config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.training.checkpoint.manifest import ArrayRecord, describe

ROWS = 10  # of a table, before the rest is only counted
_ABSENT = "-"


def refuse_other_arrays(folder: Path, saved: Mapping[str, ArrayRecord], wanted: Mapping[str, Any]) -> None:
    """Compares the arrays of a checkpoint with those the run has (arrays or `jax.ShapeDtypeStruct`), both by name.

    Raises:
        SMCDError: any is missing, extra, or of another shape or dtype.
    """
    there = {name: (record.shape, record.dtype) for name, record in saved.items()}
    here = {name: describe(leaf) for name, leaf in wanted.items()}
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if names:
        rows = [(name, _array_text(there.get(name)), _array_text(here.get(name))) for name in names]
        raise SMCDError(
            f"{folder}: its arrays are not those of this run ({len(names)} differ); resume with the config it was "
            "saved with, or give another --workdir",
            table=_table(("array", "in checkpoint", "wanted"), rows),
        )


def config_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: Iterable[str] = ()
) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of every value that differs between nested configs, keys joined by dots, sorted.

    Args:
        old: as it comes back from JSON.
        new: tuples count as lists.
        ignore: keys; a key of a group ignores all below it. A value of an absent key is given as None.
    """
    there, here, ignored = _flat(old), _flat(new), tuple(ignore)
    skip = lambda key: any(key == name or key.startswith(f"{name}.") for name in ignored)  # noqa: E731
    keys = [key for key in sorted({*there, *here}) if not skip(key)]
    absent = object()
    differing = [key for key in keys if there.get(key, absent) != here.get(key, absent)]
    return [(key, there.get(key), here.get(key)) for key in differing]


def refuse_other_config(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: Iterable[str] = ()
) -> None:
    """Refuses to resume with a config that differs from that of the checkpoint in ``folder``.

    Raises:
        SMCDError: with `config_differences` as a table.
    """
    differences = config_differences(old, new, ignore=ignore)
    if differences:
        rows = [(key, repr(before), repr(now)) for key, before, now in differences]
        raise SMCDError(
            f"{folder}: its config is not that of this run ({len(rows)} differ); resume with the config it was "
            "saved with, or give another --workdir",
            table=_table(("key", "in checkpoint", "wanted"), rows),
        )


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
