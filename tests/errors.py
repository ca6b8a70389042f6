"""Assertions about errors: an `SMCDError`'s fields, not its wording."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from smcd_jax.errors import SMCDError

_ANY = object()


@contextlib.contextmanager
def refused(argument: str | None = None, *, path: Any = _ANY, value: Any = _ANY) -> Iterator[Any]:
    """Asserts that the block raises a one-line `SMCDError` with these fields; yields pytest's `ExceptionInfo`."""
    with pytest.raises(SMCDError) as record:
        yield record
    error = record.value
    assert "\n" not in str(error).removesuffix("\n" + error.table), "the message must be one line"
    if argument is not None:
        assert error.argument == argument
    if path is not _ANY:
        assert error.path == os.fspath(path)
    if value is not _ANY:
        assert error.value == value
