"""Job queue: one worker thread generates the videos one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.clip import Clip, check_clip
from smcd_jax.pipeline.clip_run import finish_clip, kept_files, make_clip
from smcd_jax.runtime.progress import Advance, Progress
from smcd_jax.studio.results import FORMATS, Entry, Results

logger = logging.getLogger(__name__)

FINAL = ("done", "failed", "cancelled")
MOST_WAITING = 2000
_MOST_FINISHED = 500  # number of finished jobs that are listed; their results stay in the history
_STATES = {"load": "loading", "compile": "compiling", "denoise": "sampling", "decode": "decoding", "write": "writing"}


class QueueFullError(SMCDError):
    """Raised if too many jobs are waiting."""


class _StopJob(BaseException):
    """Raised to end a job between two steps; not an `Exception`, so that error handlers do not catch it."""


@dataclasses.dataclass(eq=False)
class Job:
    """A requested video and its state; the worker writes it, and any thread may read it.

    Attributes:
        entry: Folder of the job.
        state: "queued", "loading", "compiling", "sampling", "decoding", "writing", "done", "failed" or "cancelled".
        step: Number of completed steps of sampling or decoding.
        steps: Number of steps, 0 if unknown.
        error: One line about a failure, or None.
        notes: Remarks about the inputs, one line each.
        stopping: Whether the job must end after the current step.
        version: Number of changes so far.
        resumed: Whether the job only decodes a sample that an earlier server kept.
    """

    entry: Entry
    state: str = "queued"
    step: int = 0
    steps: int = 0
    error: str | None = None
    notes: tuple[str, ...] = ()
    stopping: bool = False
    version: int = 0
    resumed: bool = False

    def change(self, **values: Any) -> None:
        """Sets attributes and counts the change."""
        for name, value in values.items():
            setattr(self, name, value)
        self.version += 1

    def described(self, position: int) -> dict[str, Any]:
        """Returns the description for clients; ``position`` is the number of jobs before this one."""
        settings = self.entry.settings
        return {
            "id": self.entry.id,
            "state": self.state,
            "position": position,
            "step": self.step,
            "steps": self.steps,
            "video": None,
            "videos": settings["num_videos"],
            "error": self.error,
            "notes": list(self.notes),
            "created": self.entry.created,
            "result": self.entry.id if self.state == "done" else None,
            "settings": {name: value for name, value in settings.items() if name != "pictures"},
        }


class JobQueue:
    """Queue of jobs and its worker thread; all methods are thread-safe."""

    def __init__(self, pipelines: Mapping[str, VideoPipeline], results: Results):
        self._pipelines, self._results = pipelines, results
        self._waiting: deque[Job] = deque()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self.closing = False
        self._thread = threading.Thread(target=self._work, name="smcd-studio-worker", daemon=True)

    def start(self) -> None:
        """Resumes the unfinished jobs of an earlier server, and starts the worker.

        A kept sample is decoded, and an interrupted one is continued. Other jobs are listed as failed, since one of
        them may have stopped the server.
        """
        for entry in self._results.unfinished():
            job = Job(entry)
            complete = entry.files.latents.exists()
            if (complete or entry.files.partial.exists()) and entry.settings.get("model") in self._pipelines:
                job.resumed = complete
                self._waiting.append(job)
            else:
                job.change(state="failed", error="the studio was stopped before this video was made; start it again")
            self._jobs[entry.id] = job
        self._thread.start()

    def check(self, entry: Entry) -> Clip:
        """Reads and checks the inputs of a job, as the command line does.

        Raises:
            SMCDError: An input or option is wrong.
        """
        try:
            pipeline = self._pipelines[entry.settings["model"]]
            return check_clip(entry.arguments(), pipeline, formats=FORMATS[1:], base=entry.folder)
        except SMCDError as error:
            raise error.reworded(str(error).replace(f"{entry.folder}/", "")) from error

    def check_room(self) -> None:
        """Raises QueueFullError if too many jobs are waiting."""
        if len(self._waiting) >= MOST_WAITING:
            raise QueueFullError(f"{MOST_WAITING} videos are already waiting; try again later", argument="jobs")

    def add(self, entry: Entry) -> Job:
        """Appends a job whose inputs have been checked."""
        job = Job(entry)
        with self._changed:
            self._jobs[entry.id] = job
            self._waiting.append(job)
            self._forget_old()
            self._changed.notify()
        return job

    def get(self, job_id: str) -> Job:
        """Returns a job.

        Raises:
            SMCDError: There is no such job.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise SMCDError("no such job; finished videos are in the history", argument="id", value=job_id[:60])
        return job

    def described(self, job: Job) -> dict[str, Any]:
        """Returns the description of a job for clients."""
        with self._changed:
            position = self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0
            return job.described(position)

    def all_described(self) -> list[dict[str, Any]]:
        """Returns the descriptions of all remembered jobs, oldest first."""
        with self._changed:
            ahead = int(self._running is not None)
            positions = {job.entry.id: index + ahead for index, job in enumerate(self._waiting)}
            return [job.described(positions.get(job_id, 0)) for job_id, job in self._jobs.items()]

    def cancel(self, job: Job) -> None:
        """Cancels a job: immediately if it is waiting, or between two steps if it is running."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.change(state="cancelled")
                self._results.remove(job.entry.id)
            elif job.state not in FINAL:
                job.stopping = True

    def is_active(self, entry_id: str) -> bool:
        """Returns whether the job with this id is waiting or running."""
        job = self._jobs.get(entry_id)
        return job is not None and job.state not in FINAL

    def close(self) -> None:
        """Requests the running job to end between two steps; its sample is kept for the next start."""
        with self._changed:
            self.closing = True
            if self._running is not None:
                self._running.stopping = True
            self._changed.notify_all()

    def wait_closed(self, seconds: float) -> bool:
        """Waits for the worker to end; returns whether it has."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.closing or self._waiting)
                if self.closing:
                    return
                self._running = job = self._waiting.popleft()
            try:
                self._run(job)
            finally:
                with self._changed:
                    self._running = None
                    self._forget_old()

    def _run(self, job: Job) -> None:
        entry, progress = job.entry, _JobProgress(job)
        job.change(state="loading")
        try:
            pipeline = self._pipelines[entry.settings["model"]]
            for other in self._pipelines.values():  # memory holds the weights of one model at a time
                if other is not pipeline and other.components.loaded:
                    other.components.unload()
            if job.resumed:
                files, _ = kept_files(entry.files.latents, formats=FORMATS[1:])
                finish_clip(pipeline, files, changes={}, progress=progress)
            else:
                clip = self.check(entry)
                job.notes = tuple(note.replace(f"{entry.folder}/", "") for note in clip.notes)
                progress.check()
                make_clip(pipeline, clip, progress=progress)
            job.change(state="done")
        except _StopJob:
            job.change(state="cancelled")
            if not self.closing:
                self._results.remove(entry.id)
        except BaseException as error:  # a failing job must not end the worker
            logger.debug("job %s failed", entry.id, exc_info=True)
            message = _one_line(error).replace(f"{entry.folder}/", "")
            logger.warning("a video failed: %s", message)
            job.change(state="failed", error=message)
            if not (entry.files.latents.exists() or entry.files.partial.exists()):
                self._results.remove(entry.id)

    def _forget_old(self) -> None:
        finished = [job_id for job_id, job in self._jobs.items() if job.state in FINAL]
        for job_id in finished[: max(0, len(finished) - _MOST_FINISHED)]:
            del self._jobs[job_id]


class _JobProgress(Progress):
    """Progress reporting that updates a job, and ends it between two steps on request."""

    live = True

    def __init__(self, job: Job):
        self._job = job

    def check(self) -> None:
        if self._job.stopping and self._job.state != "writing":
            raise _StopJob

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "it") -> Iterator[Advance]:
        """See `Progress.stage`."""
        del unit
        state = _STATES.get(name.split()[0])
        if state is not None:
            self._job.change(state=state, step=0, steps=total or 0)
        self.check()

        def advance() -> None:
            self._job.change(step=self._job.step + 1)
            self.check()

        yield advance


def _one_line(error: BaseException) -> str:
    if isinstance(error, SMCDError):
        return str(error).splitlines()[0]
    if isinstance(error, MemoryError):
        return "out of memory on this machine; request fewer or smaller frames"
    if isinstance(error, OSError):
        return f"{(error.strerror or str(error)).lower()}; check the free space of the output folder"
    text = " ".join(str(error).split())
    return f"internal error ({type(error).__name__}: {text[:200]}); restart smcd studio with --debug to see more"
