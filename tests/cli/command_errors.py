"""Gives tests the error that ended a command."""

from __future__ import annotations

import sys
from unittest import mock

from smcd_jax import cli
from smcd_jax.cli import main
from smcd_jax.errors import SMCDError


def failure(arguments: list[str]) -> SMCDError:
    """Runs a command that must exit with status 2 and returns the error that caused it."""
    found = []

    def report(message: str, debug: bool, prefix: str = "error: ") -> None:
        found.append(sys.exception())
        shown(message, debug, prefix)

    shown = cli._report
    with mock.patch.object(cli, "_report", report):
        assert main(arguments) == 2
    (error,) = found
    return error
