"""The small model's recipe: configs load, stage times add up, and a stopped command says how to resume."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.sprites import WorldConfig
from launch.train_small import (
    CLASSES,
    RESERVE,
    STAGES,
    STARTS,
    WORLD,
    Progress,
    held_out_clips,
    world_options,
)
from smcd_jax.model_folder import ModelFolder
from smcd_jax.training.config import load_config
from tests.errors import refused

ROOT = Path(__file__).resolve().parents[2]


class TestTimes:
    @pytest.mark.parametrize("size", STAGES)
    def test_stages_and_reserves_use_the_whole_time(self, tmp_path, size):
        progress = Progress(tmp_path, 100.0, size)
        minutes = {}
        for stage in STAGES[size]:
            minutes[stage.name] = progress.minutes_of(stage)
            progress.values["used_seconds"] += 60 * minutes[stage.name]
        assert 80 < sum(minutes.values()) <= 100 * (1 - RESERVE["distill"]) + 0.1
        assert progress.left == pytest.approx(100 - sum(minutes.values()), abs=0.1)
        assert max(minutes, key=minutes.get) == "scene"

    def test_a_late_stage_gets_its_share_of_what_is_left(self, tmp_path):
        progress, stages = Progress(tmp_path, 100.0, 128), STAGES[128]
        first = progress.minutes_of(stages[0])
        progress.values["used_seconds"] = 60 * (first + 30)  # half an hour more than the stage's time
        late = [progress.minutes_of(stages[1])]
        share = stages[1].share / (1 - stages[0].share)
        assert late[0] == pytest.approx((70 - first - 100 * RESERVE["base_pictures"]) * share, abs=0.1)
        progress.values["used_seconds"] = 60 * 200
        assert progress.minutes_of(stages[2]) == 1.0  # no time is left, so the stage gets 1 % of the total

    def test_a_resumed_run_keeps_its_time_and_the_minutes_of_stages(self, tmp_path):
        progress = Progress(tmp_path, 100.0, 64)
        progress.values["used_seconds"] = 600.0
        minutes = progress.minutes_of(STAGES[64][0])
        again = Progress(tmp_path, None, 64)
        assert again.left == pytest.approx(90, abs=0.1)
        assert again.minutes_of(STAGES[64][0]) == minutes
        assert json.loads((tmp_path / "progress.json").read_text())["stages"] == {"autoencoder": minutes}

    def test_a_new_run_needs_minutes(self, tmp_path):
        with pytest.raises(SystemExit, match="minutes"):
            Progress(tmp_path, None, 64)

    def test_a_run_of_another_size_is_not_continued(self, tmp_path):
        Progress(tmp_path, 100.0, 64)
        with pytest.raises(SystemExit, match="add --size 64"):
            Progress(tmp_path, 100.0, 128)

    @pytest.mark.parametrize(
        ("size", "minutes", "clips"),
        [(64, 400.0, 200), (64, 200.0, 200), (64, 60.0, 60), (64, 1.0, 8), (128, 30.0, 200)],
    )
    def test_a_short_run_on_cpus_evaluates_fewer_clips(self, size, minutes, clips):
        assert held_out_clips(size, minutes) == clips


class TestConfigs:
    @pytest.mark.parametrize(
        ("size", "stage"),
        [pytest.param(size, stage, id=f"{stage.name}-{size}") for size, stages in STAGES.items() for stage in stages],
    )
    def test_the_config_of_a_stage_follows_the_time(self, stage, size):
        config = load_config(f"configs/small/{stage.config}:{size}")
        assert config.run.minutes > 0
        assert config.optimizer.schedule == "cosine"
        assert config.model.height == config.model.width == size
        assert config.model.autoencoder.downscale == size // 16  # both have latents of 16 x 16 pixels
        assert config.data.records == (f"runs/small_{size}/records",)

    def test_other_sizes_are_refused(self):
        with refused("preset", value="96"):
            load_config("configs/small/autoencoder.py:96")
        with refused("preset", value="64"):
            load_config("configs/small/base_clips.py:64")

    def test_a_model_of_64_pixels_has_the_networks_of_tiny(self):
        config = load_config("configs/small/stage2_scene.py:64").model
        assert config.components() == ModelFolder("tiny").config.components()

    def test_options_of_prepare_are_those_of_the_world(self):
        pairs = world_options(128, **STARTS)[1::2]
        options = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in pairs)}
        assert WorldConfig(**options) == WorldConfig(width=128, height=128, **WORLD, **STARTS)
        assert set(options["classes"]) == set(CLASSES)


def test_a_stopped_command_says_how_to_resume_and_keeps_the_time(tmp_path):
    command = [sys.executable, "launch/train_small.py", "--minutes", "60", "--output", str(tmp_path / "run")]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--clips", "100000"], cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "run").glob("records/*")):
            assert time.monotonic() < deadline, "the records were not begun"
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
        process.wait()
    assert "rerun the same command" in (tmp_path / "log").read_text()
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["used_seconds"] > 0
