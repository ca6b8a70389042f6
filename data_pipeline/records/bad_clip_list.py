"""The clips that preparation skips; if there are too many, one error lists them with file and reason."""

from __future__ import annotations

from typing import Any

from smcd_jax.errors import SMCDError

MOST_LISTED = 50


class BadClips:
    """Skipped clips of all shards; raises an error that lists them when they exceed the allowed share.

    The error is raised at the end, so that all clips can be fixed at once, or earlier if there are many.
    """

    def __init__(self, name: str, total: int, max_bad_share: float):
        """Starts an empty list.

        Args:
            name: Name of the data set.
            total: Number of its clips.
            max_bad_share: Largest share of bad clips, 0 to 1.
        """
        self._name, self._total, self._max_bad_share = name, total, max_bad_share
        self._reasons: list[str] = []

    def add(self, part: dict[str, Any]) -> None:
        """Adds the bad clips of a finished shard; raises like `check` if there are `MOST_LISTED` or more."""
        self._reasons += [f"{skipped['kind']}: {skipped['reason']}" for skipped in part["skipped"]]
        if len(self._reasons) >= MOST_LISTED:
            self.check(done=False)

    def check(self, *, done: bool) -> None:
        """Raises an error for the data set if too many clips are bad.

        Args:
            done: Whether all shards are finished.

        Raises:
            SMCDError: The share of bad clips exceeds the allowed one, or all clips are bad; `value` is their number.
        """
        count = len(self._reasons)
        if count <= self._max_bad_share * self._total and not (done and count == self._total):
            return
        every = count == self._total
        if every:
            problem = f"all {self._total} clips are bad; fix the raw data"
        else:
            so_far = "" if done else " so far"
            problem = (
                f"{count} of {self._total} clips are bad{so_far}, more than max_bad_share={self._max_bad_share:g} "
                "allows; fix the raw data, or raise max_bad_share"
            )
        listed = [f"  {reason}" for reason in self._reasons[:MOST_LISTED]]
        listed += [f"  and {count - MOST_LISTED} more"] * (count > MOST_LISTED)
        allowed = count <= self._max_bad_share * self._total
        raise SMCDError(
            f"{self._name}: {problem}, and run the same command again",
            argument="source" if allowed else "max_bad_share",
            value=count,
            table="\n".join(listed),
        )
