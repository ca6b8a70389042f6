"""Owns the way of batches to the devices: which rows a process holds, and arrays that are there before their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

import jax
from jax.sharding import Mesh

from data_pipeline.batches import HostBatch
from smcd_jax.errors import SMCDError
from smcd_jax.runtime.sharding import batch_parts, batch_sharding


def local_rows(mesh: Mesh, global_batch: int) -> range:
    """The rows of each global batch that this process's devices hold.

    Where the mesh gives processes their devices in order, these are `batches.host_rows`; where a model is split over
    processes, several of them hold the same rows.

    Raises:
        SMCDError: the batch does not divide, or the rows of this process do not stand together.
    """
    sharding = batch_sharding(mesh)
    shards = batch_parts(mesh)
    if global_batch % shards:
        raise SMCDError(
            f"a global batch of {global_batch} does not divide by the {shards} parts of the mesh's batch axes"
        )
    slices = [
        index[0].indices(global_batch) for index in sharding.addressable_devices_indices_map((global_batch,)).values()
    ]
    rows = sorted({row for start, stop, _ in slices for row in range(start, stop)})
    if rows != list(range(rows[0], rows[-1] + 1)):
        raise SMCDError(f"the rows of process {jax.process_index()} do not stand together: order the mesh by process")
    return range(rows[0], rows[-1] + 1)


def prefetch_to_device(
    batches: Iterator[HostBatch], mesh: Mesh, global_batch: int, *, ahead: int = 2
) -> Iterator[HostBatch]:
    """Batches as global arrays, sharded over a mesh, the next ones on their way while one is in use.

    Args:
        batches: of this process, with the rows of `local_rows`.
        mesh: see `batch_sharding`.
        global_batch: rows of all processes.
        ahead: batches on the devices besides the one in use.

    Yields:
        The same batches in the same order with `jax.Array`s in place of NumPy arrays. Each still has its own state, so
        that prefetching moves no checkpoint.
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
