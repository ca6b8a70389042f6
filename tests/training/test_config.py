"""Training configs: the shipped ones train the documented parameters, and invalid ones give one-line errors."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from smcd_jax.models.smcd.conversion.table import image_encoder_rows, unet_rows
from smcd_jax.models.tables.box_tokens import position_net_rows
from smcd_jax.nn.gate_names import is_gate
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.training import state
from smcd_jax.training.config import TrainConfig, config_from_dict, config_to_dict, load_config
from smcd_jax.training.optimizer import learning_rate
from smcd_jax.training.selection import join, select, split
from smcd_jax.training.state import abstract, from_scratch_paths, policy, trained_paths
from tests.errors import refused

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHARED_BY_OTHERS = ("__init__", "common")  # modules of the folder that are not configs
# presets by the name of get_config's parameter, or by file name for files with presets of their own
FORMS = {
    "preset": ("smcd", "tiny"),
    "size": ("64", "128"),
    "tiny/base": ("pictures", "clips"),
    "small/base_pictures": ("128",),
    "small/base_clips": ("128",),
    "dynamicrafter/finetune": ("dynamicrafter_512", "dynamicrafter_256+still_time"),
    "dynamicrafter/low_rank": ("dynamicrafter_512",),
    "dynamicrafter/boxes": ("dynamicrafter_512", "dynamicrafter_512+unet"),
    "dynamicrafter/tiny": ("image", "interp", "boxes"),
    "stage": ("motion", "motion_vae", "diffusion"),
    "small/ablation": ("start", "object", "image", "zc", "gca", "zc_gca", "controlnet"),
    "tiny/ablation": ("object", "image", "zc", "gca", "zc_gca", "joint"),
}


def forms(name: str) -> tuple[str, ...]:
    """Returns the presets of a config file; a new file with presets of its own must be added to `FORMS`."""
    parameters = inspect.signature(importlib.import_module(f"configs.{name.replace('/', '.')}").get_config).parameters
    return FORMS[name if name in FORMS else next(iter(parameters))] if parameters else ("",)


NAMES = sorted(
    str(file.relative_to(CONFIGS).with_suffix(""))
    for file in CONFIGS.glob("*/*.py")
    if file.stem not in SHARED_BY_OTHERS
)
SHIPPED = [f"{name}.py:{form}".rstrip(":") for name in NAMES for form in forms(name)]
STAGE_1, STAGE_2 = "smcd/stage1_object.py:smcd", "smcd/stage2_scene.py:smcd"
ROWS = {
    "unet": ("unet", unet_rows),
    "position_net": ("position_net", position_net_rows),
    "image_encoder": ("visual_encoder", image_encoder_rows),
}


@pytest.fixture(autouse=True, scope="module")
def shapes_once():
    """Caches the shapes of full-size networks, which take seconds to trace and are the same in several configs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "abstract_params", functools.cache(abstract_params))
        yield


def load(name: str, *overrides: str) -> TrainConfig:
    return load_config(str(CONFIGS / name), overrides)


def trained_counts(config: TrainConfig) -> dict[str, int]:
    """Returns the number of trained parameters by component."""
    leaves, counts = flatten(abstract(config)), {}
    for path in trained_paths(config):
        name = path.split("/", 1)[0]
        counts[name] = counts.get(name, 0) + int(np.prod(leaves[path].shape))
    return counts


def torch_names(config: TrainConfig) -> dict[str, list[str]]:
    """Returns the published names of the trained parameters, grouped by the reference's modules."""
    named = {module: [] for module, _ in ROWS.values()}
    paths = trained_paths(config)
    for component, (module, rows) in ROWS.items():
        part = config.model.components().get(component)
        named[module] = [row.torch for row in rows(part) if f"{component}/{row.path}" in paths] if part else []
    assert sum(map(len, named.values())) == len(paths)
    return named


@pytest.mark.parametrize(("file", "name"), [("trainable_stage1.json", STAGE_1), ("trainable_stage2.json", STAGE_2)])
def test_a_stage_trains_the_parameters_of_the_reference_by_name(shared, file, name):
    wanted = json.loads((shared / "golden" / "keys" / file).read_text())
    ours = torch_names(load(name))
    for module, names in ours.items():
        assert sorted(names) == sorted(wanted[module])


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (STAGE_1, {"unet": 211_213_152, "position_net": 1_346_624}),
        (STAGE_2, {"unet": 459_256_672, "image_encoder": 202_936_064}),
        ("dynamicrafter/finetune.py:dynamicrafter_512", {"unet": 1_438_854_980, "resampler": 48_787_456}),
        (  # with frozen temporal transformers, as the authors advise if fine-tuning reduces motion
            "dynamicrafter/finetune.py:dynamicrafter_256+still_time",
            {"unet": 1_438_854_996 - 272_850_880, "resampler": 48_787_456},
        ),
    ],
)
def test_a_stage_trains_as_many_parameters_as_the_reference(name, counts):
    assert trained_counts(load(name)) == counts


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_loads_and_each_of_its_patterns_matches(name):
    config = load(name)
    paths = flatten(abstract(config))
    assert trained_paths(config) <= set(paths)
    select(paths, config.init.from_scratch, what="config: init.from_scratch")
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    folder, file = name.split(".")[0].split("/")
    family = folder in ("tiny", "small", "lvmm")  # in these folders, files are named after stages
    assert config.name.startswith(("lvmm", folder) if family else file)
    learning_rate(config.optimizer, config.run.steps)


@pytest.mark.parametrize(
    "name", [name for name in SHIPPED if name.startswith(("smcd/joint", "smcd/stage1", "smcd/stage2"))]
)
def test_parameters_that_start_from_scratch_are_trained(name):
    """A frozen layer with random weights would only add noise."""
    config = load(name)
    paths = flatten(abstract(config))
    assert select(paths, config.init.from_scratch, what="fresh") <= trained_paths(config)


def test_stage_2_trains_every_temporal_block_but_the_first():
    trained = trained_paths(load(STAGE_2))
    assert not [path for path in trained if path.startswith("unet/encoder_0/temporal")]
    assert len({path.split("/temporal/")[0] for path in trained if "/temporal/block/" in path}) == 16


class TestOverrides:
    def test_values_are_read_as_python_writes_them(self):
        config = load(
            "smcd/stage2_scene.py:tiny",
            "optimizer.learning_rate=1e-4",
            "run.steps=7",
            "temporal=false",
            "loss.min_snr_gamma=5",
            "name=1e-4",
            "init.model=models/mine",
        )
        assert config.optimizer.learning_rate == 1e-4
        assert (config.run.steps, config.temporal, config.loss.min_snr_gamma) == (7, False, 5.0)
        assert (config.name, config.init.model) == ("1e-4", "models/mine")  # strings are not converted
        assert (
            load("smcd/stage2_scene.py:tiny", "loss.min_snr_gamma=5", "loss.min_snr_gamma=none").loss.min_snr_gamma
            is None
        )

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("a,b", ("a", "b")),
            ("a", ("a",)),
            ("", ()),
            ("('a','b')", ("a", "b")),
            ("['a']", ("a",)),
            (r"unet/(?!x).*,y", (r"unet/(?!x).*", "y")),
        ],
    )
    def test_a_tuple_of_strings_is_read(self, text, value):
        assert load("smcd/stage2_scene.py:tiny", f"data.records={text}").data.records == value

    @pytest.mark.parametrize(("text", "value"), [("0.5,2", (0.5, 2.0)), ("(1,2)", (1.0, 2.0)), ("", ())])
    def test_a_tuple_of_numbers_is_read(self, text, value):
        assert load("smcd/stage2_scene.py:tiny", f"data.weights={text}").data.weights == value

    def test_the_last_of_two_overrides_wins(self):
        assert load("smcd/stage2_scene.py:tiny", "seed=1", "seed=2").seed == 2

    @pytest.mark.parametrize(
        ("override", "argument", "value"),
        [
            ("optimizer.learningrate=1", "optimizer.learningrate", None),
            ("optimiser.learning_rate=1", "optimiser", None),
            ("zzz=1", "zzz", None),
            ("seed.zzz=1", "seed.zzz", None),
            ("model.unet.zzz=1", "model.unet.zzz", None),
            ("optimizer=1", "optimizer", "1"),
            ("seed", "seed", None),
            ("run.steps=many", "run.steps", "many"),
            ("run.steps=1.5", "run.steps", 1.5),
            ("run.steps=true", "run.steps", True),
            ("temporal=1", "temporal", 1),
            ("optimizer.learning_rate=fast", "optimizer.learning_rate", "fast"),
            ("condition_dropout_unit=clip", "condition_dropout_unit", "clip"),
            ("data.inputs=cache", "data.inputs", "cache"),
            ("data.weights=a,b", "data.weights[0]", "a"),
            ("trainable=3,4", "trainable[0]", 3),
        ],
    )
    def test_an_impossible_override_is_refused(self, override, argument, value):
        with refused(argument, value=value):
            load("smcd/stage2_scene.py:tiny", override)

    def test_a_misspelt_key_gets_a_suggestion(self):
        with refused("optimizer.learningrate") as record:
            load("smcd/stage2_scene.py:tiny", "optimizer.learningrate=1")
        assert "'learning_rate'" in str(record.value)


DEFAULT = "from smcd_jax.training.config import default_config\ndef get_config():\n"


class TestFiles:
    def test_a_file_other_than_python_is_refused(self, tmp_path):
        (tmp_path / "config.yaml").write_text("steps: 3")
        with refused(path=tmp_path / "config.yaml"):
            load_config(str(tmp_path / "config.yaml"))

    @pytest.mark.parametrize(
        ("content", "argument"),
        [
            (None, None),
            ("import no_such_module_at_all", None),
            ("def get_config(:", None),
            ("x = 1", "get_config"),
            ("def get_config():\n    raise KeyError('lost')", None),
            ("def get_config():\n    return None", "get_config"),
        ],
    )
    def test_a_broken_config_file_is_refused_by_name(self, tmp_path, content, argument):
        file = tmp_path / "mine.py"
        if content is not None:
            file.write_text(content)
        with refused(path=file) as record:
            load_config(str(file))
        assert record.value.argument == argument

    @pytest.mark.parametrize(
        ("body", "argument", "value"),
        [
            ("return default_config('huge')", "preset", "huge"),
            ("c = default_config('tiny'); c.run.step = 3; return c", "run.step", 3),
            ("c = default_config('tiny'); c.run.steps = 'long'; return c", None, None),
        ],
    )
    def test_a_config_with_a_wrong_entry_is_refused(self, tmp_path, body, argument, value):
        file = tmp_path / "mine.py"
        file.write_text(f"{DEFAULT}    {body}")
        with refused(argument, value=value):
            load_config(str(file))

    @pytest.mark.parametrize(
        ("name", "preset"),
        [
            ("smcd/stage2_scene.py:middle", "middle"),
            ("tiny/base.py:picture", "picture"),
            ("tiny/stage1_object.py:smcd", "smcd"),
        ],
    )
    def test_an_unknown_preset_is_refused(self, name, preset):
        with refused("preset", value=preset):
            load(name)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("condition_dropout.text", 1.5),
        ("condition_dropout.boxes", -0.1),
        ("condition_dropout.image_tokens", 2.0),
        ("optimizer.grad_accum_steps", 3),
        ("optimizer.grad_accum_steps", 0),
        ("dtype", "float16"),
        ("run.steps", 0),
        ("run.validation_examples", 0),
        ("run.log_every", 0),
        ("data.batch_size", 0),
        ("optimizer.ema_decay", 1.0),
    ],
)
def test_a_number_out_of_range_is_refused(argument, value):
    with refused(argument, value=value):
        load("smcd/stage2_scene.py:tiny", f"{argument}={value}")


@pytest.mark.parametrize(
    ("overrides", "argument", "value"),
    [
        (("optimizer.warmup_steps=10", "run.steps=10"), "optimizer.warmup_steps", 10),
        (("optimizer.warmup_steps=-1",), "optimizer.warmup_steps", -1),
        (("optimizer.learning_rate=0",), "optimizer.learning_rate", 0),
    ],
)
def test_an_impossible_schedule_is_refused(overrides, argument, value):
    config = load("smcd/stage2_scene.py:tiny", *overrides)
    with refused(argument, value=value):
        learning_rate(config.optimizer, config.run.steps)


def test_the_learning_rate_rises_and_falls():
    overrides = ("learning_rate=1.0", "warmup_steps=10", "schedule=cosine", "end_lr_ratio=0.1")
    config = load("smcd/stage2_scene.py:tiny", "run.steps=110", *(f"optimizer.{text}" for text in overrides))
    rate = learning_rate(config.optimizer, config.run.steps)
    assert [float(rate(step)) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert float(rate(60)) == pytest.approx(0.55)  # halfway down a cosine from 1 to 0.1
    assert float(rate(110)) == pytest.approx(0.1)


class TestSelection:
    PATHS = ("unet/a/kernel", "unet/a/bias", "unet/gates/alpha_ff", "position_net/null_box")

    def test_a_pattern_matches_whole_paths(self):
        assert select(self.PATHS, ("unet/a/.*",), what="x") == {"unet/a/kernel", "unet/a/bias"}
        with refused("trainable", value="unet/a"):
            select(self.PATHS, ("position_net/.*", "unet/a"), what="config: trainable")

    def test_a_pattern_that_is_not_a_regular_expression_is_refused(self):
        with refused("trainable", value="unet/("):
            select(self.PATHS, ("unet/(",), what="config: trainable")

    def test_a_config_that_trains_nothing_is_refused(self):
        with refused("trainable"):
            trained_paths(load("smcd/stage2_scene.py:tiny", "trainable="))

    def test_split_and_join_are_inverse(self):
        tree = {"unet": {"a": {"kernel": 1, "bias": 2}, "b": 3}, "position_net": {"c": 4}}
        trained, frozen = split(tree, frozenset({"unet/a/kernel", "position_net/c"}))
        assert trained == {"unet": {"a": {"kernel": 1}}, "position_net": {"c": 4}}
        assert frozen == {"unet": {"a": {"bias": 2}, "b": 3}}
        assert join(trained, frozen) == tree

    def test_gates_are_known_by_name(self):
        assert [is_gate(path) for path in self.PATHS] == [False, False, True, False]


def test_without_a_folder_all_parameters_start_from_scratch_and_with_one_only_named_ones():
    config = load("smcd/stage2_scene.py:tiny")
    assert from_scratch_paths(config, None) == set(flatten(abstract(config)))
    named = from_scratch_paths(config, object())
    assert named == trained_paths(config) - {path for path in trained_paths(config) if "/temporal/" in path} - {
        "unet/encoder_0/conv/kernel",
        "unet/encoder_0/conv/bias",
    }


def test_trained_parameters_are_float32_and_frozen_ones_have_the_compute_dtype():
    config = load("smcd/stage2_scene.py:tiny", "dtype=bfloat16", "remat=blocks")
    of_run = policy(config)
    assert (np.dtype(of_run.params), np.dtype(of_run.compute).name, of_run.remat) == (np.float32, "bfloat16", True)
