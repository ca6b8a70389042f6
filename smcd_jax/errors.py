"""The exception for mistakes a user can correct."""

from __future__ import annotations

import os
from typing import Any


class SMCDError(ValueError):
    """An error that a user can cause and correct.

    The message is one line: what is wrong, where, and what to do. The command line prints it and exits with status 2;
    ``--debug`` adds the traceback. Callers and tests read the attributes, not the wording.

    Attributes:
        argument: Name of the argument, option or config key at fault, or None.
        path: File or folder at fault, as text, or None.
        value: Rejected value, or None.
        table: Lines printed below the message that compare two mismatched inputs, or an empty string.
    """

    def __init__(
        self,
        message: str,
        *,
        argument: str | None = None,
        path: str | os.PathLike[str] | None = None,
        value: Any = None,
        table: str = "",
    ):
        super().__init__("\n".join([" ".join(message.split()), *table.splitlines()]))
        self.argument = argument
        self.path = None if path is None else os.fspath(path)
        self.value = value
        self.table = table

    def reworded(self, message: str, *, path: str | os.PathLike[str] | None = None) -> SMCDError:
        """Returns this error with another message, and with ``path`` if it has no path of its own."""
        return SMCDError(message, argument=self.argument, path=self.path or path, value=self.value)
