"""Communication of a training step that gathers each trained parameter once and replicates frozen parameters."""

from __future__ import annotations

import jax
import pytest

from smcd_jax.runtime.hlo_collectives import CollectiveReport, collective_report
from smcd_jax.runtime.sharding import make_mesh
from smcd_jax.training.config import load_config
from smcd_jax.training.step import TrainProgram
from tests.training.training_run import CONFIG_FILE, QUICKLY

OVERRIDES = ("mesh.fsdp=8", "mesh.frozen=replicated", "mesh.gather=step")


@pytest.fixture(scope="module")
def program() -> TrainProgram:
    config = load_config(f"{CONFIG_FILE}:pictures", OVERRIDES)
    return TrainProgram(config, make_mesh(config.mesh))


@pytest.fixture(scope="module")
def traffic(program) -> CollectiveReport:
    with jax.set_mesh(program.mesh):
        lowered = program.step.lower(program.state, program.frozen, program.batch)
        return collective_report(lowered.compile(QUICKLY).as_text())


def test_trained_parameters_are_split_and_frozen_ones_whole(program):
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(program.frozen))
    assert 0 < split_bytes(program) < trained_bytes(program) < 1.2 * split_bytes(program)


def test_each_trained_parameter_is_gathered_once(program, traffic):
    assert traffic.by_kind["all-gather"].payload_bytes == split_bytes(program)


def test_each_gradient_is_summed_once(program, traffic):
    """The CPU compiler sums gradients with all-reduce; the rest of the traffic is sums for the log line."""
    assert set(traffic.by_kind) == {"all-gather", "all-reduce"}
    summed = traffic.by_kind["all-reduce"].payload_bytes
    assert trained_bytes(program) < summed < 1.05 * trained_bytes(program) + 1000


def trained_bytes(program: TrainProgram) -> int:
    return sum(4 * leaf.size for leaf in jax.tree.leaves(program.state.params))


def split_bytes(program: TrainProgram) -> int:
    leaves = jax.tree.leaves(program.state.params)
    return sum(4 * leaf.size for leaf in leaves if not leaf.sharding.is_fully_replicated)
