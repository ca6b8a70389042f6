"""Without changes, the code trains, resumes, samples, exports and evaluates a family from outside this package."""

import collections
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from smcd_jax.cli import main
from smcd_jax.conversion.untrained import write_untrained
from smcd_jax.media import read_video
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.parts import drop_fields
from smcd_jax.models.registry import make_model
from smcd_jax.pipeline.request import make_request
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.training.logging.metrics import METRICS_FILE, read_metrics
from tests.cli.command_errors import failure
from tests.errors import refused
from tests.models import toy_config
from tests.models.toy_options import ToyOptionsConfig
from tests.training.training_run import training_files

pytestmark = pytest.mark.usefixtures("shared_programs")

MODEL = make_model(ToyOptionsConfig())


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
    animate = ["animate", "--model", str(model), "--image", str(picture), "--quiet"]
    assert main([*animate, "--num_inference_steps", "2", "--output", str(tmp_path / "video")]) == 0
    assert len(read_video(tmp_path / "video.mp4")[0]) == 2
    assert json.loads((tmp_path / "video.json").read_text())["options"]["image_guidance_scale"] == 2.0
    assert not (tmp_path / "video_boxes.mp4").exists()

    assert failure([*animate, "--track", "cat: 1,1,8,8"]).argument == "tracks"
    assert failure([*animate, "--undo_rescale"]).argument == "undo_rescale"

    evaluate = ["evaluate", "--model", str(model), "--data", str(files.records), "--split", "val", "--make_list", "2"]
    evaluate += ["--num_inference_steps", "2", "--metrics", "psnr-first", "--quiet"]
    assert main([*evaluate, "--output", str(tmp_path / "evaluation")]) == 0
    assert (tmp_path / "evaluation" / "metrics.json").is_file()


def test_options_of_a_family_go_through_the_command_line(tmp_path):
    model, picture = write_untrained(tmp_path / "toy", ToyOptionsConfig()).path, tmp_path / "picture.png"
    Image.fromarray(np.full((16, 16, 3), 128, np.uint8)).save(picture)
    loop = ["animate", "--model", str(model), "--image", str(picture), "--num_inference_steps", "2", "--quiet"]
    loop += ["--loop", "--end_image", str(picture), "--frame_stride", "2", "--output", str(tmp_path / "loop")]
    assert main(loop) == 0
    assert len(read_video(tmp_path / "loop.mp4")[0]) == 2
    made = json.loads((tmp_path / "loop.json").read_text())
    assert (made["options"]["loop"], made["options"]["frame_stride"], made["prompt"]) == ("ends", 2, "nothing")
    assert (made["end_image"], made["end_image_sha256"]) == (str(picture), made["image_sha256"])


def test_an_option_of_another_family_is_refused_by_name():
    """The toy family has no boxes."""
    with refused("box_guidance_scale", value=0.0):
        MODEL.resolve(SamplingOptions(image_guidance_scale=3.0, box_guidance_scale=0.0))


def test_the_family_defines_the_modes_of_an_option():
    assert MODEL.resolve(SamplingOptions(loop=True)).loop == "ends"
    assert MODEL.resolve(SamplingOptions(loop="pingpong")).loop == "pingpong"
    with refused("loop", value="guided"):
        MODEL.resolve(SamplingOptions(loop="guided"))


def test_options_and_the_last_picture_reach_the_plan():
    size = (16, 16, 3)
    first, last = np.zeros(size, np.uint8), np.full((40, 40, 3), 200, np.uint8)
    options = SamplingOptions(loop=True, end_image=last, num_videos_per_prompt=2)
    request = make_request(MODEL, image=first, prompt=None, tracks=None, options=options)
    assert request.prompts == ("nothing",) * 2
    plan = MODEL.plan(request, Tokenizer.published())
    assert (plan.latent_shape[0], plan.keep_frames) == (3, (0, 1))
    np.testing.assert_array_equal(plan.raw["video"], np.tile(np.stack([first, np.full(size, 200)]), (2, 1, 1, 1, 1)))
    with refused("tracks"):
        make_request(MODEL, image=first, prompt="a cat", tracks="tracks.json", options=SamplingOptions())


def test_a_dropped_field_takes_its_null_value_or_zeros():
    Given = collections.namedtuple("Given", ["text", "null_text", "mask", "tokens"])
    given = Given(jnp.ones((2, 3, 4)), jnp.full((1, 3, 4), 5.0), jnp.ones((2, 6), jnp.int32), None)
    fields = {"text": ("text",), "boxes": ("mask", "tokens")}
    found = drop_fields(given, fields, {name: jnp.array([True, False]) for name in fields})
    assert (found.null_text, found.tokens, found.mask.dtype) == (None, None, jnp.int32)
    np.testing.assert_array_equal(found.text[:, 0, 0], [1, 5])
    np.testing.assert_array_equal(found.mask[:, 0], [1, 0])
    assert drop_fields(given, fields, {}).text is given.text


def test_missing_options_take_the_defaults_of_the_model():
    resolved = MODEL.resolve(SamplingOptions(num_inference_steps=4))
    assert (resolved.num_inference_steps, resolved.timestep_spacing, resolved.eta) == (4, "trailing", 1.0)
    assert (resolved.height, resolved.num_frames, resolved.image_guidance_scale) == (16, 2, 2.0)
    assert MODEL.resolve(resolved) == resolved
    assert MODEL.solver_table(resolved).timesteps[:4].tolist() == [999, 749, 499, 249]
    assert MODEL.solver_table(resolved).noise[0] > 0


def test_the_models_own_noise_is_that_of_ddim_alone():
    assert MODEL.resolve(SamplingOptions(scheduler="euler")).eta == 0
