"""Exact resuming in the real loop: after a kill at any moment, after a stop request, and on another mesh."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from smcd_jax.training.signals import EXIT_RESTART
from tests.training.training_run import (
    Files,
    assert_like,
    assert_same_run,
    change_batches,
    checkpoint_steps,
    logged_losses,
    share_programs,
    start_training,
    train_here,
    training_files,
    wait_for,
)

STEPS = 12
# Steps are saved and logged at different intervals, so that runs also resume in the middle of a logging interval.
EVERY = ("run.save_every=3", "run.log_every=2", "run.max_to_keep=2")
# A run that is to be killed waits at this step, so that it is still running when the signal arrives, however busy the
# machine is. Three log lines have been written by then.
AT_MOST = 5
START = 6.0  # approximate time in seconds until a process takes its first step


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


def log_of(workdir: Path) -> Path:
    return workdir.with_suffix(".log")


def begin(files: Files, workdir: Path, steps: int, **told: object):
    workdir.parent.mkdir(exist_ok=True)
    return start_training(files, workdir, *EVERY, f"run.steps={steps}", log=log_of(workdir), told=told)


def finish(files: Files, workdir: Path, steps: int) -> None:
    process = begin(files, workdir, steps)
    assert process.wait(timeout=500) == 0, log_of(workdir).read_text()


def kill(files: Files, workdir: Path, steps: int, *, chance: random.Random, early: bool) -> None:
    """Starts the run and kills it at a random moment: during its start, or during one of its first steps or saves."""
    log, before = log_of(workdir), checkpoint_steps(workdir)
    seen, lines = len(log.read_text()) if log.exists() else 0, chance.randint(1, 3)
    process = begin(files, workdir, steps, hold_after=AT_MOST)
    if early:
        time.sleep(chance.uniform(0, START))
    else:
        assert wait_for(process, lambda: log.read_text()[seen:].count("| loss") >= lines), log.read_text()
        time.sleep(chance.uniform(0, 2))  # a save takes about a second; the run waits at step AT_MOST
    process.kill()
    assert process.wait(timeout=200) == -signal.SIGKILL, log.read_text()
    assert max(checkpoint_steps(workdir), default=0) >= max(before, default=0)


def tell_to_stop(files: Files, workdir: Path, steps: int) -> None:
    """Starts the run and sends SIGTERM between its second and third steps."""
    log, go = log_of(workdir), workdir.with_suffix(".go")
    seen = len(log.read_text()) if log.exists() else 0
    process = begin(files, workdir, steps, hold_after=2, until=str(go))
    assert wait_for(process, lambda: "| loss" in log.read_text()[seen:]), log.read_text()
    process.terminate()
    assert wait_for(process, lambda: "SIGTERM: stopping" in log.read_text()[seen:]), log.read_text()
    go.touch()
    assert process.wait(timeout=200) == EXIT_RESTART, log.read_text()


def test_a_run_that_was_killed_and_stopped_equals_an_uninterrupted_run(files, tmp_path):
    straight, workdir, chance = tmp_path / "straight", tmp_path / "run", random.Random(1)
    uninterrupted = begin(files, straight, STEPS, tensorflow=True)
    kill(files, workdir, STEPS, chance=chance, early=False)
    tell_to_stop(files, workdir, STEPS)
    said = log_of(workdir).read_text()
    stopped = int(re.search(r"stopped by SIGTERM after step (\d+)", said)[1])
    assert stopped == checkpoint_steps(workdir)[-1] < STEPS
    finish(files, workdir, STEPS)
    assert uninterrupted.wait(timeout=500) == 0, log_of(straight).read_text()
    assert f"resuming after step {stopped}" in log_of(workdir).read_text()
    assert_same_run(straight, workdir, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_killed_at_twenty_random_moments_equals_an_uninterrupted_run(files, tmp_path):
    straight, workdir, chance = tmp_path / "straight", tmp_path / "run", random.Random(0)
    steps = 20 * AT_MOST + 4
    finish(files, straight, steps)
    for number in range(20):
        kill(files, workdir, steps, chance=chance, early=number % 3 == 1)
    finish(files, workdir, steps)
    assert_same_run(straight, workdir, steps)
    assert not list((workdir / "checkpoints").glob("*.damaged-*"))
    resumed = {int(step) for step in re.findall(r"resuming after step (\d+)", log_of(workdir).read_text())}
    assert len(resumed) >= 5


# data, fsdp, tensor
MESHES = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2)}
GATHERED = ("mesh.frozen=replicated", "mesh.gather=step")
MORE_MESHES = [(8, 1, 1), (1, 8, 1), (1, 4, 2), (4, 1, 2), (1, 2, 4)]


class OnMeshes:
    """Runs of one config on several meshes in this process, each with the examples that it read."""

    def __init__(self, files: Files, folder: Path):
        self._files, self._folder, self._done = files, folder, {}

    def run(self, shape: tuple[int, int, int], *overrides: str) -> tuple[Path, list]:
        if (shape, overrides) not in self._done:
            workdir = self._folder / "x".join(map(str, (*shape, *overrides)))
            self._done[shape, overrides] = workdir, self.train(workdir, shape, 6, *overrides)
        return self._done[shape, overrides]

    def train(self, workdir: Path, shape: tuple[int, int, int], steps: int, *overrides: str) -> list:
        """Trains and returns the clips and first frames of every batch."""
        mesh = [f"mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), shape, strict=True)]
        mesh += overrides
        examples = []
        with pytest.MonkeyPatch.context() as patch:
            share_programs(patch)
            change_batches(patch, lambda _, batch: examples.append((batch.clip_ids, batch.starts.tolist())) or batch)
            devices = int(np.prod(shape))
            assert train_here(self._files, workdir, *EVERY, *mesh, f"run.steps={steps}", devices=devices) == 0
        return examples


@pytest.fixture(scope="module")
def on_meshes(files, tmp_path_factory) -> OnMeshes:
    return OnMeshes(files, tmp_path_factory.mktemp("meshes"))


@pytest.mark.parametrize("devices", [*(pytest.param(count, marks=pytest.mark.slow) for count in (2, 4)), 8])
def test_every_mesh_sees_the_same_examples_and_gives_the_same_result(on_meshes, devices):
    workdir, examples = on_meshes.run(MESHES[devices])
    alone, same_examples = on_meshes.run(MESHES[1])
    assert examples == same_examples
    assert len(examples) == 6
    assert_like(workdir, alone, 6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", MORE_MESHES, ids=str)
def test_further_meshes_give_the_same_result(on_meshes, shape):
    workdir, examples = on_meshes.run(shape)
    alone, same_examples = on_meshes.run(MESHES[1])
    assert examples == same_examples
    assert_like(workdir, alone, 6)


def test_gathered_parameters_give_the_same_result(on_meshes):
    workdir, _ = on_meshes.run(MESHES[8], *GATHERED)
    alone, _ = on_meshes.run(MESHES[1])
    assert_like(workdir, alone, 6)


def test_a_run_saved_on_one_mesh_resumes_on_others(on_meshes, tmp_path):
    alone, examples = on_meshes.run(MESHES[1])
    workdir = tmp_path / "run"
    seen = on_meshes.train(workdir, MESHES[2], 3)
    seen += on_meshes.train(workdir, MESHES[8], 5, *GATHERED)
    seen += on_meshes.train(workdir, MESHES[1], 6)
    assert seen == examples
    assert_like(workdir, alone, 6)
    assert {1, 2, 4, 5, 6} <= set(logged_losses(workdir))
