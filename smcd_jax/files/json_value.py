"""JsonValue: a value of a JSON file together with its place, for readers that check every key and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import MAX_COORDINATE


@dataclass(frozen=True)
class JsonValue:
    """A value of a JSON file and its place in the file.

    Every check raises an `SMCDError` whose `argument` is the key, `path` the file and `value` the rejected value.

    Attributes:
        data: Value as `json.loads` returns it.
        path: Name of the file; None for a config that comes from no file.
        key: Place of the value, such as `objects[0].label`; empty for the whole content.
    """

    data: Any
    path: str | None
    key: str = ""

    @property
    def place(self) -> str:
        """File and key, for error messages."""
        return ": ".join(part for part in (self.path or "config", self.key) if part)

    def error(self, problem: str, *, got: bool = True) -> SMCDError:
        """Returns the error about this value: `FILE: KEY PROBLEM`, followed by the value if ``got``."""
        value = f", got {self.data!r:.80}" if got else ""
        return SMCDError(f"{self.place} {problem}{value}", argument=self.key or None, path=self.path, value=self.data)

    def get(self, key: str) -> JsonValue:
        """Returns the member of an object; its data is None if the key is missing."""
        if not isinstance(self.data, Mapping):
            raise self.error("must be an object")
        return JsonValue(self.data.get(key), self.path, f"{self.key}.{key}" if self.key else key)

    def member(self, key: str) -> JsonValue:
        """Returns the member of an object; a missing key is an error."""
        member = self.get(key)
        if key not in self.data:
            raise member.error("is missing", got=False)
        return member

    def check_keys(self, required: Sequence[str], optional: Sequence[str] = ()) -> None:
        """Raises SMCDError unless the value is an object with these keys."""
        if not isinstance(self.data, Mapping):
            raise self.error("must be an object")
        known = (*required, *optional)
        for key in self.data:
            if key not in known:
                raise SMCDError(
                    f"{self.place}: unknown key {key!r}; known keys are {', '.join(known)}",
                    argument=self.get(key).key,
                    path=self.path,
                    value=self.data[key],
                )
        for key in required:
            self.member(key)

    def items(self, *, non_empty: bool = False) -> list[JsonValue]:
        """Returns the items of a list."""
        if not isinstance(self.data, list | tuple) or (non_empty and not self.data):
            raise self.error("must be a non-empty list" if non_empty else "must be a list")
        return [JsonValue(item, self.path, f"{self.key}[{index}]") for index, item in enumerate(self.data)]

    def integer(self, *, low: int, high: int) -> int:
        """Returns a whole number from ``low`` to ``high``."""
        if isinstance(self.data, bool) or not isinstance(self.data, int) or not low <= self.data <= high:
            raise self.error(f"must be a whole number from {low} to {high}" if low < high else f"must be {low}")
        return self.data

    def number(self) -> float:
        """Returns a finite number of at most 1e9 in magnitude."""
        is_number = isinstance(self.data, int | float) and not isinstance(self.data, bool)
        # Written so that NaN is rejected too; integers in JSON can be arbitrarily large.
        if not is_number or not abs(self.data) <= MAX_COORDINATE:
            raise self.error(f"must be a finite number below {MAX_COORDINATE:g}")
        return float(self.data)

    def numbers(self, names: Sequence[str]) -> tuple[float, ...]:
        """Returns a list with one number for each of ``names``, such as `x1` and `y1`."""
        if not isinstance(self.data, list | tuple) or len(self.data) != len(names):
            raise self.error(f"must be the {len(names)} numbers [{', '.join(names)}]")
        return tuple(item.number() for item in self.items())
