"""How checkpoints use Orbax: its manager and handlers, reading arrays by name, and its log kept to warnings."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
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

CONCURRENT_GB = 8  # of arrays that are read, or written, at the same time


def make_manager(
    folder: Path, *, max_to_keep: int, keep_every: int | None, failures: list[Exception]
) -> ocp.CheckpointManager:
    """A manager that keeps the newest ``max_to_keep`` steps and every multiple of ``keep_every``.

    It deletes an old step only when the new one is whole, and removes what killed saves have left. Every process must
    call it. What fails on this process while it saves in the background is added to ``failures`` at once: where there
    are other processes, Orbax first waits for them for many minutes.
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

    def barrier_unless_failed(**options: Any) -> None:
        if failures:
            raise failures[0]
        barrier(**options)

    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
        cleanup_tmp_directories=True,
        async_options=ocp.options.AsyncOptions(
            barrier_sync_fn=barrier_unless_failed,
            create_directories_asynchronously=False,  # else, if one cannot be made, writers wait for it for minutes
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
    """Begins to save arrays by item and name, and JSON values by item."""
    trees = {item: ocp.args.PyTreeSave(unflatten_dict(dict(named), sep="/")) for item, named in arrays.items()}
    texts = {item: ocp.args.JsonSave(value) for item, value in values.items()}
    manager.save(step, args=ocp.args.Composite(**trees, **texts), force=True)


def read_arrays(folder: Path, wanted: Mapping[str, jax.ShapeDtypeStruct | None]) -> dict[str, Any]:
    """Arrays of one item by name, in the order asked for; a flipped bit passes unseen.

    Args:
        folder: STEP/ITEM.
        wanted: where to place each; on the host, as it is there, for None.

    Raises:
        DamagedStep: it cannot be read.
        SMCDError: it may be whole, but permissions or memory do not suffice.
    """
    _keep_log_to_warnings()
    targets = {name: 0 if leaf is None else leaf for name, leaf in wanted.items()}
    how = {name: _restore_args(leaf) for name, leaf in wanted.items()}
    args = ocp.args.PyTreeRestore(
        item=unflatten_dict(targets, sep="/"), restore_args=unflatten_dict(how, sep="/"), partial_restore=True
    )
    try:
        tree = _array_handler().restore(epath.Path(folder), args=args)
        found = flatten_dict(tree, sep="/")
        return {name: found[name] for name in wanted}
    except Exception as error:  # Orbax and TensorStore raise many kinds for files that are not as written
        logging.getLogger(__name__).debug("restoring %s", folder, exc_info=True)
        reason, no_memory = reason_of(error), isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    _forget_abandoned_reads()
    if no_memory:
        raise SMCDError(f"{folder} does not fit into memory ({reason}); shard over more devices")
    if "permission denied" in reason.lower():
        raise SMCDError(f"{folder} cannot be read ({reason}); mend its permissions")
    raise DamagedStep(f"{folder.name} cannot be restored: {reason}")


def reason_of(error: BaseException) -> str:
    """The first line of the error at the root of it all, cut to what a person reads."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = getattr(error, "strerror", None) or str(error).strip().split("\n")[0] or type(error).__name__
    text = " ".join(re.split(r" \[(tensorstore_spec|os_error_code|source locations)(\[\d+\])?=", text)[0].split())
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-135:]}"  # TensorStore comes to the point at the end


def _restore_args(leaf: jax.ShapeDtypeStruct | None) -> Any:
    if leaf is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    if leaf.sharding is None:
        raise ValueError("arrays to restore need a sharding")
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, dtype=leaf.dtype, sharding=leaf.sharding, global_shape=leaf.shape, strict=True
    )


def _array_handler() -> ocp.PyTreeCheckpointHandler:
    """Without compression: parameters and moments do not compress."""
    return ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=CONCURRENT_GB, restore_concurrent_gb=CONCURRENT_GB, use_compression=False
    )


class _Watched:
    """A future of Orbax whose failure is noted."""

    def __init__(self, future: Any, failures: list[Exception]):
        self._future, self._failures = future, failures

    def result(self, timeout: float | None = None) -> Any:
        with _noted(self._failures):
            return self._future.result(timeout=timeout)

    def cancel(self) -> None:
        self._future.cancel()


def _watch(handler: Any, failures: list[Exception]) -> None:
    async_save, finalize = handler.async_save, handler.finalize

    async def watched_save(*args: Any, **options: Any) -> list[_Watched]:
        return [_Watched(future, failures) for future in await async_save(*args, **options) or ()]

    def watched_finalize(*args: Any, **options: Any) -> None:
        with _noted(failures):
            finalize(*args, **options)

    handler.async_save, handler.finalize = watched_save, watched_finalize


@contextlib.contextmanager
def _noted(failures: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, it is raised again
        failures.append(error)
        raise


def _forget_abandoned_reads() -> None:
    """Collects what Orbax has given up after the first read of a restore failed: up to hundreds of other reads.

    Of each, Python would say at some time that nobody has waited for it; TensorStore may still end some later.
    """
    _silence_abandoned_reads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


@functools.cache
def _silence_abandoned_reads() -> None:
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        of_read = code is not None and "orbax" in code.co_filename
        if not of_read and str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def is_wanted(record: logging.LogRecord) -> bool:
        text = str(record.exc_info and record.exc_info[1])
        return "never retrieved" not in record.getMessage() or not re.search("OCDBT|tensorstore|array index", text)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(is_wanted)


def _keep_log_to_warnings() -> None:
    """Orbax tells every phase of every save; what fails is told by us, in one line."""
    logging.getLogger("absl").addFilter(_is_wanted)  # adding it again changes nothing


def _is_wanted(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname
