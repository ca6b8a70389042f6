"""The one exception that users see: a single line that says what was wrong, where, and what to do."""

from __future__ import annotations


class SMCDError(ValueError):
    """An error a user can cause and mend.

    The message is one line: what was wrong, where (file, object, frame, value), and what to do. Where two things do not
    fit each other, lines of a table that compares them may follow.
    The command line prints that line and exits with status 2; ``--debug`` shows the traceback as well.
    """

    def __init__(self, message: str, *, table: str = ""):
        super().__init__("\n".join([" ".join(message.split()), *table.splitlines()]))
