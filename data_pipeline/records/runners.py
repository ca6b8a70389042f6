"""Writing shards in parallel: with processes on this machine, or with an Apache Beam runner."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from data_pipeline.builders import Source
from data_pipeline.checks import require
from data_pipeline.records.shards import ShardTask, finished_shard, write_shard
from smcd_jax.errors import SMCDError
from smcd_jax.runtime.worker_processes import open_pool

# Short names of Beam runners, for the command line.
_BEAM_RUNNERS = {"direct": "DirectRunner", "dataflow": "DataflowRunner", "flink": "FlinkRunner", "spark": "SparkRunner"}

Done = Callable[[dict[str, Any]], Any]

# Source of a worker process, sent once when the process starts rather than with each task.
_source: Source | None = None


class Runner(Protocol):
    """A way to write shards."""

    def run(self, source: Source, tasks: Sequence[ShardTask], *, advance: Callable[[int], Any], done: Done) -> None:
        """Writes shards.

        Args:
            source: Source of the clips.
            tasks: Shards to write.
            advance: Function called with the number of clips just written.
            done: Function called with the description of each shard; an exception from it ends the work.

        Raises:
            SMCDError: `write_shard` or `done` raised it, or the runner failed.
        """


@dataclass(frozen=True)
class Processes:
    """Writes shards with processes on this machine.

    Attributes:
        workers: Number of processes, at least 1; with 1 the work runs in the calling process.

    Raises:
        SMCDError: `workers` is below 1; from `run`, a worker process died.
    """

    workers: int = 1

    def __post_init__(self):
        require(self.workers >= 1, "workers", "at least 1", self.workers)

    def run(self, source: Source, tasks: Sequence[ShardTask], *, advance: Callable[[int], Any], done: Done) -> None:
        """See `Runner.run`."""
        if self.workers == 1 or len(tasks) < 2:
            for task in tasks:
                counter = _Counter(advance)
                done(write_shard(source, task, counter))
                counter.fill(task.stop - task.start)
            return
        pool = open_pool(min(self.workers, len(tasks)), _start_worker, (source,))
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
                "a worker process died, possibly out of memory; rerun the command with fewer --workers to resume",
                argument="workers",
                value=self.workers,
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Beam:
    """Writes shards with Apache Beam, one element per shard. All workers need access to raw data and output folder.

    Attributes:
        runner: `direct`, `dataflow`, `flink`, `spark`, or the name of any Beam runner.
        options: Pipeline options as on Beam's command line, such as `--direct_num_workers=2`.

    Raises:
        SMCDError: From `run`: Beam is not installed, or the pipeline failed.
    """

    runner: str
    options: Sequence[str] = ()

    def run(self, source: Source, tasks: Sequence[ShardTask], *, advance: Callable[[int], Any], done: Done) -> None:
        """See `Runner.run`; `advance` and `done` are called when the pipeline has ended."""
        if importlib.util.find_spec("apache_beam") is None:
            raise SMCDError(
                "--runner needs Apache Beam; install it with pip install 'smcd_jax[beam]' in a separate environment",
                argument="runner",
                value=self.runner,
            )
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        options = PipelineOptions([f"--runner={_BEAM_RUNNERS.get(self.runner, self.runner)}", *self.options])
        try:
            with beam.Pipeline(options=options) as pipeline:
                shards = pipeline | "shards" >> beam.Create(list(tasks)) | "spread" >> beam.Reshuffle()
                # The pipeline returns nothing: each shard is described by a file beside it.
                _ = shards | "write" >> beam.Map(functools.partial(_write_for_beam, source))
        except SMCDError:
            raise
        except Exception as error:  # Beam raises many types; --debug shows the traceback
            raise SMCDError(
                f"the Beam pipeline failed: {_last_line(error)}", argument="runner", value=self.runner
            ) from error
        for task in tasks:
            done(finished_shard(task))
            advance(task.stop - task.start)


class _Counter:
    """Advances the progress bar clip by clip; at the end of a shard, by its remaining clips."""

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


def _write(task: ShardTask) -> dict[str, Any]:
    return write_shard(_source, task)


def _write_for_beam(source: Source, task: ShardTask) -> None:
    write_shard(source, task)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
