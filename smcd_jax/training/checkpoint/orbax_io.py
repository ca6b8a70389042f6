"""Use of Orbax for checkpoints: manager and handlers, reading arrays by name, and a quieter log."""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import checkpoint_managers

from smcd_jax.errors import SMCDError
from smcd_jax.training.checkpoint.manifest import ARRAY_ITEMS, JSON_FILES, DamagedStep

_MISSING = os.strerror(errno.ENOENT).lower()
CONCURRENT_GB = 8  # limit for arrays that are read, or written, at the same time


def make_manager(
    folder: Path, *, max_to_keep: int, keep_every: int | None, failures: list[Exception]
) -> ocp.CheckpointManager:
    """Returns an Orbax manager; all processes must call it.

    The manager deletes an old step only after the new one is complete, and removes the remains of interrupted saves.

    Args:
        folder: Checkpoints folder.
        max_to_keep: Number of newest steps to keep.
        keep_every: Interval of additional steps to keep; None for no such steps.
        failures: List to which errors of this process in a background save are appended immediately. With several
            processes, Orbax itself raises them only after waiting many minutes for the other processes.
    """
    _keep_log_to_warnings()
    keep = [checkpoint_managers.LatestN(max_to_keep)]
    if keep_every is not None:
        keep.append(checkpoint_managers.EveryNSteps(keep_every))
    handlers = {item: _array_handler() for item in ARRAY_ITEMS}
    handlers |= {item: ocp.JsonCheckpointHandler(filename=name) for item, name in JSON_FILES.items()}
    for handler in handlers.values():
        _watch(handler, failures)
    barrier = ocp.multihost.get_barrier_sync_fn()

    def barrier_unless_failed(**kwargs: Any) -> None:
        if failures:
            raise failures[0]
        barrier(**kwargs)

    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
        cleanup_tmp_directories=True,
        async_options=ocp.options.AsyncOptions(
            barrier_sync_fn=barrier_unless_failed,
            create_directories_asynchronously=False,  # otherwise writers wait minutes if a directory cannot be created
        ),
        save_root_metadata=False,
    )
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def save_items(
    manager: ocp.CheckpointManager,
    step: int,
    *,
    arrays: Mapping[str, Mapping[str, jax.Array]],
    values: Mapping[str, Any],
) -> None:
    """Starts saving arrays, given by item and name, and JSON values, given by item."""
    trees = {item: ocp.args.PyTreeSave(unflatten_dict(dict(named), sep="/")) for item, named in arrays.items()}
    texts = {item: ocp.args.JsonSave(value) for item, value in values.items()}
    manager.save(step, args=ocp.args.Composite(**trees, **texts), force=True)


def read_arrays(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct | None]) -> dict[str, Any]:
    """Returns arrays of one item by name, in the requested order; a flipped bit is not detected.

    Args:
        folder: Folder of the item, STEP/ITEM.
        wanted: Shape, dtype and sharding by name; None for a NumPy array as stored.

    Raises:
        DamagedStep: The item cannot be read.
        SMCDError: Permissions or memory are insufficient; the item may be valid.
    """
    _keep_log_to_warnings()
    targets = {name: 0 if leaf is None else leaf for name, leaf in wanted.items()}
    restore_args = {name: _restore_args(leaf) for name, leaf in wanted.items()}
    args = ocp.args.PyTreeRestore(
        item=unflatten_dict(targets, sep="/"), restore_args=unflatten_dict(restore_args, sep="/"), partial_restore=True
    )
    try:
        tree = _array_handler().restore(epath.Path(folder), args=args)
        found = flatten_dict(tree, sep="/")
        return {name: found[name] for name in wanted}
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        logging.getLogger(__name__).debug("restoring %s", folder, exc_info=True)
        reason, out_of_memory = reason_of(error), isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    _collect_abandoned_reads()
    if out_of_memory:
        raise SMCDError(f"{folder}: does not fit into memory ({reason}); shard over more devices", path=folder)
    if "permission denied" in reason.lower():
        raise SMCDError(f"{folder}: cannot be read ({reason}); fix its permissions", path=folder)
    raise DamagedStep(f"{folder.name} cannot be restored: {reason}")


def reason_of(error: BaseException) -> str:
    """Returns the first line of the original error, at most 200 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = getattr(error, "strerror", None) or str(error).strip().split("\n")[0] or type(error).__name__
    text = " ".join(re.split(r" \[(tensorstore_spec|os_error_code|source locations)(\[\d+\])?=", text)[0].split())
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-135:]}"  # TensorStore puts the cause at the end


def reason_of_failed_save(errors: Sequence[BaseException]) -> str:
    """Returns the reason of the first error of a save that did not follow from another error.

    Orbax writes items at the same time. After one of them has failed, for example because the disk is full, the others
    may miss files and be the first to be reported.
    """
    reasons = [reason_of(error) for error in errors]
    return next((reason for reason in reasons if _MISSING not in reason.lower()), reasons[0])


def _restore_args(leaf: jax.ShapeDtypeStruct | None) -> Any:
    if leaf is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    if leaf.sharding is None:
        raise ValueError("arrays to restore need a sharding")
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=leaf.sharding, global_shape=leaf.shape, strict=True
    )


def _array_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns a handler without compression, which does not help for parameters and optimizer state."""
    return ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=CONCURRENT_GB, restore_concurrent_gb=CONCURRENT_GB, use_compression=False
    )


class _Watched:
    """An Orbax future that records its failure."""

    def __init__(self, future: Any, failures: list[Exception]):
        self._future, self._failures = future, failures

    def result(self, timeout: float | None = None) -> Any:
        with _recorded(self._failures):
            return self._future.result(timeout=timeout)

    def cancel(self) -> None:
        self._future.cancel()


def _watch(handler: Any, failures: list[Exception]) -> None:
    async_save, finalize = handler.async_save, handler.finalize

    async def watched_save(*args: Any, **kwargs: Any) -> list[_Watched]:
        return [_Watched(future, failures) for future in await async_save(*args, **kwargs) or ()]

    def watched_finalize(*args: Any, **kwargs: Any) -> None:
        with _recorded(failures):
            finalize(*args, **kwargs)

    handler.async_save, handler.finalize = watched_save, watched_finalize


@contextlib.contextmanager
def _recorded(failures: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # raised again below
        _silence_abandoned_work()
        failures.append(error)
        raise


def _collect_abandoned_reads() -> None:
    """Garbage-collects the reads that Orbax abandoned after the first failed one, up to hundreds of them.

    Python would otherwise warn later that each of them was never awaited. TensorStore may still finish some of them.
    """
    _silence_abandoned_work()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


@functools.cache
def _silence_abandoned_work() -> None:
    """Hides the errors that other threads report later for reads and writes that Orbax abandoned after a failure."""
    before, before_threads = sys.unraisablehook, sys.excepthook

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        of_orbax = code is not None and "orbax" in code.co_filename
        if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def thread_hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        # TensorStore finishes a write whose event loop is gone, and prints an error from its own thread.
        if str(error) != "Event loop is closed":
            before_threads(kind, error, trace)

    def is_wanted(record: logging.LogRecord) -> bool:
        text = str(record.exc_info and record.exc_info[1])
        return "never retrieved" not in record.getMessage() or not re.search("OCDBT|tensorstore|array index", text)

    sys.unraisablehook, sys.excepthook = hook, thread_hook
    logging.getLogger("asyncio").addFilter(is_wanted)


def _keep_log_to_warnings() -> None:
    """Hides Orbax's messages about every phase of a save, and about errors, which this package reports in one line."""
    logging.getLogger("absl").addFilter(_is_wanted)  # adding it twice has no effect


def _is_wanted(record: logging.LogRecord) -> bool:
    if "orbax" not in record.pathname:
        return True
    return (
        record.levelno >= logging.WARNING and not record.exc_info and "raised an exception" not in record.getMessage()
    )
