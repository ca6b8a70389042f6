"""The motion model's training stages: BatchNorm statistics, clip caches, and resuming."""

from __future__ import annotations

import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest

from data_pipeline.features.clip_cache import ClipCache, array_path
from data_pipeline.records.prepare import prepare
from data_pipeline.records.runners import Processes
from smcd_jax.cli.features import prepare_features
from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.batch_norm import is_statistic
from smcd_jax.training.checkpoint.checkpoints import read_checkpoint
from smcd_jax.training.config import TrainConfig, load_config
from smcd_jax.training.export import export_model
from smcd_jax.training.loop import train
from tests.errors import refused
from tests.models.test_lvmm import SMALL
from tests.training.training_run import made_once, of_all_workers, share_programs

STATS = "stats/"


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Lets runs of the same stage in this process share their compiled step."""
    with pytest.MonkeyPatch.context() as patch:
        share_programs(patch)
        yield


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    """A folder that all pytest workers share, so that each of the fixtures below trains only once."""
    folder = of_all_workers(tmp_path_factory.getbasetemp()) / "lvmm_stages"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def records(shared_folder):
    with made_once(shared_folder / "winds") as missing:
        if missing:
            write_records(shared_folder / "winds" / "records")
    return shared_folder / "winds" / "records"


def write_records(path):
    options = {
        "train_clips": 6,
        "val_clips": 2,
        "test_clips": 0,
        "width": 32,
        "height": 32,
        "frames": 5,
        "field_size": 16,
    }
    prepare("winds", None, path, splits=["train", "val"], options=options, runner=Processes(1))


def config_of(stage: str, records, *, steps: int, **changes) -> TrainConfig:
    config = load_config(f"configs/tiny/lvmm.py:{stage}")
    run = dataclasses.replace(config.run, steps=steps, save_every=2, log_every=1, validate_every=0, tensorboard=False)
    data = dataclasses.replace(config.data, records=(str(records),), frames=5, batch_size=8, threads=1)
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=1, schedule="constant")
    return dataclasses.replace(config, model=SMALL, run=run, data=data, optimizer=optimizer, **changes)


def trained_leaves(workdir):
    return read_checkpoint(workdir / "checkpoints")[1]


def exported(workdir, path, config):
    return export_model(path, config, trained_leaves(workdir), note="test")


@pytest.fixture(scope="module")
def motion(records, shared_folder):
    """Returns the folder, config and checkpoint of the motion stage after 4 steps, interrupted after step 2."""
    folder = shared_folder / "motion"
    config = config_of("motion", records, steps=4)
    with made_once(folder) as missing:
        if missing:
            for run in (dataclasses.replace(config, run=dataclasses.replace(config.run, steps=2)), config):
                train(run, folder / "resumed")
            exported(folder / "resumed", folder / "model", config)
    return ModelFolder(folder / "model"), config, trained_leaves(folder / "resumed")


def test_statistics_of_batch_norm_move_and_are_exported(motion):
    model, _, leaves = motion
    statistics = {name.removeprefix(STATS): leaf for name, leaf in leaves.items() if name.startswith(STATS)}
    assert statistics
    assert all(is_statistic(name) for name in statistics)
    stored = {
        f"{name}/{path}": leaf for name in ("pair_motion", "renderer") for path, leaf in model.leaves(name).items()
    }
    for name, leaf in statistics.items():
        start = 0.0 if name.endswith("mean") else 1.0
        assert np.abs(leaf - start).max() > 1e-4, name
        np.testing.assert_array_equal(stored[name], leaf)


def test_resuming_gives_the_same_parameters_and_statistics_bit_for_bit(motion, records, tmp_path):
    _, config, resumed = motion
    train(config, tmp_path / "whole")
    leaves = trained_leaves(tmp_path / "whole")
    assert set(leaves) == set(resumed)
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(leaf, resumed[name], err_msg=name)


@pytest.fixture(scope="module")
def cached(motion, records, shared_folder):
    """Returns the model folder after stage motion_vae; the records have its features, with all clips kept."""
    folder = shared_folder / "vae"
    with made_once(folder) as missing:
        if missing:
            init = dataclasses.replace(load_config("configs/tiny/lvmm.py:motion_vae").init, model=str(motion[0].path))
            config = config_of("motion_vae", records, steps=2, init=init)
            train(config, folder / "run")
            exported(folder / "run", folder / "model", config)
            reports = prepare_features(records, folder / "model", max_clip_error=1e9, progress=False)
            assert [(report.kept, report.dropped) for report in reports] == [(6, 0), (2, 0)]
    return ModelFolder(folder / "model")


def test_the_frozen_statistics_survive_a_later_stage(motion, cached):
    for name, leaf in motion[0].leaves("renderer").items():
        np.testing.assert_array_equal(cached.leaves("renderer")[name], leaf)


def test_the_cache_counts_clips_that_are_reproduced_badly(motion, cached, records, tmp_path):
    errors = ClipCache(records / "features" / "train", encoders={}).errors
    limit = float(np.median(errors))
    encode = functools.partial(prepare_features, records, splits=["train"], progress=False)
    [report] = encode(cached.path, output=tmp_path / "half", max_clip_error=limit)
    assert report.kept == (errors <= limit).sum()
    assert report.dropped == 6 - report.kept
    with refused(argument="max_clip_error"):
        encode(cached.path, output=tmp_path / "none", max_clip_error=0.0)
    with refused(argument="max_clip_error"):
        encode("tiny", output=tmp_path / "frames", max_clip_error=100.0)


def test_diffusion_trains_on_the_cache_and_refuses_one_of_another_model(motion, cached, records, tmp_path):
    init = dataclasses.replace(load_config("configs/tiny/lvmm.py:diffusion").init, model=str(cached.path))
    config = config_of("diffusion", records, steps=2, init=init)
    assert train(config, tmp_path / "run").step == 2
    model = exported(tmp_path / "run", tmp_path / "model", config)
    assert set(ModelFolder(model.path).config.components()) == set(SMALL.components())
    other = dataclasses.replace(config, init=dataclasses.replace(init, model=str(motion[0].path)))
    with refused(argument="encoders"):
        train(other, tmp_path / "other")


def test_a_changed_bit_in_the_cache_is_found(cached, records, tmp_path):
    features = shutil.copytree(records / "features" / "val", tmp_path / "val")
    cache = ClipCache(features, encoders={})
    assert cache.read(0, "latents").shape == (5, 4, 4, 4)
    path = array_path(features, 0, "latents")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    changed = ClipCache(features, encoders={})
    with pytest.raises(Exception, match="checksum"):
        changed.read(1, "latents")
    assert jax.tree.leaves(changed.read(0, "latents"))
