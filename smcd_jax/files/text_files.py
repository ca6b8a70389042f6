"""Text files around tracks: reading with errors that name file and line, writing whole or not at all."""

from __future__ import annotations

import configparser
import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError

# Far beyond any picture; keeps differences and products of coordinates finite.
MAX_COORDINATE = 1e9


def read_text(path: Path) -> str:
    """The text of a UTF-8 file (a byte order mark is skipped).

    Raises:
        SMCDError: no such file, not readable, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SMCDError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SMCDError(f"{path}: not UTF-8 text (byte {error.start}): is this the right file?") from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file with its folders; it appears under its name only when whole.

    Raises:
        SMCDError: the place cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise SMCDError(f"{path}: cannot write: {error.strerror}") from error


def read_numbers(path: Path, columns: Collection[int]) -> list[tuple[float, ...]]:
    """Rows of comma-separated numbers, all of the same length; empty lines at the end are allowed.

    Args:
        path: the file.
        columns: row lengths the format allows.

    Raises:
        SMCDError: names file and line: an empty line, a field that is no finite number below 1e9, a row of another
            length, or no row at all.
    """
    lines = read_text(path).rstrip().splitlines()
    if not lines:
        raise SMCDError(f"{path}: empty: expected one line of {_lengths(columns)} numbers per box")
    rows = []
    for number, line in enumerate(lines, 1):
        fields = line.split(",")
        wanted = [len(rows[0])] if rows else columns
        if len(fields) not in wanted:
            raise SMCDError(
                f"{path}: line {number}: {len(fields)} comma-separated fields in {line.strip()!r}, expected "
                f"{_lengths(wanted)}"
            )
        rows.append(tuple(_number(field, path, number) for field in fields))
    return rows


def read_ini(path: Path, section: str) -> dict[str, str]:
    """The keys (lower case) and values of one section of an ini file.

    Raises:
        SMCDError: not an ini file, or no such section.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path))
    except configparser.Error as error:
        raise SMCDError(f"{path}: not an ini file: {error}") from error
    if not parser.has_section(section):
        raise SMCDError(f"{path}: no section [{section}]; found {parser.sections()}")
    return dict(parser[section])


def read_json(path: Path) -> Any:
    """The content of a JSON file, refusing keys given twice.

    Raises:
        SMCDError: not JSON (names line and column), or a key twice in one object.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, source: str) -> Any:
    """As `read_json`, from text; `source` names it in errors."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique_keys(pairs, source))
    except SMCDError:
        raise
    except (ValueError, RecursionError) as error:
        raise SMCDError(f"{source}: not JSON: {error}") from error


def format_number(value: float) -> str:
    """A number for a text file: at most 4 decimals, no trailing zeros (`300`, `108.57`)."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _unique_keys(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SMCDError(f"{source}: key {twice!r} is given twice in one object: keep one")
    return keys


def _number(field: str, path: Path, line: int) -> float:
    try:
        value = float(field)
    except ValueError as error:
        raise SMCDError(f"{path}: line {line}: {field.strip()!r} is not a number") from error
    if not math.isfinite(value) or abs(value) > MAX_COORDINATE:
        raise SMCDError(f"{path}: line {line}: {field.strip()!r} is not a finite number below {MAX_COORDINATE:g}")
    return value


def _lengths(columns: Collection[int]) -> str:
    return " or ".join(str(length) for length in sorted(columns))
