"""Training speed, measured with the run's own step."""

import json

import jax
import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.nn.random_params import random_of, uniform
from smcd_jax.runtime.sharding import make_mesh
from smcd_jax.training import benchmark
from smcd_jax.training.benchmark import TrainingMeasures, measure_training, random_batch, random_state
from smcd_jax.training.config import load_config
from smcd_jax.training.step import TrainProgram
from tests.errors import refused

CONFIG = "tests/training/training_run.py:pictures"
STAGES: list[dict] = []  # what the measurement reports on its way


def small_config(*overrides: str):
    return load_config(CONFIG, ("mesh.fsdp=8", *overrides))


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Turns off strict promotion, because optax raises float decay rates to the power of integer step counts."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def measures() -> TrainingMeasures:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMCD_CACHE_DIR", "")
        patch.setattr(benchmark, "measured_flops", lambda *_, **__: 2e9)
        return measure_training(small_config(), steps_timed=2, profile_steps=1, on_measured=STAGES.append)


class TestMeasures:
    def test_rates_follow_from_the_step(self, measures):
        assert 0 < measures.step_seconds <= measures.median_step_seconds
        assert measures.compile_seconds > 0
        assert measures.clips_per_second == measures.batch / measures.step_seconds
        assert measures.tflop_per_second == pytest.approx(measures.tflop_per_step / measures.step_seconds)
        assert measures.share_of_peak == pytest.approx(measures.tflop_per_second / 2e-3)
        assert measures.peak_memory_bytes > 1e8

    def test_measures_describe_the_config(self, measures):
        config = small_config()
        program = TrainProgram(config, make_mesh(config.mesh))
        assert measures.tflop_per_step == program.flops() / 1e12
        assert (measures.batch, measures.inputs, measures.dtype, measures.mesh["fsdp"]) == (8, "features", "float32", 8)

    def test_the_profile_holds_the_step(self, measures):
        kinds = measures.profile["kinds"]
        assert (measures.profile["steps"], kinds["matmul"]["launches"] > 0) == (1, True)
        assert json.loads(json.dumps(measures.as_dict())) == measures.as_dict()

    def test_figures_are_reported_as_soon_as_they_are_known(self, measures):
        compiled, timed, profiled = STAGES
        assert compiled["program_bytes"]["arguments"] > 0
        assert compiled.items() <= timed.items()
        assert (timed["profile"], timed["step_seconds"]) == (None, measures.step_seconds)
        assert profiled == measures.as_dict()

    @pytest.mark.parametrize(
        ("overrides", "multiple"),
        [(("data.batch_size=12",), "8"), (("data.batch_size=24", "optimizer.grad_accum_steps=2"), "16")],
    )
    def test_a_batch_that_the_mesh_does_not_divide_is_refused(self, overrides, multiple):
        with refused("data.batch_size") as record:
            measure_training(small_config(*overrides))
        assert f"multiple of {multiple} " in str(record.value)

    @pytest.mark.parametrize(("name", "value"), [("steps_timed", 0), ("profile_steps", -1)])
    def test_numbers_of_steps_out_of_range_are_refused(self, name, value):
        with refused(name, value=value):
            measure_training(small_config(), **{name: value})


class TestInputs:
    @pytest.mark.parametrize("inputs", ["features", "latents", "video"])
    def test_a_random_batch_has_the_shapes_of_the_step(self, inputs):
        config = small_config(f"data.inputs={inputs}")
        program = TrainProgram(config, make_mesh(config.mesh))
        batch = random_batch(program)
        assert set(batch) == set(program.batch)
        for name, shape in program.batch.items():
            assert (batch[name].shape, batch[name].dtype) == (shape.shape, shape.dtype)
            assert batch[name].sharding.is_equivalent_to(shape.sharding, len(shape.shape))
            assert name in ("mask", "boxes") or np.asarray(batch[name]).std() > 0

    def test_weights_are_random_and_sharded(self):
        config = small_config()
        program = TrainProgram(config, make_mesh(config.mesh))
        state = random_state(program)
        assert jax.tree.structure(state) == jax.tree.structure(program.state)
        kernel = state.params["position_net"]["dense_1"]["kernel"]
        assert len({str(shard.index) for shard in kernel.addressable_shards}) == 8
        assert 0.1 < float(kernel.std()) < 0.5  # expected: 1 / sqrt(16)
        assert int(state.step) == 0


def test_random_parameters_are_compiled_before_the_turn():
    config = small_config()
    mesh = make_mesh(config.mesh)
    program = TrainProgram(config, mesh)
    with jax.set_mesh(mesh):
        uniform.clear_cache()
        benchmark._compile_random(program)
        compiled = uniform._cache_size()
        random_state(program), random_of(program.frozen)
    assert 1 < uniform._cache_size() == compiled


def measured(measures: TrainingMeasures, asked: list):
    """Returns a mock of `measure_training` that keeps the configs it is called with."""

    def measure(config, *, on_measured, **_):
        asked.append(config)
        on_measured(measures.as_dict())
        return measures

    return measure


class TestCommand:
    def test_the_command_prints_a_table_and_writes_json(self, measures, monkeypatch, tmp_path, capsys):
        asked = []
        monkeypatch.setattr(benchmark, "measure_training", measured(measures, asked))
        flags = ["--config", CONFIG, "--no_cache", "--batch", "16", "--config.optimizer.learning_rate=0.5"]
        assert main(["bench", "train", *flags, "--output", str(tmp_path / "out.json")]) == 0
        (config,) = asked
        assert (config.data.inputs, config.data.batch_size, config.optimizer.learning_rate) == ("video", 16, 0.5)
        printed = capsys.readouterr().out
        assert "clips" in printed
        assert "norm/reduction" in printed
        written = json.loads((tmp_path / "out.json").read_text())
        assert written["clips_per_second"] == measures.clips_per_second

    def test_too_little_memory_is_recorded(self, monkeypatch, tmp_path, capsys):
        def measure(config, *, on_measured, **_):
            on_measured({"compile_seconds": 2.0})
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

        monkeypatch.setattr(benchmark, "measure_training", measure)
        assert main(["bench", "train", "--preset", "tiny", "--output", str(tmp_path / "out.json")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        written = json.loads((tmp_path / "out.json").read_text())
        assert written.keys() == {"compile_seconds", "out_of_memory"}
        assert written["out_of_memory"] in line

    @pytest.mark.parametrize("preset", ["tiny", "smcd"])
    def test_a_preset_measures_stage_2(self, preset, measures, monkeypatch):
        asked = []
        monkeypatch.setattr(benchmark, "measure_training", measured(measures, asked))
        assert main(["bench", "train", "--preset", preset]) == 0
        assert asked[0].name == "stage2_scene"
        assert asked[0].model.unet.base_channels == {"tiny": 32, "smcd": 320}[preset]

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--preset", "tiny", "--config", CONFIG], "--preset and --config"),
            (["--batch", "0"], "--batch must be at least 1"),
            (["--config.data.colour=3"], "unknown key"),
        ],
    )
    def test_wrong_input_is_one_line(self, flags, says, capsys):
        assert main(["bench", "train", *flags]) == 2
        err = capsys.readouterr().err
        assert says in err
        assert len(err.splitlines()) == 1
