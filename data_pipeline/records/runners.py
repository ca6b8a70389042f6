"""Getting shards written: by processes on this machine, or by an Apache Beam runner."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from data_pipeline.builders import Source
from data_pipeline.records.shards import ShardTask, write_shard
from smcd_jax.errors import SMCDError

# Names of the command line for runners that Beam knows by longer ones.
_BEAM_RUNNERS = {"direct": "DirectRunner", "dataflow": "DataflowRunner", "flink": "FlinkRunner", "spark": "SparkRunner"}

Done = Callable[[dict[str, Any]], Any]

# The source in a worker process, sent once when it starts rather than with each task.
_source: Source | None = None


def run_here(
    source: Source, tasks: Sequence[ShardTask], *, workers: int, advance: Callable[[int], Any], done: Done
) -> None:
    """Write the shards on this machine.

    Args:
        source: of the clips.
        tasks: the shards.
        workers: processes; one works in this process.
        advance: called with a number of clips when they are done.
        done: called with what `write_shard` returns; what it raises ends the work.

    Raises:
        SMCDError: from `write_shard` or `done`, or a worker process died.
    """
    if workers < 1:
        raise SMCDError(f"{workers} workers write nothing: give at least 1")
    if workers == 1 or len(tasks) < 2:
        for task in tasks:
            seen = _Counter(advance)
            done(write_shard(source, task, seen))
            seen.fill(task.stop - task.start)
        return
    # Not forked: the threads of JAX or TensorFlow, where the caller uses them, do not survive that.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_start_worker, initargs=(source,))
    try:
        waiting = {pool.submit(_write, task): task for task in tasks}
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                task = waiting.pop(future)
                done(future.result())
                advance(task.stop - task.start)
    except BrokenProcessPool as error:
        raise SMCDError(
            "a worker process died, perhaps for want of memory: run it again with fewer --workers, it will go on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def run_on_beam(source: Source, tasks: Sequence[ShardTask], *, runner: str, options: Sequence[str]) -> None:
    """Write the shards with Apache Beam, one element each. All workers must see the raw data and the output folder.

    Args:
        source: of the clips.
        tasks: the shards.
        runner: `direct`, `dataflow`, `flink`, `spark`, or what Beam itself calls one.
        options: arguments of the pipeline, as on Beam's own command line.

    Raises:
        SMCDError: Beam is not installed, or the pipeline failed.
    """
    if importlib.util.find_spec("apache_beam") is None:
        raise SMCDError("--runner needs Apache Beam: pip install 'smcd_jax[beam]' in an environment of its own")
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    pipeline_options = PipelineOptions([f"--runner={_BEAM_RUNNERS.get(runner, runner)}", *options])
    try:
        with beam.Pipeline(options=pipeline_options) as pipeline:
            shards = pipeline | "shards" >> beam.Create(list(tasks)) | "spread" >> beam.Reshuffle()
            # None comes back: what a shard holds is in the file beside it.
            _ = shards | "write" >> beam.Map(functools.partial(_write_for_beam, source))
    except SMCDError:
        raise
    except Exception as error:  # of Beam's many kinds; the traceback stays with --debug
        raise SMCDError(f"the Beam pipeline failed: {_last_line(error)}") from error


class _Counter:
    """Passes clips on to the bar one at a time, and what is left of a shard at its end."""

    def __init__(self, advance: Callable[[int], Any]):
        self._advance, self._count = advance, 0

    def __call__(self) -> None:
        self._count += 1
        self._advance(1)

    def fill(self, total: int) -> None:
        self._advance(total - self._count)


def _start_worker(source: Source) -> None:
    global _source
    _source = source
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once, without a traceback of each worker
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's worker waits for its next task for ever; if the parent was killed there is none."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write(task: ShardTask) -> dict[str, Any]:
    return write_shard(_source, task)


def _write_for_beam(source: Source, task: ShardTask) -> None:
    write_shard(source, task)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
