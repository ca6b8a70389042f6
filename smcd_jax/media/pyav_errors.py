"""Conversion of PyAV's exceptions to `SMCDError`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av

from smcd_jax.errors import SMCDError


@contextlib.contextmanager
def pyav_errors_as_ours(message: Callable[[str], str], path: Path) -> Iterator[None]:
    """Turns the errors of PyAV in the block into an `SMCDError` about ``path``."""
    try:
        yield
    except av.FFmpegError as error:
        raise SMCDError(message((error.strerror or type(error).__name__).lower()), path=path) from error
