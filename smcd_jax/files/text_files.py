"""Readers of text, number tables, INI and JSON files; their errors name the file and the place in it."""

from __future__ import annotations

import codecs
import configparser
import json
import math
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.files.placeholders import PLACEHOLDER_BYTES, check_is_content

# Annotations of large data sets with masks take a few hundred MiB.
MAX_TEXT_BYTES = 1 << 30
# Far larger than any picture; differences and products of such coordinates stay finite.
MAX_COORDINATE = 1e9


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, or of a UTF-16 file with a byte order mark, without that mark.

    Raises:
        SMCDError: The file is missing, not readable, a Git LFS pointer or similar placeholder, too large, or not text.
    """
    try:
        size = path.stat().st_size
        if size > MAX_TEXT_BYTES:
            raise SMCDError(
                f"{path}: text files must be at most {MAX_TEXT_BYTES >> 20} MiB, got {size >> 20} MiB; check that this "
                "is the right file",
                path=path,
                value=size,
            )
        data = path.read_bytes()
    except OSError as error:
        raise SMCDError(f"{path}: cannot read: {error.strerror}; check the path", path=path) from error
    check_is_content(path, data[:PLACEHOLDER_BYTES])
    return decode_text(data, path)


def decode_text(data: bytes, path: Path) -> str:
    """Decodes the bytes of a text file as `read_text` does; line ends become line feeds."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        name = "UTF-16" if encoding == "utf-16" else "UTF-8"
        raise SMCDError(
            f"{path}: not {name} text (byte {error.start}); check that this is the right file, or save it as UTF-8",
            path=path,
            value=error.start,
        ) from error


def parse_number(text: str, what: str, **fields: Any) -> float:
    """Parses a finite number.

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
    """Parses JSON text as `read_json` does; `source` is the name of the file in errors."""
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique_keys(pairs, source))
    except SMCDError:
        raise
    except (ValueError, RecursionError) as error:
        raise SMCDError(f"{source}: not JSON: {str(error)[:200]}", path=source) from error


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
