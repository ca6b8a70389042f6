"""Exact resume through the real loop: killed at any moment, told to stop, moved to another mesh."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from smcd_jax.training.signals import EXIT_AGAIN
from tests.training_run import (
    Files,
    assert_same_run,
    change_batches,
    checkpoint_content,
    checkpoint_steps,
    compile_quickly,
    logged_losses,
    start_training,
    train_here,
    training_files,
    wait_for,
)

STEPS = 12
# Saved steps and lines of the log fall apart, so that a resumed run goes on in the middle of a line's sums.
EVERY = ("run.save_every=3", "run.log_every=2", "run.keep_last=2")
START = 6.0  # seconds a process takes, about, until its first step


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


@pytest.fixture(scope="module")
def straight(files, tmp_path_factory) -> Path:
    """A run that nobody interrupts."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    finish(files, workdir, STEPS)
    return workdir


def log_of(workdir: Path) -> Path:
    return workdir.with_suffix(".log")


def begin(files: Files, workdir: Path, steps: int):
    workdir.parent.mkdir(exist_ok=True)
    return start_training(files, workdir, *EVERY, f"run.steps={steps}", log=log_of(workdir))


def finish(files: Files, workdir: Path, steps: int) -> None:
    process = begin(files, workdir, steps)
    assert process.wait(timeout=500) == 0, log_of(workdir).read_text()


def newest_line(workdir: Path) -> int:
    return max(logged_losses(workdir), default=0)


def interrupt(files: Files, workdir: Path, steps: int, *, number: int, chance: random.Random, early: bool) -> int:
    """Starts the run and sends it a signal at a random moment: while it starts, or while it trains; its status."""
    process = begin(files, workdir, steps)
    if early:
        time.sleep(chance.uniform(0, START))
    else:
        saved = max(checkpoint_steps(workdir), default=0)
        wait_for(process, lambda: newest_line(workdir) > saved + chance.randrange(4))
        time.sleep(chance.uniform(0, 0.2))
    process.send_signal(number)
    return process.wait(timeout=200)


def kill_and_go_on(files: Files, straight: Path, workdir: Path, steps: int, *, tries: int, seed: int) -> int:
    """Kills a run so many times, lets it end, and compares it with the other; how often it was killed while alive."""
    chance, killed = random.Random(seed), 0
    for number in range(tries):
        before = checkpoint_steps(workdir)
        status = interrupt(files, workdir, steps, number=signal.SIGKILL, chance=chance, early=number % 3 == 1)
        killed += status == -signal.SIGKILL
        assert status in (-signal.SIGKILL, 0), log_of(workdir).read_text()
        assert max(checkpoint_steps(workdir), default=0) >= max(before, default=0)
    finish(files, workdir, steps)
    assert_same_run(straight, workdir, steps)
    assert not list((workdir / "checkpoints").glob("*.damaged-*"))
    return killed


def test_killed_and_told_to_stop_it_ends_as_if_nothing_had_happened(files, straight, tmp_path):
    workdir, chance = tmp_path / "run", random.Random(1)
    assert interrupt(files, workdir, STEPS, number=signal.SIGKILL, chance=chance, early=False) == -signal.SIGKILL
    assert interrupt(files, workdir, STEPS, number=signal.SIGTERM, chance=chance, early=False) == EXIT_AGAIN
    said = log_of(workdir).read_text()
    stopped = int(re.search(r"stopped by SIGTERM after step (\d+), which is saved; the same command", said)[1])
    assert stopped == checkpoint_steps(workdir)[-1] < STEPS
    assert kill_and_go_on(files, straight, workdir, STEPS, tries=1, seed=2) == 1
    assert f"resuming after step {stopped}" in log_of(workdir).read_text()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_random_moments(files, tmp_path):
    steps = 120
    finish(files, tmp_path / "straight", steps)
    killed = kill_and_go_on(files, tmp_path / "straight", tmp_path / "run", steps, tries=20, seed=0)
    assert killed >= 15  # the others had come to their end
    resumed = {int(step) for step in re.findall(r"resuming after step (\d+)", log_of(tmp_path / "run").read_text())}
    assert len(resumed) >= 5


# data, fsdp, tensor; float32 sums in another order differ in the last digits, and Adam divides by small moments
MESHES = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2)}
MORE_MESHES = [(8, 1, 1), (1, 8, 1), (1, 4, 2), (4, 1, 2), (1, 2, 4)]
LOSS_TOLERANCE, PARAMETER_TOLERANCE = 2e-4, 2e-3  # of a loss; of the largest value of an array


class OnMeshes:
    """Runs of the same config on several meshes of this process, each with the examples it was given."""

    def __init__(self, files: Files, folder: Path):
        self._files, self._folder, self._done = files, folder, {}

    def run(self, shape: tuple[int, int, int]) -> tuple[Path, list]:
        if shape not in self._done:
            workdir = self._folder / "x".join(map(str, shape))
            self._done[shape] = workdir, self.train(workdir, shape, 6)
        return self._done[shape]

    def train(self, workdir: Path, shape: tuple[int, int, int], steps: int) -> list:
        """Clips and first frames of every batch."""
        mesh = [f"mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), shape, strict=True)]
        examples = []
        with pytest.MonkeyPatch.context() as patch:
            compile_quickly(patch)
            change_batches(patch, lambda _, batch: examples.append((batch.clip_ids, batch.starts.tolist())) or batch)
            devices = int(np.prod(shape))
            assert train_here(self._files, workdir, *EVERY, *mesh, f"run.steps={steps}", devices=devices) == 0
        return examples


@pytest.fixture(scope="module")
def on_meshes(files, tmp_path_factory) -> OnMeshes:
    return OnMeshes(files, tmp_path_factory.mktemp("meshes"))


def assert_like(one: Path, other: Path, step: int) -> None:
    """Within the tolerances above."""
    ours, theirs = logged_losses(one), logged_losses(other)
    for number in sorted({*ours} & {*theirs}):
        for name in ("loss", "gradient_norm"):
            assert ours[number][name] == pytest.approx(theirs[number][name], rel=LOSS_TOLERANCE), (number, name)
    (arrays, place), (others, other_place) = (checkpoint_content(workdir, step) for workdir in (one, other))
    assert place == other_place
    for name, leaf in arrays.items():
        if name.startswith(("params/", "train/ema/")):
            largest = np.abs(others[name]).max() + 0.1
            np.testing.assert_allclose(leaf, others[name], rtol=0, atol=PARAMETER_TOLERANCE * largest, err_msg=name)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_a_mesh_sees_the_same_examples_and_comes_to_the_same(on_meshes, devices):
    workdir, examples = on_meshes.run(MESHES[devices])
    alone, same_examples = on_meshes.run(MESHES[1])
    assert examples == same_examples
    assert len(examples) == 6
    assert_like(workdir, alone, 6)


@pytest.mark.slow
@pytest.mark.parametrize("shape", MORE_MESHES, ids=str)
def test_other_meshes_too(on_meshes, shape):
    workdir, examples = on_meshes.run(shape)
    alone, same_examples = on_meshes.run(MESHES[1])
    assert examples == same_examples
    assert_like(workdir, alone, 6)


def test_saved_on_one_mesh_and_resumed_on_others(on_meshes, tmp_path):
    alone, examples = on_meshes.run(MESHES[1])
    workdir = tmp_path / "run"
    seen = on_meshes.train(workdir, MESHES[2], 3)
    seen += on_meshes.train(workdir, MESHES[8], 5)
    seen += on_meshes.train(workdir, MESHES[1], 6)
    assert seen == examples
    assert_like(workdir, alone, 6)
    assert {1, 2, 4, 5, 6} <= set(logged_losses(workdir))
