"""The cache folder for compiled programs and plans; it may be deleted at any time."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def cache_folder(name: str) -> Path | None:
    """Returns ``$SMCD_CACHE_DIR/NAME``, or ``~/.cache/smcd_jax/NAME`` if that variable is not set.

    Returns:
        The folder, which may not exist; None if ``SMCD_CACHE_DIR`` is empty, or it is not set and the user has no home
        folder, as in many containers.
    """
    root = os.environ.get("SMCD_CACHE_DIR")
    if root is None:
        try:
            root = str(Path.home() / ".cache" / "smcd_jax")
        except RuntimeError:
            _note_no_home()
            return None
    return Path(root) / name if root else None


@functools.cache
def _note_no_home() -> None:
    logger.warning("no cache of compiled programs: this user has no home folder; set SMCD_CACHE_DIR to a folder")
