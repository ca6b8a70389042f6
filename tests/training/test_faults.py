"""Faults during a run and their documented outcomes, through the commands `smcd train` and `smcd export`.

Faults that concern only checkpoints, the workdir, signals or metrics are covered by the tests of those parts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from smcd_jax.cli import main
from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.nn.networks import flatten
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.runtime.sharding import MeshShape, make_mesh
from smcd_jax.training.checkpoint.checkpoints import Checkpoints
from smcd_jax.training.checkpoint.manifest import Manifest
from smcd_jax.training.checkpoint.orbax_io import read_arrays
from smcd_jax.training.config import load_config
from smcd_jax.training.data import TrainingData
from smcd_jax.training.logging.metrics import METRICS_FILE, read_metrics
from smcd_jax.training.state import trained_paths
from smcd_jax.training.step import TrainProgram, make_train_step
from smcd_jax.training.validation import Validation
from tests.training.training_run import (
    MODEL,
    ROOT,
    Files,
    assert_same_run,
    change_batches,
    checkpoint_content,
    checkpoint_steps,
    configured,
    fail_saves,
    logged_losses,
    run_here,
    share_programs,
    train_arguments,
    train_here,
    training_files,
)

STEPS = 6
STAGE_2 = f"{ROOT / 'configs' / 'smcd' / 'stage2_scene.py'}:tiny"
EVERY = ("run.save_every=2", "run.log_every=4", "run.max_to_keep=9")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made, pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield made


@pytest.fixture(scope="module")
def straight(files, tmp_path_factory) -> Path:
    """The workdir of a run without a fault."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    assert train(files, workdir) == 0
    return workdir


@pytest.fixture(scope="module")
def first_part(files, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("half") / "run"
    assert train(files, workdir, steps=4) == 0
    return workdir


@pytest.fixture
def half(first_part, tmp_path) -> Path:
    """The workdir of an unfinished run that has saved steps 2 and 4."""
    return Path(shutil.copytree(first_part, tmp_path / "half"))


def train(files: Files, workdir: Path, *more: str, steps: int = STEPS) -> int:
    return train_here(files, workdir, *EVERY, f"run.steps={steps}", *more)


def refusal(capfd: pytest.CaptureFixture) -> str:
    """Returns the only error of a command: its line, and the indented table below it."""
    said = capfd.readouterr().err
    assert said.count("smcd: error: ") == 1, said
    assert "Traceback" not in said
    line, *table = said.split("smcd: error: ")[1].rstrip("\n").split("\n")
    assert all(row.startswith("  ") for row in table), said
    return "\n".join((line, *table))


def content(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder, except the lock, which names its last holder."""
    files = (file for file in folder.rglob("*") if file.is_file() and file != folder / "lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def flip_a_bit(step: Path) -> None:
    """Flips a bit of the largest trained parameter in every file that holds it; other bytes of a file may be unused."""
    arrays = read_arrays(step / "params", dict.fromkeys(Manifest.read(step).arrays["params"]))
    content = max(arrays.values(), key=lambda leaf: leaf.nbytes).tobytes()
    files = [file for file in (step / "params").rglob("d/*") if content in file.read_bytes()]
    assert files
    for file in files:
        found = bytearray(file.read_bytes())
        found[found.index(content) + len(content) // 2] ^= 1
        file.write_bytes(found)


class TestDamagedCheckpoints:
    def test_after_a_flipped_bit_the_run_resumes_from_the_previous_step(self, files, straight, half, capfd):
        flip_a_bit(half / "checkpoints" / "4")
        damaged = content(half / "checkpoints" / "4")
        assert train(files, half) == 0
        said = capfd.readouterr().err
        assert re.search(r"step 4 is damaged \(.+\); resuming from step 2\. It is now 4\.damaged-1", said)
        assert "resuming after step 2," in said
        assert checkpoint_steps(half) == [2, 4, 6]
        assert_same_run(straight, half, STEPS)
        assert content(half / "checkpoints" / "4.damaged-1") == damaged

    def test_a_run_whose_steps_are_all_damaged_is_refused_and_not_restarted(self, files, half, capfd):
        for step in (2, 4):
            flip_a_bit(half / "checkpoints" / str(step))
        before = content(half)
        for _ in range(2):
            assert train(files, half) == 2
            said = refusal(capfd)
            assert "all checkpoints are damaged (step 4: " in said
            assert "; step 2: " in said
            assert "\n" not in said
            assert content(half) == before


class TestFailedSave:
    def test_a_failed_save_is_reported_at_the_next_step_and_the_same_command_resumes_from_the_previous_step(
        self, files, straight, tmp_path, monkeypatch, capfd
    ):
        workdir, seen = tmp_path / "run", []
        with monkeypatch.context() as patch:
            fail_saves(patch, 4)
            change_batches(patch, lambda number, batch: seen.append(number) or after_failure(number, batch))
            after_failure = wait_for_failure(patch, before_step=5)
            assert train(files, workdir, steps=8) == 2
        said = refusal(capfd)
        assert "the checkpoint of step 4 could not be saved (No space left on device)" in said
        assert "the newest checkpoint is step 2" in said
        assert "\n" not in said
        assert seen == [1, 2, 3, 4, 5]
        assert checkpoint_steps(workdir) == [2]
        assert train(files, workdir) == 0
        assert "resuming after step 2," in capfd.readouterr().err
        assert_same_run(straight, workdir, STEPS)


def wait_for_failure(patch: pytest.MonkeyPatch, *, before_step: int) -> Callable[[int, Any], Any]:
    """Returns a function for `change_batches` that holds back one step's batch until the background save has failed."""
    saving: list[Checkpoints] = []
    unchanged = Checkpoints.save
    patch.setattr(
        Checkpoints, "save", lambda self, *args, **rest: saving.append(self) or unchanged(self, *args, **rest)
    )

    def wait(number: int, batch: Any) -> Any:
        while number == before_step and not saving[0]._failures:
            time.sleep(0.01)
        return batch

    return wait


class TestNotANumber:
    @pytest.mark.parametrize("save_every", [2, 100])  # noticed when step 6 is saved, or when step 8 is logged
    def test_nan_stops_a_run_and_keeps_the_last_good_step(self, files, straight, half, monkeypatch, capfd, save_every):
        def spoil(number: int, batch: Any) -> Any:
            arrays = {"latents": batch.arrays["latents"] * jnp.nan} if number == 2 else {}
            return batch._replace(arrays=batch.arrays | arrays)

        with monkeypatch.context() as patch:
            change_batches(patch, spoil)
            assert train(files, half, f"run.save_every={save_every}", steps=9) == 2
        said = refusal(capfd)
        assert "the loss or a gradient of step 6 is not finite" in said
        assert "\n" not in said
        assert checkpoint_steps(half) == [2, 4]
        kept, _ = checkpoint_content(half, 4)
        expected, _ = checkpoint_content(straight, 4)
        assert {name: leaf.tobytes() for name, leaf in kept.items()} == {
            name: leaf.tobytes() for name, leaf in expected.items()
        }
        averages = [leaf for name, leaf in kept.items() if name.startswith("train/ema/")]
        assert averages
        assert all(np.isfinite(leaf).all() for leaf in averages)
        assert train(files, half) == 0  # the data are finite again
        assert_same_run(straight, half, STEPS)


class TestWorkdir:
    def test_a_second_run_is_refused_and_the_first_continues(self, files, straight, tmp_path, monkeypatch, capfd):
        workdir, second = tmp_path / "run", []

        def start_another(number: int, batch: Any) -> Any:
            if number == 3:
                second.append(main(train_arguments(files, workdir, *EVERY, "run.steps=6")))
            return batch

        change_batches(monkeypatch, start_another)
        assert train(files, workdir) == 0
        assert second == [2]
        assert f"smcd: error: {workdir} is in use by the run of process {os.getpid()} on " in capfd.readouterr().err
        assert_same_run(straight, workdir, STEPS)

    def test_a_run_in_a_relative_workdir_resumes_from_another_folder(self, files, straight, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert train(files, Path("runs/one"), steps=4) == 0
        monkeypatch.chdir(tmp_path / "runs")
        assert train(files, Path("one")) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]
        assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]
        assert checkpoint_steps(tmp_path / "runs" / "one") == [2, 4, 6]
        assert_same_run(straight, tmp_path / "runs" / "one", STEPS)

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
    def test_a_workdir_without_write_permission_is_refused(self, files, capfd):
        assert train(files, Path("/proc/self/run")) == 2
        said = refusal(capfd)
        assert said.startswith("cannot write to /proc/self/run (")
        assert "\n" not in said


class TestOtherConfig:
    @pytest.mark.parametrize(
        ("change", "row"),
        [
            ("optimizer.learning_rate=0.004", r"optimizer\.learning_rate +0\.002 +0\.004"),
            ("dtype=bfloat16", r"dtype +'' +'bfloat16'"),
            ("model.position_net.hidden_width=32", r"model\.position_net\.hidden_width +16 +32"),
            ("data.frames=2", r"data\.frames +1 +2"),
        ],
    )
    def test_another_config_is_refused_before_compiling(self, files, half, monkeypatch, capfd, change, row):
        before = content(half)
        monkeypatch.setattr(TrainProgram, "compile", lambda self: pytest.fail("compiled"))
        assert train(files, half, change) == 2
        said = refusal(capfd)
        assert f"{half / 'checkpoints' / '4'}: its config differs from that of this run" in said
        assert re.search(rf"\n  {row}$", said)
        assert content(half) == before

    @pytest.mark.parametrize(
        ("change", "wanted"), [("autoencoder.scaling_factor=0.5", "0.18215"), ("text_encoder.heads=1", "2")]
    )
    def test_a_frozen_component_that_differs_from_the_model_folder_is_refused(
        self, files, tmp_path, monkeypatch, capfd, change, wanted
    ):
        monkeypatch.setattr(TrainProgram, "compile", lambda self: pytest.fail("compiled"))
        assert train(files, tmp_path / "run", f"model.{change}") == 2
        said, argument = refusal(capfd), f"model.{change.split('=')[0]}"
        assert f"{argument} must be {wanted} as in {files.model}" in said
        assert said.endswith(f"pass --config.{argument}={wanted}")

    def test_an_unknown_key_is_refused_before_the_workdir_is_created(self, files, tmp_path, capfd):
        assert train(files, tmp_path / "run", "optimizer.learning_rat=1") == 2
        said = refusal(capfd)
        assert "--config.optimizer.learning_rat: unknown key; did you mean 'learning_rate'?" in said
        assert not (tmp_path / "run").exists()

    def test_other_clips_are_refused(self, files, half, monkeypatch, capfd):
        before = content(half)
        monkeypatch.setattr(TrainingData, "fingerprint", ["sprites: 3 clips 0123456789abcdef"])
        assert train(files, half) == 2
        assert "step 4 was trained on other clips" in refusal(capfd)
        assert content(half) == before

    def test_keys_that_do_not_affect_the_results_may_differ(self, files, straight, half, tmp_path):
        model = shutil.copytree(files.model, tmp_path / "model")
        records = shutil.copytree(files.records, tmp_path / "records")
        free = ("run.save_every=3", "run.max_to_keep=1", "data.threads=2")
        assert train(files, half, *free, f"init.model={model}", f"data.records={records}") == 0
        assert checkpoint_steps(half) == [6]
        assert_same_run(straight, half, STEPS)

    @pytest.mark.parametrize("size", [pytest.param(4, marks=pytest.mark.slow), 16])
    def test_another_batch_size_continues_by_example_and_is_noted(self, files, half, capfd, size):
        assert train(files, half, f"data.batch_size={size}") == 0
        assert f"{size} examples instead of 8" in capfd.readouterr().err
        seen = {int(line["step"]): line["examples"] for line in read_metrics(half / METRICS_FILE) if "examples" in line}
        assert seen == {1: 8, 4: 32, 5: 32 + size, 6: 32 + 2 * size}
        arrays, values = checkpoint_content(half, STEPS)
        assert values["order"] == {"seed": 0, **place_after(files, 32 + 2 * size)}
        assert arrays["train/step"] == STEPS


def place_after(files: Files, examples: int) -> dict[str, int]:
    clips = json.loads((files.records / "records.json").read_text())["splits"]["train"]["clips"]
    return {"epoch": examples // clips, "position": examples % clips}


class TestFlags:
    @pytest.mark.parametrize(
        ("steps", "words"),
        [
            ("1:2", "profile of 1 steps written to"),
            ("1:9", "profile of 1 steps written to"),
            ("5:9", "no profile was made"),
        ],
        ids=["within", "cut short", "after the end"],
    )
    def test_a_profile_records_those_of_its_steps_that_ran(self, files, straight, half, capfd, steps, words):
        assert train(files, half, "--profile", steps) == 0
        assert words in capfd.readouterr().err
        traces = list((half / "logs" / "profile").rglob("*.xplane.pb"))
        assert len(traces) == (steps != "5:9")
        assert all(b"jit_step" in trace.read_bytes() for trace in traces)
        assert_same_run(straight, half, STEPS)

    @pytest.mark.parametrize("begun", [False, True])
    def test_compile_only_trains_nothing(self, files, half, tmp_path, capfd, begun):
        workdir = half if begun else tmp_path / "new"
        before = content(workdir)
        assert train(files, workdir, "--compile_only") == 0
        said = capfd.readouterr().err
        assert "step compiled in" in said
        assert said.endswith("smcd: compiled\n")
        assert content(workdir) == before
        assert (workdir / METRICS_FILE).exists() == begun


class TestValidation:
    LOOKS = ("run.validate_every=2", "run.sample_every=4")

    @pytest.mark.parametrize("split", ["", "held_out"])
    def test_a_missing_split_is_reported_before_compiling(self, files, tmp_path, capfd, split):
        assert train_here(files, tmp_path / "run", *self.LOOKS, f"data.validation_split={split}") == 2
        said = capfd.readouterr().err
        assert f"data.validation_split {split!r} " in said
        assert str(files.records) in said
        assert "run.validate_every=0" in said
        assert "compiled" not in said

    def test_the_newest_step_is_saved_before_a_failing_validation(self, files, tmp_path, monkeypatch):
        monkeypatch.setattr(Validation, "loss", lambda *_: 1 / 0)
        assert train_here(files, tmp_path / "run", *EVERY, "run.validate_every=2", f"run.steps={STEPS}") == 1
        assert checkpoint_steps(tmp_path / "run") == [2]


def test_too_little_memory_is_one_line_with_advice(files, tmp_path, monkeypatch, capfd):
    def compile_step(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm\nUsed 20G of 15G")

    monkeypatch.setattr(TrainProgram, "compile", compile_step)
    assert train_here(files, tmp_path / "run", *EVERY) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1
    assert "out of memory on the device; use a larger --config.mesh.fsdp" in said[0]


class TestExport:
    def test_another_base_is_refused_and_a_moved_base_is_named(self, files, straight, tmp_path, capfd):
        command = ["export", "--workdir", str(straight), "--output", str(tmp_path / "model"), "--base"]
        assert main([*command, str(tmp_path / "gone")]) == 2
        assert "pass its folder with --base" in capfd.readouterr().err
        assert main([*command, "tiny"]) == 2
        assert "tiny is not the model that the run started from" in capfd.readouterr().err
        assert not (tmp_path / "model").exists()
        shutil.copytree(files.model, tmp_path / "moved")
        assert main([*command, str(tmp_path / "moved")]) == 0

    @pytest.mark.parametrize(
        ("flags", "item"), [((), "train/ema"), (("--no_ema",), "params"), (("--dtype", "bfloat16"), "train/ema")]
    )
    def test_an_export_joins_trained_and_frozen_parameters(self, files, straight, tmp_path, flags, item):
        assert main(["export", "--workdir", str(straight), "--output", str(tmp_path / "model"), *flags]) == 0
        folder, start = ModelFolder(tmp_path / "model"), ModelFolder(files.model)
        saved, _ = checkpoint_content(straight, STEPS)
        trained = 0
        for component in folder.config.components():
            given = start.leaves(component)
            for path, leaf in folder.leaves(component).items():
                name = f"{component}/{path}"
                expected = saved.get(f"{item}/{name}", given[path])
                np.testing.assert_array_equal(leaf, expected.astype(leaf.dtype), err_msg=name)
                assert leaf.dtype.name == ("bfloat16" if "--dtype" in flags and leaf.ndim else "float32"), name
                trained += f"{item}/{name}" in saved
        raw = {name.removeprefix("params/"): leaf for name, leaf in saved.items() if name.startswith("params/")}
        assert trained == len(raw)
        different = [name for name, leaf in raw.items() if (leaf != saved[f"train/ema/{name}"]).any()]
        assert len(different) > trained // 2  # otherwise the test could not distinguish them


@pytest.fixture(scope="module")
def clips_run(files, tmp_path_factory) -> Path:
    """A run on existing records, in a process that cannot import TensorFlow."""
    workdir = tmp_path_factory.mktemp("clips") / "run"
    more = ("run.steps=80", "run.log_every=20", "run.save_every=80", "optimizer.learning_rate=5e-3")
    with pytest.MonkeyPatch.context() as patch:
        for package in ("tensorflow", "tensorflow_datasets"):
            patch.setitem(sys.modules, package, None)  # importing it raises ImportError
        assert train_here(files, workdir, *more, "data.inputs=latents", preset="clips") == 0
    return workdir


class TestStage2:
    """The very small model with temporal layers, image gates and an image encoder, trained on sprites."""

    def test_the_loss_falls_without_tensorflow(self, clips_run):
        losses = {step: line["loss"] for step, line in logged_losses(clips_run).items()}
        assert losses[20] > 0.38
        assert losses[80] < 0.35

    def test_the_exported_model_opens_as_a_pipeline(self, clips_run, tmp_path):
        assert main(["export", "--workdir", str(clips_run), "--output", str(tmp_path / "model")]) == 0
        pipeline = VideoPipeline.from_pretrained(tmp_path / "model")
        assert pipeline.config == MODEL


def shuffled_start(path: Path) -> Path:
    """Writes a copy of the shipped model in which the values of the parameters that stage 2 trains are shuffled."""
    given, rng = ModelFolder("tiny"), np.random.default_rng(0)
    trained = trained_paths(load_config(STAGE_2))

    def leaf(name: str, value: np.ndarray) -> np.ndarray:
        return rng.permutation(value.reshape(-1)).reshape(value.shape) if name in trained else value

    leaves = (
        (component, {inner: leaf(f"{component}/{inner}", value) for inner, value in given.leaves(component).items()})
        for component in given.config.components()
    )
    origin = Origin("untrained", note="of the shipped model, stage 2 shuffled", license=given.origin.license)
    return write_model_folder(path, given.config, leaves, origin=origin, tokenizer=given.tokenizer()).path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stage_2_of_the_small_model_falls_below_a_loss_in_minutes(tmp_path):
    """Trains with the shipped config on sprites and one device, starting with shuffled stage-2 parameters."""
    model, records = str(shuffled_start(tmp_path / "model")), str(tmp_path / "records")
    world = {"train_clips": 256, "val_clips": 8, "test_clips": 0, "width": 32, "height": 32, "max_objects": 1}
    options = [word for key, value in world.items() for word in ("--option", f"{key}={value}")]
    assert main(["prepare", "sprites", "--output", records, *options]) == 0
    assert main(["prepare", "--features", model, "--output", records, "--splits", "train,val"]) == 0
    overrides = {
        "init.model": model,
        "data.records": records,
        "data.batch_size": 8,
        "optimizer.learning_rate": 1e-3,
        "run.steps": 150,
        "run.log_every": 25,
        "run.validate_every": 0,
        "run.sample_every": 0,
        "run.tensorboard": False,
    }
    words = [f"--config.{key}={value}" for key, value in overrides.items()]
    workdir = tmp_path / "run"
    assert run_here(["train", "--config", STAGE_2, "--workdir", str(workdir), *words]) == 0
    losses = {step: line["loss"] for step, line in logged_losses(workdir).items()}
    assert losses[25] > 0.5
    assert losses[150] < 0.4


def test_gradients_exist_for_trained_parameters_alone(files):
    """Counts the leaves and bytes of the gradients that the optimizer receives."""
    handed = []

    def spy(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        handed.append(gradient)
        return gradient, state

    config = configured(files)
    program = TrainProgram(config, make_mesh(MeshShape(data=8)), null={"null_text": np.zeros((1, 77, 16), np.float32)})
    optimizer = optax.GradientTransformation(program.optimizer.init, spy)
    with jax.set_mesh(program.mesh):
        step = make_train_step(config, program.objective, optimizer)
        jax.eval_shape(step, program.state, program.frozen, program.batch)
    (gradient,) = handed
    assert set(flatten(gradient)) == program.trained
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(gradient) == size(program.state.params) < size(program.frozen) + size(program.state.params)
