"""Runs of two real processes with four devices each: kill and resume, a failed save, and resuming in one process."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from smcd_jax.training.signals import EXIT_LOST
from tests.training.training_run import (
    Files,
    assert_like,
    assert_same_run,
    change_batches,
    checkpoint_steps,
    free_port,
    made_once,
    of_all_workers,
    seen_batches,
    share_programs,
    start_training,
    train_here,
    training_files,
    wait_for,
)

STEPS = 6
EVERY = ("run.save_every=2", "run.log_every=1", "run.max_to_keep=9", "mesh.fsdp=2", f"run.steps={STEPS}")
# All processes compute validation and samples, and one writes them; neither number is a multiple of the device count.
LOOKS = (
    *("run.validate_every=3", "run.validation_examples=9"),
    *("run.sample_every=6", "run.samples=3", "run.sample_steps=1"),
)
LOST = (EXIT_LOST, -signal.SIGABRT)  # set by the command or by JAX, whichever notices the loss first
BOUND = 150  # seconds; JAX gives up on a silent process after 100


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


class Pair:
    """Two processes that train one run; their logs and their batches are stored next to its workdir."""

    def __init__(self, files: Files, workdir: Path):
        self.workdir, self._files = workdir, files
        self.logs, self.batches = (
            [workdir.with_suffix(f".{index}.{kind}") for index in (0, 1)] for kind in ("log", "seen")
        )
        self._processes: list[Popen] = []

    def start(self, *more: str, first: dict | None = None, second: dict | None = None) -> list[Popen]:
        """Starts both processes; ``first`` and ``second`` are the arguments of `do_as_told` for each."""
        flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
        self._processes = []
        for index, besides in enumerate((first, second)):
            told = {"batches": str(self.batches[index]), **(besides or {})}
            number = f"--process_id={index}"
            log = self.logs[index]
            words = (*EVERY, *more, *flags, number)
            process = start_training(self._files, self.workdir, *words, devices=4, log=log, told=told)
            self._processes.append(process)
        return self._processes

    def said(self) -> str:
        return "\n".join(log.read_text() for log in self.logs if log.exists())

    def wait_for(self, condition: Callable[[], bool]) -> None:
        assert wait_for(self._processes[0], condition), self.said()

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: f"step {step}/{STEPS} | loss" in self.said())

    def statuses(self, seconds: float = 500) -> list[int]:
        return [process.wait(timeout=seconds) for process in self._processes]

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def pair(files):
    started = []

    def make(workdir: Path) -> Pair:
        started.append(Pair(files, workdir))
        return started[-1]

    yield make
    for each in started:
        each.end()


@pytest.fixture(scope="module")
def together(pair, tmp_path_factory) -> Pair:
    """An uninterrupted run of two processes, made once for all pytest workers."""
    folder = of_all_workers(tmp_path_factory.getbasetemp()) / "together"
    run = pair(folder / "run")
    with made_once(folder) as missing:
        if missing:
            run.start(*LOOKS)
            assert run.statuses() == [0, 0], run.said()
    return run


def test_all_processes_take_part_in_validation_and_samples(together):
    assert len(re.findall(r"\| validation ", together.said())) == 2
    names = ["00000006.png", *(f"00000006_{index}.mp4" for index in range(3))]
    assert sorted(path.name for path in (together.workdir / "samples").iterdir()) == names


def test_a_workdir_that_processes_do_not_share_is_refused(files, tmp_path):
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    logs = [tmp_path / f"{index}.log" for index in (0, 1)]
    told = {"visible_within": 0.5}
    both = [
        start_training(
            files, tmp_path / f"run_{index}", *EVERY, *flags, f"--process_id={index}", devices=4, log=log, told=told
        )
        for index, log in enumerate(logs)
    ]
    assert [process.wait(timeout=300) for process in both] == [2, 2], "\n".join(log.read_text() for log in logs)
    for log in logs:
        assert "of process 0 is not visible to process 1; use a --workdir on a file system" in log.read_text()


def killed_together(run: Pair) -> int:
    """Kills both processes after the fifth step; returns the newest saved step."""
    both = run.start(second={"hold_after": 5})
    run.wait_for_step(5)
    for process in both:
        process.kill()
    assert run.statuses() == [-signal.SIGKILL] * 2
    return checkpoint_steps(run.workdir)[-1]


def killed_alone(run: Pair) -> int:
    """Kills the second process before its fourth step, while the first waits for it; returns the newest saved step."""
    _, second = run.start(second={"hold_after": 3})
    run.wait_for_step(3)
    run.wait_for(lambda: checkpoint_steps(run.workdir) == [2])
    second.kill()
    first, _ = run.statuses(BOUND)
    assert first in LOST, run.said()
    if first == EXIT_LOST:
        assert "smcd: error: process 0: another process of this run has ended or is unreachable" in run.said()
    assert checkpoint_steps(run.workdir) == [2]
    return 2


@pytest.mark.parametrize("killed", [killed_together, pytest.param(killed_alone, marks=pytest.mark.slow)])
def test_killed_processes_resume_with_the_same_results(together, pair, tmp_path, killed):
    run = pair(tmp_path / "run")
    saved = killed(run)
    assert saved in (2, 4)
    run.start()
    assert run.statuses() == [0, 0], run.said()
    assert re.findall(r"resuming after step (\d+)", run.said()) == [str(saved)]
    assert_same_run(together.workdir, run.workdir, STEPS)
    for ours, theirs in zip(run.batches, together.batches, strict=True):
        assert seen_batches(ours) == seen_batches(theirs)


@pytest.mark.slow  # JAX waits a long time for processes that have ended
@pytest.mark.parametrize("fails", [1, 0])
def test_both_processes_end_with_a_reason_if_one_cannot_save(pair, tmp_path, fails):
    run = pair(tmp_path / "run")
    told = {("first", "second")[fails]: {"full_disk_at": 4}}
    processes = run.start("run.save_every=4", "run.steps=12", **told)
    assert processes[fails].wait(timeout=500) == 2, run.said()
    assert processes[1 - fails].wait(timeout=BOUND) in LOST, run.said()
    why = rf"smcd: error: process {fails}: .*the checkpoint of step 4 could not be saved \(No space left on device\)"
    assert len(re.findall(why, run.logs[fails].read_text())) == 1
    assert checkpoint_steps(run.workdir) == []


class TestOneProcess:
    """One process with all eight devices has the same mesh, but sums in another order."""

    def train(self, files: Files, workdir: Path) -> list[list]:
        examples = []

        def note(_: int, batch):
            examples.append([list(row) for row in zip(batch.clip_ids, batch.starts.tolist(), strict=True)])
            return batch

        with pytest.MonkeyPatch.context() as patch:
            share_programs(patch)
            change_batches(patch, note)
            assert train_here(files, workdir, *EVERY, devices=8) == 0
        return examples

    def test_one_process_sees_the_same_examples_and_gives_the_same_result(self, files, together, tmp_path):
        examples = self.train(files, tmp_path / "run")
        halves = [list(seen_batches(file).values()) for file in together.batches]
        assert [first + second for first, second in zip(*halves, strict=True)] == examples
        assert len(examples) == STEPS
        assert_like(tmp_path / "run", together.workdir, STEPS)

    def test_one_process_resumes_a_run_of_two(self, files, together, tmp_path):
        workdir = Path(shutil.copytree(together.workdir, tmp_path / "run"))
        shutil.rmtree(workdir / "checkpoints" / "6")
        examples = self.train(files, workdir)
        halves = [list(seen_batches(file).values())[4:] for file in together.batches]
        assert [first + second for first, second in zip(*halves, strict=True)] == examples
        assert_like(workdir, together.workdir, STEPS)
