"""Checks that several modules of the pipeline share."""

from __future__ import annotations

import os
from typing import Any

from smcd_jax.errors import SMCDError


def require(met: bool, name: str, condition: str, value: Any) -> None:
    """Raises an error for a value that does not meet its condition.

    Args:
        met: Whether the condition is met.
        name: Name of the argument.
        condition: Condition as text, to follow "must be".
        value: Value of the argument.

    Raises:
        SMCDError: The condition is not met.
    """
    if not met:
        raise SMCDError(f"{name} must be {condition}, got {value!r}", argument=name, value=value)


def require_bad_share(
    bad: int, total: int, max_bad_share: float, *, where: str, example: str, path: str | os.PathLike[str] | None = None
) -> None:
    """Raises an error for a data set in which too many clips are bad.

    Args:
        bad: Number of bad clips.
        total: Number of clips.
        max_bad_share: Largest share of bad clips, 0 to 1.
        where: Data set or folder, for the message.
        example: Reason of one bad clip, or counts by kind.
        path: File or folder at fault.

    Raises:
        SMCDError: The share of bad clips exceeds `max_bad_share`.
    """
    if bad > max_bad_share * total:
        raise SMCDError(
            f"{where}: {bad} of {total} clips are bad, more than max_bad_share={max_bad_share:g} allows; fix or "
            f"prepare the data again, or raise max_bad_share; for example {example}",
            argument="max_bad_share",
            path=path,
            value=bad,
        )
