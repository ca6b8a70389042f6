"""The steps in a checkpoints folder: listing, reading them consistently on all processes, renaming damaged ones."""

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
    """Returns the numbers of the step folders, oldest first; other files and folders are ignored."""
    if not folder.is_dir():
        return []
    numbered = [entry for entry in folder.iterdir() if re.fullmatch(r"0|[1-9]\d*", entry.name) and entry.is_dir()]
    return sorted(int(entry.name) for entry in numbered)


def has_damaged_steps(folder: Path) -> bool:
    """Returns whether the folder contains a step that `set_aside` has renamed."""
    return any(re.fullmatch(r"\d+\.damaged-\d+", entry.name) for entry in folder.iterdir())


def common_steps(folder: Path) -> list[int]:
    """Returns the steps that process 0 sees, on all processes."""
    steps = steps_in(folder)
    if jax.process_count() == 1:
        return steps
    from jax.experimental.multihost_utils import broadcast_one_to_all

    count = int(broadcast_one_to_all(np.int32(len(steps))))
    padded = np.resize(np.asarray([*steps, 0], np.int32), count)
    return [int(step) for step in broadcast_one_to_all(padded)] if count else []


def read_on_all_processes(read: Callable[[], Any]) -> Any:
    """Returns ``read()``; raises `DamagedStep` on all processes if it raises that on any of them."""
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
    """Renames damaged steps, which Orbax would otherwise count as existing, and logs a warning for each.

    Args:
        folder: Checkpoints folder.
        skipped: (step, reason) of the damaged steps.
        resumed: Step from which the run resumes.

    Raises:
        SMCDError: A step cannot be renamed.
    """
    for step, reason in skipped if jax.process_index() == 0 else ():
        numbers = (number for number in range(1, 1000) if not (folder / f"{step}.damaged-{number}").exists())
        target = folder / f"{step}.damaged-{next(numbers)}"
        try:
            (folder / str(step)).rename(target)
        except OSError as error:
            raise SMCDError(
                f"{folder}: step {step} is damaged ({reason}) and cannot be renamed to {target.name} "
                f"({error.strerror}); rename or delete it",
                path=folder / str(step),
            ) from error
        logger.warning(
            "%s: step %d is damaged (%s); resuming from step %d. It is now %s; delete it after inspection",
            *(folder, step, reason, resumed, target.name),
        )
    if skipped and jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("smcd checkpoints set aside")
