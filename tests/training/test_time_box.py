"""Runs with a time limit: the learning rate decays with time, the run ends in time, resuming uses the time left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smcd_jax.training.config import OptimizerConfig
from smcd_jax.training.logging.metrics import METRICS_FILE, read_metrics
from smcd_jax.training.optimizer import make_optimizer
from smcd_jax.training.time_box import TimeBox, time_factor
from tests.errors import refused
from tests.training import training_run
from tests.training.training_run import checkpoint_steps, configured, share_programs, train_here, training_files

TIMED = ("run.steps=1000000", "optimizer.schedule=cosine", "optimizer.end_lr_ratio=0.1", "run.save_every=1000000")


class Clock:
    """A clock that advances by one second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made, pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield made


@pytest.fixture
def counted_time(monkeypatch):
    """Replaces the clock of runs with one that advances by one second per call."""
    clock = Clock()
    monkeypatch.setattr(training_run.loop, "TimeBox", lambda minutes, **kwargs: TimeBox(minutes, clock=clock, **kwargs))
    return clock


def test_the_learning_rate_falls_from_all_to_the_end_ratio():
    shares = [0.0, 0.25, 0.5, 1.0, 2.0]
    factors = [float(time_factor(share, 0.2)) for share in shares]
    assert factors == pytest.approx([1.0, 0.2 + 0.4 * (1 + np.cos(np.pi / 4)), 0.6, 0.2, 0.2], abs=1e-6)


def test_updates_are_those_of_a_lower_learning_rate():
    settings = OptimizerConfig(learning_rate=0.1, schedule="cosine", end_lr_ratio=0.0, clip_norm=0.0)
    params, gradient = {"x": jnp.ones(3)}, {"x": jnp.array([1.0, -2.0, 3.0])}
    timed, plain = (make_optimizer(settings, 10, timed=timed) for timed in (True, False))
    state = optax.tree.set(timed.init(params), time_share=jnp.float32(0.5))
    with jax.numpy_dtype_promotion("standard"):  # the training step uses the same promotion
        halved, _ = timed.update(gradient, state, params)
        whole, _ = plain.update(gradient, plain.init(params), params)  # the first step has the full learning rate
    np.testing.assert_allclose(halved["x"], 0.5 * whole["x"], rtol=1e-5)


def test_a_clock_without_a_limit_changes_nothing():
    box = TimeBox(0.0, clock=Clock())
    assert (box.share, box.over, box.seconds_left, box.rate_factor) == (0.0, False, None, 1.0)
    state = object()
    assert box.stamp(state) is state


def test_a_pause_of_the_process_counts_as_five_minutes_at_most():
    clock = Clock()
    box = TimeBox(10.0, clock=clock)
    clock.now += 8 * 3600
    assert box.share == pytest.approx(0.5)
    assert box.share == pytest.approx(0.5 + 1 / 600)


def test_negative_minutes_are_refused(files):
    with refused("run.minutes", value=-1.0):
        configured(files, "run.minutes=-1.0")


def test_a_run_ends_in_time_with_the_lowest_learning_rate_and_the_last_step_saved(
    files, tmp_path, counted_time, monkeypatch
):
    workdir = tmp_path / "run"
    assert train_here(files, workdir, *TIMED, "run.minutes=1") == 0
    lines = read_metrics(workdir / METRICS_FILE)
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert 3 < len(rates) < 60
    assert checkpoint_steps(workdir) == [len(rates)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.1 * 2e-3, rel=1e-3)
    saved = counted_time.now
    monkeypatch.delattr("smcd_jax.training.step.TrainProgram.compile")  # a finished run compiles and trains nothing
    assert train_here(files, workdir, *TIMED, "run.minutes=1") == 0
    assert checkpoint_steps(workdir) == [len(rates)]
    assert counted_time.now < saved + 10


def test_a_resumed_run_uses_the_time_that_is_left(files, tmp_path, counted_time):
    workdir = tmp_path / "run"
    assert train_here(files, workdir, *TIMED, "run.minutes=1", "run.steps=4") == 0
    first = counted_time.now
    assert train_here(files, workdir, *TIMED, "run.minutes=1") == 0
    both = counted_time.now - first
    # Each clock reading counts as a second. The first run has used several of the 60, so that the second has fewer.
    assert both < 60
    assert first + both == pytest.approx(60, abs=12)
    rates = [line["learning_rate"] for line in read_metrics(workdir / METRICS_FILE) if "learning_rate" in line]
    assert rates[4] < rates[3]
    assert rates[-1] == pytest.approx(0.1 * 2e-3, rel=1e-3)
