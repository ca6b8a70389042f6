"""A family that this package does not know trains, resumes, samples, exports and is evaluated by the unchanged code."""

import json

import numpy as np
import pytest
from PIL import Image

from smcd_jax.cli import main
from smcd_jax.media import read_video
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.registry import make_model
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.training.logging.metrics import METRICS_FILE, read_metrics
from tests.errors import refused
from tests.models import toy_config, toy_family
from tests.training.training_run import training_files

MODEL = make_model(toy_family.ToyConfig())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


def test_a_toy_family_goes_through_the_command_line(files, tmp_path, capsys):
    workdir, model = tmp_path / "run", tmp_path / "toy"
    train = ["train", "--config", toy_config.__file__, "--workdir", str(workdir)]
    train.append(f"--config.data.records={files.records}")
    assert main(train) == 0
    assert main([*train, "--config.run.steps=6"]) == 0
    assert "resuming after step 4" in capsys.readouterr().err
    steps = [row["step"] for row in read_metrics(workdir / METRICS_FILE) if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert list((workdir / "samples").glob("*.mp4"))

    assert main(["export", "--workdir", str(workdir), "--output", str(model)]) == 0
    assert ModelFolder(model).family.name == "toy"
    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(picture)
    animate = ["animate", "--model", str(model), "--image", str(picture), "--prompt", "a cat", "--quiet"]
    assert main([*animate, "--num_inference_steps", "2", "--output", str(tmp_path / "video")]) == 0
    assert len(read_video(tmp_path / "video.mp4")[0]) == 2
    assert json.loads((tmp_path / "video.json").read_text())["options"]["guidance_scale"] == 2.0
    assert not (tmp_path / "video_boxes.mp4").exists()

    evaluate = ["evaluate", "--model", str(model), "--data", str(files.records), "--split", "val", "--make_list", "2"]
    evaluate += ["--num_inference_steps", "2", "--metrics", "psnr-first", "--quiet"]
    assert main([*evaluate, "--output", str(tmp_path / "evaluation")]) == 0
    assert (tmp_path / "evaluation" / "metrics.json").is_file()


def test_an_option_of_another_family_is_refused_by_name():
    """The toy has no boxes to guide by."""
    with refused("box_guidance_scale", value=0.0):
        MODEL.resolve(SamplingOptions(guidance_scale=3.0, box_guidance_scale=0.0))


def test_options_that_are_not_given_are_the_models_own():
    resolved = MODEL.resolve(SamplingOptions(num_inference_steps=4))
    assert (resolved.num_inference_steps, resolved.timestep_spacing, resolved.eta) == (4, "trailing", 1.0)
    assert (resolved.height, resolved.num_frames, resolved.guidance_scale) == (16, 2, 2.0)
    assert MODEL.resolve(resolved) == resolved
    assert MODEL.solver_table(resolved).timesteps[:4].tolist() == [999, 749, 499, 249]
    assert MODEL.solver_table(resolved).noise[0] > 0


def test_the_models_own_noise_is_that_of_ddim_alone():
    assert MODEL.resolve(SamplingOptions(scheduler="euler")).eta == 0
