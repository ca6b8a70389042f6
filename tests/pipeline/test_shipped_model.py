"""The shipped model: a few held-out clips give the expected metrics, and the committed figures are for its weights."""

import json
import re

import pytest

from data_pipeline.records.prepare import prepare
from smcd_jax.cli import main
from smcd_jax.evaluation.report.results import read_results
from smcd_jax.model_folder import ModelFolder
from tests.launch.test_figures import ROOT, figures

FIGURES = json.loads((figures.FIGURES / "tiny.json").read_text())
# Metrics of 8 clips sampled in 6 steps with these weights. Other processors round differently, which moves boxes by
# about a pixel; the tolerances of 0.03 in AO and 0.2 dB are several times that.
AO = {"model": 0.678, "real": 0.975, "still": 0.192, "slid": 0.959}
PSNR = {"psnr-first": 20.66, "psnr-autoencoder": 25.73}
SAMPLING = ["--num_inference_steps", "6", "--guidance_scale", "2", "--box_guidance_scale", "2", "--batch_size", "8"]
METRICS = ["--metrics", "grounding,psnr-first,psnr-autoencoder", "--trackers", "sprites", "--quiet"]


def tiny_world() -> dict:
    """Returns the options of the sprite world on which the model was trained."""
    classes = re.search(r"classes=(\[.*\])", (ROOT / "launch" / "common.sh").read_text())[1]
    return {"width": 32, "height": 32, "max_objects": 1, "classes": json.loads(classes)}


def test_a_few_held_out_clips_give_the_expected_metrics(tmp_path):
    prepare("sprites", None, tmp_path / "records", splits=["test"], options={**tiny_world(), "test_clips": 8})
    command = ["evaluate", "--model", "tiny", "--data", str(tmp_path / "records"), "--output", str(tmp_path / "out")]
    assert main([*command, *SAMPLING, *METRICS]) == 0
    rows = {row.metric.name: row for row in read_results(tmp_path / "out").rows}
    overlap = rows["ao-sprite-detector-1"]
    assert {"model": overlap.metric.value, **overlap.references} == pytest.approx(AO, abs=0.03)
    assert {name: rows[name].metric.value for name in PSNR} == pytest.approx(PSNR, abs=0.2)


def test_the_figures_belong_to_the_shipped_weights():
    assert FIGURES["all"]["list"]["clips"] == 200
    digest = ModelFolder("tiny").digest
    assert {run: one["made_with"]["model"] for run, one in FIGURES.items() if one["made_with"]} == dict.fromkeys(
        FIGURES.keys() - {"first_64"}, digest
    )
