"""Log of damaged clips: each is reported once, and too many of them end the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from data_pipeline.checks import require, require_bad_share
from data_pipeline.records.schema import BadClip

logger = logging.getLogger(__name__)


class BadClipLog:
    """Damaged clips by data set. Thread-safe."""

    def __init__(self, data_sets: Sequence[tuple[str, int]], max_bad_share: float):
        """Starts an empty log.

        Args:
            data_sets: Name and number of clips of each data set; names may repeat.
            max_bad_share: Largest share of damaged clips per data set, 0 to 1.

        Raises:
            SMCDError: The share is out of range.
        """
        require(0 <= max_bad_share <= 1, "max_bad_share", "from 0 to 1", max_bad_share)
        self._data_sets, self._max_bad_share = tuple(data_sets), max_bad_share
        self._reasons: tuple[dict[str, str], ...] = tuple({} for _ in data_sets)
        self._lock = threading.Lock()

    @property
    def reasons(self) -> tuple[dict[str, str], ...]:
        """Reasons by clip id, per data set, for the clips read so far."""
        with self._lock:
            return tuple(dict(reasons) for reasons in self._reasons)

    def add(self, source: int, clip_id: str, error: BadClip) -> None:
        """Counts and logs a damaged clip the first time it is read.

        Args:
            source: Index of the data set.
            clip_id: Id of the clip.
            error: Error that names the fault.

        Raises:
            SMCDError: The data set now has more damaged clips than allowed.
        """
        with self._lock:
            known = self._reasons[source]
            if clip_id in known:
                return
            known[clip_id] = error.reason
            count, (name, size) = len(known), self._data_sets[source]
        logger.warning("skipping clip %s: %s", clip_id, error.reason)
        require_bad_share(count, size, self._max_bad_share, where=name, example=error.reason)
