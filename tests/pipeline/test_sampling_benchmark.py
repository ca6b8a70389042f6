"""`smcd bench sample` on a small program instead of a network: what is measured, in which order and how."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.diffusion.samplers import initial_state
from smcd_jax.pipeline import benchmark
from smcd_jax.pipeline.benchmark import SamplingBenchmark, measure_sampling
from smcd_jax.pipeline.sampling_program import SamplingProgram
from smcd_jax.runtime.device_turns import DeviceTurns

STEPS = 4


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Replaces the program by one that adds the weight once per step; returns the policies that it is made for."""
    monkeypatch.setenv("SMCD_CACHE_DIR", "")
    monkeypatch.setattr(benchmark, "measured_flops", lambda *_, **__: 2e9)
    policies = []

    def run(weight, state, table, start, stop):
        step = lambda _, state: state._replace(latents=state.latents @ jnp.eye(3) + weight)  # noqa: E731
        return jax.lax.fori_loop(start, stop, step, state)

    def program(preset, policy, **_):
        policies.append(policy)
        args = (jnp.float32(1), initial_state(jnp.zeros((1, 1, 1, 1, 3))), jnp.zeros(()))
        return SamplingProgram(jax.jit(run), args, 1, STEPS)

    monkeypatch.setattr(benchmark, "sampling_program", program)
    return policies


def test_parts_are_reported_in_order():
    parts = []
    settings = SamplingBenchmark(steps_timed=1, whole_clip=True, step_calls=True, decode=False, profile_steps=2)
    found = measure_sampling(settings, on_measured=parts.append)
    names = ("clip_loop_seconds", "clip_calls_seconds", "profile")
    assert [[getattr(part, name) is not None for name in names] for part in parts] == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert parts[-1] == found
    assert (found.finite, found.compile_seconds > 0, found.profile["steps"]) == (True, True, 2)
    assert json.loads(json.dumps(found.as_dict()))["clip_calls_seconds"] == found.clip_calls_seconds


def test_a_call_per_step_computes_what_one_call_does(monkeypatch):
    """Each call continues with the state of the one before it."""
    ends = []
    measured = benchmark._clip_measures
    monkeypatch.setattr(benchmark, "_clip_measures", lambda name, run: ends.append(run()) or measured(name, run))
    measure_sampling(SamplingBenchmark(steps_timed=1, whole_clip=True, step_calls=True, decode=False))
    one, each = (np.asarray(state.latents) for state in ends)
    np.testing.assert_array_equal(one, each)
    np.testing.assert_array_equal(one, np.full_like(one, STEPS))


@pytest.mark.parametrize(("flags", "kernels"), [([], "mapped"), (["--attention", "xla"], "xla")])
def test_attention_can_be_chosen(flags, kernels, calls, tmp_path, capsys):
    assert main(["bench", "sample", "--no_decode", *flags, "--output", str(tmp_path / "out.json")]) == 0
    assert [policy.attention for policy in calls] == [kernels]
    assert json.loads((tmp_path / "out.json").read_text())["attention"] == kernels
    assert f"attention {kernels}" in capsys.readouterr().out


@pytest.mark.parametrize("kernels", ["cudnn", "flash"])
def test_kernels_of_other_devices_are_refused(kernels, capsys):
    assert main(["bench", "sample", "--no_decode", "--dtype", "bfloat16", "--attention", kernels]) == 2
    assert f"attention must be xla or mapped on CPU, got '{kernels}'" in capsys.readouterr().err


def test_measurements_have_the_device_to_themselves(monkeypatch, tmp_path):
    entered = []

    class Turns(DeviceTurns):
        def compiling(self):
            entered.append("compiling")
            return super().compiling()

        def measuring(self):
            entered.append("measuring")
            return super().measuring()

    monkeypatch.setattr(benchmark, "measured_flops", lambda *_, **__: entered.append("matrix product") or 2e9)
    measure_sampling(SamplingBenchmark(steps_timed=1, decode=False), turns=Turns(tmp_path / "turns"))
    assert entered == ["compiling", "measuring", "matrix product"]
