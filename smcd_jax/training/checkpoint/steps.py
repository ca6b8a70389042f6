"""Which steps a folder of checkpoints holds, what all processes agree on about them, and damaged ones set aside."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.training.checkpoint.manifest import DamagedStep

logger = logging.getLogger(__name__)


def steps_in(folder: Path) -> list[int]:
    """Numbers of the step folders in a folder, oldest first; whatever else lies there is not looked at."""
    if not folder.is_dir():
        return []
    numbered = [entry for entry in folder.iterdir() if re.fullmatch(r"0|[1-9]\d*", entry.name) and entry.is_dir()]
    return sorted(int(entry.name) for entry in numbered)


def has_damaged_steps(folder: Path) -> bool:
    """Whether `set_aside` has renamed a step here."""
    return any(re.fullmatch(r"\d+\.damaged-\d+", entry.name) for entry in folder.iterdir())


def agreed_steps(folder: Path) -> list[int]:
    """Steps as the first process sees them."""
    steps = steps_in(folder)
    if jax.process_count() == 1:
        return steps
    from jax.experimental.multihost_utils import broadcast_one_to_all

    count = int(broadcast_one_to_all(np.int32(len(steps))))
    padded = np.resize(np.asarray([*steps, 0], np.int32), count)
    return [int(step) for step in broadcast_one_to_all(padded)] if count else []


def agreed(read: Callable[[], Any]) -> Any:
    """What ``read`` returns; `DamagedStep` on every process where it raises that on any."""
    result, reason = None, ""
    try:
        result = read()
    except DamagedStep as damage:
        reason = str(damage)
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import process_allgather

        own = np.frombuffer(reason.encode()[:400].ljust(400), np.uint8)
        reasons = [bytes(row).decode(errors="replace").rstrip() for row in np.asarray(process_allgather(own))]
        reason = next(filter(None, reasons), "")
    if reason:
        raise DamagedStep(reason)
    return result


def set_aside(folder: Path, skipped: Sequence[tuple[int, str]], *, resumed: int) -> None:
    """Renames damaged steps, which Orbax would count and refuse to write again, and says so."""
    for step, reason in skipped if jax.process_index() == 0 else ():
        numbers = (number for number in range(1, 1000) if not (folder / f"{step}.damaged-{number}").exists())
        target = folder / f"{step}.damaged-{next(numbers)}"
        try:
            (folder / str(step)).rename(target)
        except OSError as error:
            raise SMCDError(
                f"{folder}: step {step} is damaged ({reason}) and cannot be renamed to {target.name} "
                f"({error.strerror}); rename or remove it"
            ) from error
        logger.warning(
            "%s: step %d is damaged (%s); resuming from step %d. It is now %s: remove it once looked into",
            *(folder, step, reason, resumed, target.name),
        )
    if skipped and jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("smcd checkpoints set aside")
