"""Commands of the GPU runs parse; figures of commands that run side by side are collected, also without memory."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import math
import sys
from pathlib import Path

import jax
import pytest

from launch.gpu.pack import MOST
from launch.gpu.results import NOT_MEASURED, SAMPLE, TRAIN, rows
from launch.gpu.run import run_all
from launch.gpu.runs import ATTENTION, LIMITS_B, NETWORKS_C, PARTS, ROOT, RUN_B, RUNS, Options, Step, run_b
from launch.train_small import STAGES
from smcd_jax.cli.bench_train import _config
from smcd_jax.models.registry import make_model
from smcd_jax.nn.networks import abstract_params
from smcd_jax.pipeline.benchmark import SamplingBenchmark
from smcd_jax.training.config import load_config
from tests.snapshots.adapters import command_parsers

DEVICES = {"gpu": "smcd", "cpu": "tiny"}
PARSERS = command_parsers()


class Parsed(BaseException):
    """Ends a script after it has parsed its arguments."""


def commands(run: str, device: str) -> list[list[str]]:
    """Returns the commands of a run without `env NAME=VALUE`."""
    steps = RUNS[run](Options(device, DEVICES[device], Path("/results")))
    found = [list(command) for step in steps for command in step.commands]
    return [command[2:] if command[0] == "env" else command for command in found]


def parse_script(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs a script until its arguments are parsed, and returns those that it does not know."""
    known = argparse.ArgumentParser.parse_known_args

    def parse(parser: argparse.ArgumentParser, *args: object) -> None:
        raise Parsed(known(parser, *args)[1])

    module = importlib.import_module(".".join(Path(script).relative_to(ROOT).with_suffix("").parts))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(Parsed) as caught:
        module.main()
    return caught.value.args[0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("run", RUNS)
def test_every_command_parses(run, device, monkeypatch):
    for python, *words in commands(run, device):
        assert python == sys.executable
        if words[:2] != ["-m", "smcd_jax"]:
            with monkeypatch.context() as patch:
                unknown = parse_script(words[0], words[1:], patch)
            networks = (run, device) == ("C", "gpu") and words[0].endswith("train_small.py")
            assert unknown == ([f"--config.model.{setting}" for setting in NETWORKS_C] if networks else [])
            continue
        args = PARSERS[words[2]].parse_args(words[3:])
        if args.benchmark == "train":
            config = _config(args)
            assert (config.name, config.data.batch_size) == ("stage2_scene", args.batch)
            assert config.model.unet.base_channels == {"gpu": 320, "cpu": 32}[device]
            assert args.overrides == [f"remat={config.remat}"]
        else:
            names = (field.name for field in dataclasses.fields(SamplingBenchmark))
            assert SamplingBenchmark(**{name: getattr(args, name) for name in names}).preset == DEVICES[device]


@pytest.mark.parametrize("stage", STAGES[128], ids=lambda stage: stage.name)
def test_the_model_of_run_c_can_be_packed(stage):
    """The exported weights are bfloat16; the tokenizer has 3 MB."""
    config = load_config(f"configs/small/{stage.config}:128", [f"model.{setting}" for setting in NETWORKS_C])
    shapes = [abstract_params(part.config) for part in make_model(config.model).components.values()]
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert 20e6 < numbers < (MOST - 5e6) / 2


class TestRunB:
    def names(self, device: str) -> list[str]:
        return [name for step in run_b(Options(device, DEVICES[device], Path("/results"))) for name in step.parts]

    def test_the_table_has_a_row_for_every_command(self):
        in_table = [f"train_{remat}_{batch}" for remat, batch in TRAIN] + list(SAMPLE)
        assert sorted(self.names("gpu")) == sorted(in_table)
        assert set(self.names("cpu")) <= set(in_table)

    def test_every_command_has_its_own_file_and_shares_its_turns(self):
        for step in run_b(Options("gpu", "smcd", Path("/results"))):
            files = [command[command.index("--output") + 1] for command in step.commands]
            assert files == [f"/results/{PARTS}/{name}.json" for name in step.parts]
            assert {command[command.index("--turns") + 1] for command in step.commands} == {f"/results/{PARTS}/turns"}

    def test_training_comes_first_and_is_profiled(self):
        first = run_b(Options("gpu", "smcd", Path("/results")))[0]
        assert first.parts[0] == "train_none_4"
        assert "--profile_steps" in first.commands[0]
        assert sum("--profile_steps" in command for command in first.commands) == 1

    def test_settings_of_the_sampler_differ(self):
        (step,) = (step for step in run_b(Options("gpu", "smcd", Path("/results"))) if step.name == "sample")
        found = dict(zip(step.parts, step.commands, strict=True))
        for kind in ATTENTION:
            command = found[f"sample_{kind}_8"]
            assert command[command.index("--attention") + 1] == kind
        off = found["sample_no_command_buffers_1"]
        assert off[:2] == ["env", "XLA_FLAGS=--xla_gpu_enable_command_buffer="]
        assert {"--whole_clip", "--step_calls"} <= set(off) & set(found["sample_cudnn_1"])

    def test_limits_leave_no_time_unused(self):
        assert sum(LIMITS_B["gpu"].values()) == 540
        assert sum(LIMITS_B["cpu"].values()) == 360


def writer(output: Path, name: str, figures: dict, then: str) -> list[str]:
    """Returns a command that writes the figures of a part, and then runs code."""
    write = f"open({str(output / PARTS / f'{name}.json')!r}, 'w').write({json.dumps(figures)!r})"
    return [sys.executable, "-c", f"{write}; {then}"]


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """Returns the endings of steps and the content of run_b.json."""
    tmp_path = tmp_path_factory.mktemp("results")
    fits = {"step_seconds": 0.5, "median_step_seconds": 0.6, "compile_seconds": 60.0}
    no_room = {"compile_seconds": 70.0, "out_of_memory": "out of memory on the device"}
    steps = [
        Step(
            "train",
            30,
            [
                writer(tmp_path, "train_none_4", fits, "pass"),
                writer(tmp_path, "train_none_16", no_room, "raise SystemExit(2)"),
            ],
            parts=("train_none_4", "train_none_16"),
        ),
        Step(
            "slow",
            -27,
            [writer(tmp_path, "sample_xla_1", fits, "import time; time.sleep(60)")],
            {},
            ("sample_xla_1",),
        ),
        Step("bad", 30, [[sys.executable, "-c", "raise SystemExit(3)"]], {}, ("sample_cudnn_1",)),
    ]
    endings = run_all(steps, environment={}, log=io.StringIO(), output=tmp_path)
    assert not list((tmp_path / PARTS).iterdir())
    return endings, json.loads((tmp_path / RUN_B).read_text())


class TestCollected:
    def test_no_memory_is_a_result_and_other_failures_are_not(self, collected):
        endings, found = collected
        assert endings == {"train": "done", "slow": "cut off at its time limit", "bad": "failed (exit status 3)"}
        assert {name: part["ending"] for name, part in found.items()} == {
            "train_none_4": "done",
            "train_none_16": "out of memory",
            "sample_xla_1": "cut off at its time limit",
            "sample_cudnn_1": "failed (exit status 3)",
        }
        assert found["sample_xla_1"]["step_seconds"] == 0.5, "figures from before the time limit are kept"

    def test_the_table_says_which_batch_fits(self, collected):
        values = {(part, figure): value for part, figure, value in rows({"run_b": collected[1]})}
        assert values["train, largest batch", "remat none"] == "4 fits, 16 runs out of memory"
        assert values["train, largest batch", "remat blocks"] == NOT_MEASURED
        assert values["train, remat none, batch 16", "one step"] == "out of memory"
        assert values["train, remat none, batch 16", "compile"] == "70.0 s"
        assert values["train, remat none, batch 4", "one step"] == "600 ms"
        assert values["sampler, attention xla, batch 1", "one guided step"] == "600 ms"
