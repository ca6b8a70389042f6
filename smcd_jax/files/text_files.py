"""Readers of text, number tables, INI and JSON files; their errors name the file and the place in it."""

from __future__ import annotations

import configparser
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError

# Far larger than any picture; differences and products of such coordinates stay finite.
MAX_COORDINATE = 1e9


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, without its byte order mark.

    Raises:
        SMCDError: The file is missing, not readable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SMCDError(f"{path}: cannot read: {error.strerror}; check the path", path=path) from error
    except UnicodeDecodeError as error:
        raise SMCDError(
            f"{path}: not UTF-8 text (byte {error.start}); check that this is the right file", path=path
        ) from error


def read_numbers(path: Path, columns: Collection[int]) -> list[tuple[float, ...]]:
    """Returns the rows of a file of comma-separated numbers, all of the same length.

    Blank lines are allowed at the end only.

    Args:
        path: File to read.
        columns: Numbers per line that the format allows.

    Raises:
        SMCDError: The file is empty, a line is blank or has another number of fields, or a field is not a finite number
            below 1e9. `argument` is the line, such as `line 2`; `value` is the refused line or field.
    """
    lines = read_text(path).rstrip().splitlines()
    if not lines:
        raise SMCDError(f"{path}: the file is empty; each line must hold {_any_of(columns)} numbers", path=path)
    rows: list[tuple[float, ...]] = []
    for number, line in enumerate(lines, 1):
        fields = line.split(",")
        expected = [len(rows[0])] if rows else columns
        if len(fields) not in expected:
            raise SMCDError(
                f"{path}: line {number}: {len(fields)} comma-separated fields in {line.strip()!r}, expected "
                f"{_any_of(expected)}",
                argument=f"line {number}",
                path=path,
                value=line.strip(),
            )
        where = f"{path}: line {number}:"
        rows.append(tuple(parse_number(field, where, argument=f"line {number}", path=path) for field in fields))
    return rows


def parse_number(text: str, what: str, **fields: Any) -> float:
    """Returns the number that a text states.

    Args:
        text: Text of the number.
        what: Subject of the error message.
        **fields: Fields of the `SMCDError` other than `value`.

    Raises:
        SMCDError: The text is not a finite number below 1e9; `value` is the stripped text.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_COORDINATE:
        raise SMCDError(
            f"{what} {text.strip()!r} is not a finite number below {MAX_COORDINATE:g}", value=text.strip(), **fields
        )
    return value


def read_ini(path: Path, section: str) -> dict[str, str]:
    """Returns the keys (lower case) and values of one section of an INI file.

    Raises:
        SMCDError: The file is not in INI format, or has no such section (`argument` names it).
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path))
    except configparser.Error as error:
        raise SMCDError(f"{path}: not an ini file: {error}", path=path) from error
    if not parser.has_section(section):
        raise SMCDError(f"{path}: no section [{section}]; found {parser.sections()}", argument=section, path=path)
    return dict(parser[section])


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file; duplicate keys are an error.

    Raises:
        SMCDError: The file is not JSON (the message names line and column), or an object repeats a key (`argument`).
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, source: str) -> Any:
    """Returns the content of a JSON text, as `read_json`; `source` is the name of the file in errors."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique_keys(pairs, source))
    except SMCDError:
        raise
    except (ValueError, RecursionError) as error:
        raise SMCDError(f"{source}: not JSON: {error}", path=source) from error


def format_number(value: float) -> str:
    """Returns a number as text with at most 4 decimals and no trailing zeros: `300`, `108.57`."""
    text = f"{value:.4f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _unique_keys(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise SMCDError(
            f"{source}: key {repeated!r} occurs twice in one object; keep one", argument=repeated, path=source
        )
    return keys


def _any_of(numbers: Collection[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))
