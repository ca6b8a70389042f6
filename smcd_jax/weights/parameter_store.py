"""Arrays on disk by path, written and read through Orbax in bounded memory, with a checksum for each array."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from smcd_jax.errors import SMCDError

# Arrays read or written at the same time. Orbax alone would process the whole tree at once, with a second copy of each.
CONCURRENT_ARRAYS = 16

logger = logging.getLogger(__name__)


def save_leaves(folder: Path, leaves: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as one Orbax item, which is complete when this returns.

    Args:
        folder: Folder to create.
        leaves: Arrays by path, such as "encoder_0/conv/kernel"; memory-mapped arrays are read as they are written.
    """
    checkpointer, args = _checkpointer()
    checkpointer.save(folder.absolute(), args=args.PyTreeSave(unflatten_dict(dict(leaves), sep="/")))


def restore_leaves(folder: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an Orbax item by path.

    Raises:
        SMCDError: The item is missing or damaged. Orbax does not detect a flipped bit; compare `checksums`.
    """
    if not folder.is_dir():
        raise SMCDError(f"{folder} is missing; the model folder is incomplete, copy or convert it again", path=folder)
    checkpointer, args = _checkpointer()
    try:
        with _unfinished_reads_ignored():
            tree = checkpointer.restore(folder.absolute(), args=args.PyTreeRestore())
    except Exception as error:  # Orbax and TensorStore raise many types for damaged files
        logger.debug("restoring %s", folder, exc_info=True)
        reason = str(error).strip().split("\n")[0][:200]
        message = f"{folder} cannot be restored ({reason}); copy or convert the model folder again"
        raise SMCDError(message, path=folder) from error
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(tree, sep="/").items()}


def checksums(component: str, leaves: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the SHA-256 over dtype, shape and bytes (C order) of each array, by "component/path"."""

    def digest(leaf: np.ndarray) -> str:
        hashed = hashlib.sha256(f"{leaf.dtype.name} {leaf.shape}".encode())
        hashed.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
        return hashed.hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        names = [f"{component}/{path}" for path in leaves]
        return dict(zip(names, pool.map(digest, leaves.values()), strict=True))


@contextlib.contextmanager
def _unfinished_reads_ignored() -> Iterator[None]:
    """Suppresses the tracebacks, up to hundreds, that other threads print after one array cannot be read.

    Orbax stops at the first array that cannot be read and closes its event loop, to which TensorStore still reports the
    other arrays, some of them after this block. The filters therefore stay in place after an error.
    """
    before, log = sys.unraisablehook, logging.getLogger("asyncio")

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def wanted(record: logging.LogRecord) -> bool:
        return "exception was never retrieved" not in record.getMessage()  # logged by a task or a future

    sys.unraisablehook = hook
    log.addFilter(wanted)
    yield
    sys.unraisablehook = before
    log.removeFilter(wanted)


def _checkpointer() -> tuple[Any, Any]:
    """Returns Orbax's checkpointer and arguments; arrays are not copied, and not compressed, which would not help."""
    import jax
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    class ThrottledNumpyHandler(type_handlers.NumpyHandler):
        """Reads and writes at most `CONCURRENT_ARRAYS` arrays at a time."""

        _turns: asyncio.Semaphore | None = None

        async def _open_and_write(self, *args: Any) -> None:
            self._turns = self._turns or asyncio.Semaphore(CONCURRENT_ARRAYS)
            async with self._turns:
                await super()._open_and_write(*args)

        async def deserialize(self, infos: Any, args: Any = None) -> list[np.ndarray]:
            arrays = []
            for start in range(0, len(infos), CONCURRENT_ARRAYS):
                group = slice(start, start + CONCURRENT_ARRAYS)
                arrays += await super().deserialize(infos[group], args and args[group])
            return arrays

    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, ThrottledNumpyHandler(deepcopy_host_arrays=False)), (jax.Array, type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=registry)
    return ocp.Checkpointer(handler), ocp.args
