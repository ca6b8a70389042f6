"""Transfer of batches to devices: the rows a process holds, and prefetching as sharded arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

import jax
from jax.sharding import Mesh

from data_pipeline.batches import HostBatch
from data_pipeline.checks import require
from smcd_jax.errors import SMCDError
from smcd_jax.runtime.sharding import batch_parts, batch_sharding


def local_rows(mesh: Mesh, global_batch: int) -> range:
    """Returns the rows of each global batch that this process's devices hold.

    If the mesh lists devices in process order, these are `batches.host_rows`; if a model is split over processes,
    several of them hold the same rows.

    Args:
        mesh: Device mesh (`batch_sharding`).
        global_batch: Number of examples per batch over all processes.

    Raises:
        SMCDError: The batch is not divisible, or the rows of this process are not consecutive.
    """
    sharding = batch_sharding(mesh)
    shards = batch_parts(mesh)
    multiple = f"a multiple of {shards}, the size of the mesh's batch axes"
    require(global_batch % shards == 0, "global_batch", multiple, global_batch)
    slices = [
        index[0].indices(global_batch) for index in sharding.addressable_devices_indices_map((global_batch,)).values()
    ]
    rows = sorted({row for start, stop, _ in slices for row in range(start, stop)})
    if rows != list(range(rows[0], rows[-1] + 1)):
        raise SMCDError(
            f"rows of process {jax.process_index()} must be consecutive, got {rows}; order the mesh by process",
            argument="mesh",
            value=rows,
        )
    return range(rows[0], rows[-1] + 1)


def prefetch_to_device(
    batches: Iterator[HostBatch], mesh: Mesh, global_batch: int, *, ahead: int = 2
) -> Iterator[HostBatch]:
    """Yields batches as global arrays sharded over a mesh, transferring the next ones while one is in use.

    Args:
        batches: Batches of this process, with the rows of `local_rows`.
        mesh: Device mesh (`batch_sharding`).
        global_batch: Number of rows over all processes.
        ahead: Number of batches on the devices besides the one in use.

    Yields:
        Batches in the same order, with `jax.Array`s instead of NumPy arrays. Each keeps its own state, so prefetching
        does not affect checkpoints.
    """
    sharding = batch_sharding(mesh)

    def place(batch: HostBatch) -> HostBatch:
        arrays = {
            name: jax.make_array_from_process_local_data(sharding, array, (global_batch, *array.shape[1:]))
            for name, array in batch.arrays.items()
        }
        return batch._replace(arrays=arrays)

    waiting = deque(place(batch) for batch in islice(batches, ahead))
    for batch in batches:
        waiting.append(place(batch))
        yield waiting.popleft()
    yield from waiting
