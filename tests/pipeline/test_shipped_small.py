"""The shipped model `small`: a few held-out clips give the expected metrics, and its figures are for its weights."""

import json

import pytest

from data_pipeline.records.prepare import prepare
from launch.train_small import FRAMES, HELD_OUT_SEED, WORLD
from smcd_jax.cli import main
from smcd_jax.evaluation.report.results import read_results
from smcd_jax.model_folder import ModelFolder
from tests.launch.test_figures import figures

FIGURES = json.loads((figures.FIGURES / "small.json").read_text())
# Metrics of 3 clips with these weights; `test_shipped_model.py` explains the tolerances.
AO, PSNR_FIRST = 0.565, 26.87


@pytest.mark.usefixtures("shared_programs")
def test_a_few_held_out_clips_give_the_expected_metrics_in_four_steps(tmp_path):
    options = {"width": 64, "height": 64, "frames": FRAMES, "seed": HELD_OUT_SEED, "test_clips": 3, **WORLD}
    prepare("sprites", None, tmp_path / "records", splits=["test"], options=options)
    command = ["evaluate", "--model", "small", "--data", str(tmp_path / "records"), "--output", str(tmp_path / "out")]
    # The quickstart of the README also samples one clip at a time, so both use the same compiled programs.
    metrics = ["--metrics", "grounding,psnr-first", "--trackers", "sprites", "--batch_size", "1", "--quiet"]
    assert main([*command, *metrics]) == 0
    rows = {row.metric.name: row.metric.value for row in read_results(tmp_path / "out").rows}
    assert rows["ao-sprite-detector-1"] == pytest.approx(AO, abs=0.03)
    assert rows["psnr-first"] == pytest.approx(PSNR_FIRST, abs=0.2)


def test_the_figures_belong_to_the_shipped_weights():
    assert FIGURES["few_steps"]["list"]["clips"] == 200
    assert FIGURES["few_steps"]["made_with"]["model"] == ModelFolder("small").digest
    assert ModelFolder("small").distilled.num_inference_steps == 4
