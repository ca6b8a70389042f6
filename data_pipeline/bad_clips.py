"""Owns the count of damaged clips that the pipeline met: they are shown, replaced, and too many of them end the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)


class DamageLog:
    """Which clips could not be used, by data set. Shared by threads."""

    def __init__(self, data_sets: Sequence[tuple[str, int]], max_bad_share: float):
        """Starts empty.

        Args:
            data_sets: name and number of clips of each; several may have the same name.
            max_bad_share: the share of a data set's clips that may be damaged, 0 to 1.

        Raises:
            SMCDError: the share is out of range.
        """
        if not 0 <= max_bad_share <= 1:
            raise SMCDError(f"max_bad_share is {max_bad_share}; use a share from 0 to 1")
        self._data_sets, self._max_bad_share = tuple(data_sets), max_bad_share
        self._reasons: tuple[dict[str, str], ...] = tuple({} for _ in data_sets)
        self._lock = threading.Lock()

    @property
    def reasons(self) -> tuple[dict[str, str], ...]:
        """What is wrong, by clip id, for each data set; of clips met so far."""
        with self._lock:
            return tuple(dict(reasons) for reasons in self._reasons)

    def note(self, source: int, clip_id: str, error: BadClip) -> None:
        """Counts and logs a damaged clip, once however often it is met.

        Raises:
            SMCDError: there are now more than the stated share.
        """
        with self._lock:
            known = self._reasons[source]
            new = clip_id not in known
            known.setdefault(clip_id, error.reason)
            count, (name, size) = len(known), self._data_sets[source]
        if not new:
            return
        logger.warning("clip %s is skipped: %s", clip_id, error.reason)
        if count > self._max_bad_share * size:
            raise SMCDError(
                f"{name}: {count} of {size} clips are damaged, more than the share of {self._max_bad_share:g} that "
                f"may be; the last: {error.reason}. Prepare the data set again, or raise max_bad_share"
            )
