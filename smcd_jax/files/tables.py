"""Tables in text files: fields separated by commas, semicolons, tabs or blanks, with or without a header."""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Collection
from pathlib import Path

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import MAX_COORDINATE, read_text

SEPARATORS = "commas, semicolons, tabs or blanks"

_MISSING = frozenset({"", "nan", "-nan", "null", "none", "na", "n/a"})
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMENTS = ("#", "%", "//")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        path: File of the table.
        line: Number of the line, from 1.
        text: The line, stripped.
        fields: Its fields, stripped and without quotes.
    """

    path: Path
    line: int
    text: str
    fields: tuple[str, ...]

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.path}: line {self.line}"

    def error(self, problem: str, value: object) -> SMCDError:
        """Returns the error about this line."""
        return SMCDError(f"{self.where}: {problem}", argument=f"line {self.line}", path=self.path, value=value)

    def check_count(self, expected: Collection[int]) -> None:
        """Raises an SMCDError unless the line has one of these numbers of fields."""
        if len(self.fields) not in expected:
            problem = (
                f"{len(self.fields)} fields in {self.text[:80]!r}, expected {_any_of(expected)}, separated by "
                f"{SEPARATORS}"
            )
            raise self.error(problem, self.text)

    def number(self, index: int, *, missing: bool = False) -> float:
        """Returns a field as a finite number below 1e9, or as NaN for a missing value if ``missing`` is set."""
        text = self.fields[index]
        value = _parsed(text)
        if not abs(value) <= MAX_COORDINATE and not (missing and text.lower() in _MISSING):
            raise self.error(f"{text!r:.80} is not a finite number below {MAX_COORDINATE:g}", text)
        return value

    def is_word(self, index: int) -> bool:
        """Returns whether a field is text: neither a number nor a marker of a missing value."""
        return not self.is_number(index) and self.fields[index].lower() not in _MISSING

    def is_number(self, index: int) -> bool:
        """Returns whether a field is a finite number below 1e9."""
        return abs(_parsed(self.fields[index])) <= MAX_COORDINATE


@dataclasses.dataclass(frozen=True)
class Table:
    """The content of a table: its column names in lower case (empty without a header) and its rows."""

    header: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path, *, limit: int | None = None) -> Table:
    """Returns the rows of a table.

    Each line is split at semicolons, else at tabs, else at commas, else at blanks. Decimal commas are accepted where
    the separator is not a comma. Comment lines at the beginning, blank lines at the end and a separator at the end
    of every line are ignored. A first line without any number is the header.

    Args:
        path: File to read.
        limit: Number of rows to read; None for all.

    Raises:
        SMCDError: The file cannot be read, or a line in the middle is blank (`argument` is the line).
    """
    lines = read_text(path).rstrip().split("\n")
    rows: list[Row] = []
    header: tuple[str, ...] = ()
    for number, line in enumerate(lines, 1):
        if limit is not None and len(rows) == limit:
            break
        text = line.strip()
        if not rows and (not text or text.startswith(_COMMENTS)):
            if not text and number == 1 and len(lines) > 1:
                raise SMCDError(f"{path}: line 1 is blank; remove it", argument="line 1", path=path, value="")
            continue
        if not text:
            raise SMCDError(
                f"{path}: line {number} is blank; write one row per line",
                argument=f"line {number}",
                path=path,
                value="",
            )
        fields = _split(line)
        if not rows and not header and _is_header(fields):
            header = tuple(field.lower() for field in fields)
            continue
        rows.append(Row(path, number, text, fields))
    if rows and all(len(row.fields) > 1 and row.fields[-1] == "" and set(row.fields) != {""} for row in rows):
        rows = [dataclasses.replace(row, fields=row.fields[:-1]) for row in rows]
    return Table(header, tuple(rows))


def read_numbers(path: Path, columns: Collection[int], *, missing: bool = False) -> list[tuple[float, ...]]:
    """Returns the rows of a file of numbers, all of the same length; see `read_table` for the separators.

    Blank lines are allowed at the end only.

    Args:
        path: File to read.
        columns: Allowed numbers of values per line.
        missing: Whether lines that consist of NaN or empty fields are allowed; they become NaN.

    Raises:
        SMCDError: The file is empty, a line is blank or has another number of fields, or a field is not a finite number
            below 1e9. `argument` is the line, such as `line 2`; `value` is the rejected line or field.
    """
    table = read_table(path)
    if not table.rows:
        raise SMCDError(f"{path}: the file is empty; each line must hold {_any_of(columns)} numbers", path=path)
    rows: list[tuple[float, ...]] = []
    for row in table.rows:
        row.check_count([len(rows[0])] if rows else columns)
        numbers = tuple(row.number(index, missing=missing) for index in range(len(row.fields)))
        missed = [index for index, value in enumerate(numbers) if math.isnan(value)]
        if 0 < len(missed) < len(numbers):
            raise row.error(f"a line must hold all numbers or none, got {row.text[:80]!r}", row.fields[missed[0]])
        rows.append(numbers)
    return rows


def _split(line: str) -> tuple[str, ...]:
    separator = next((mark for mark in ";\t," if mark in line.strip()), None)
    if separator is None:
        return tuple(part.strip('"') for part in re.findall(r'"[^"]*"|\S+', line))
    if '"' in line:
        try:
            parts = next(csv.reader([line], delimiter=separator, skipinitialspace=True))
        except csv.Error:  # for example, a field of more than 128 kB
            parts = line.split(separator)
    else:
        parts = line.split(separator)
    stripped = [part.strip() for part in parts]
    if separator != ",":
        stripped = [part.removesuffix(",") for part in stripped]
    return tuple(part.replace(",", ".") if _DECIMAL_COMMA.fullmatch(part) else part for part in stripped)


def _is_header(fields: tuple[str, ...]) -> bool:
    given = [field for field in fields if field.lower() not in _MISSING]
    return len(fields) > 1 and len(given) > 1 and all(re.match(r"[A-Za-z_<\[]", field) for field in given)


def _parsed(text: str) -> float:
    return float(text) if len(text) < 400 and _NUMBER.fullmatch(text) else math.nan


def _any_of(numbers: Collection[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))
