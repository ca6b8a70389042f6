"""Few-step distillation: the loss, the frozen teacher of every family, and a model folder with fixed guidance."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.diffusion.samplers import initial_state
from smcd_jax.diffusion.sampling import on_device, sample
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.branches import branch_inputs, branch_outputs
from smcd_jax.models.registry import make_model
from smcd_jax.nn.networks import flatten, init_params
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.runtime.sharding import MeshShape, make_mesh
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.training.config import DistillConfig, TrainConfig, load_config
from smcd_jax.training.distill import TEACHER, _teacher, distillation_objective, distilled_of
from smcd_jax.training.selection import join
from smcd_jax.training.step import TrainProgram
from tests.cli.command_errors import failure
from tests.errors import refused
from tests.models import toy_config
from tests.models.toy_family import ToyConfig
from tests.training.training_run import training_files

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODEL = make_model(ToyConfig())
VIDEO = np.random.default_rng(1).integers(0, 256, (4, 2, 16, 16, 3), np.uint8)
BATCH = {"video": jnp.asarray(VIDEO)}


@pytest.fixture(scope="module")
def params():
    net = init_params(ToyConfig().net, jax.random.key(3))
    return {"net": net, TEACHER: {"net": net}}


def config_of(scale: float, *, steps: int = 4, teacher_steps: int = 1, rescale: float = 0.0) -> TrainConfig:
    guidance = {"image_guidance_scale": scale, "guidance_rescale": rescale}
    distill = DistillConfig(steps, teacher_steps, guidance)
    return TrainConfig(family="toy", model=ToyConfig(), objective="distill", distill=distill)


def loss_of(config, params):
    objective = jax.jit(distillation_objective(config, MODEL, {}), static_argnames="train")
    return objective(params, {}, BATCH, jax.random.key(0), train=False)[0]


def test_a_student_that_already_makes_the_step_of_its_teacher_has_no_loss(params):
    losses = loss_of(config_of(1.0), params)
    np.testing.assert_allclose(losses.loss, 0, atol=1e-6)
    assert losses.timestep_bucket.tolist() == [3, 2, 1, 0]  # one example per student step
    doubled = {**params, TEACHER: jax.tree.map(lambda leaf: 2 * leaf, params[TEACHER])}
    assert (loss_of(config_of(1.0), doubled).loss > 1e-3).all()


def test_the_loss_of_an_untrained_student_is_the_effect_of_guidance(params):
    """At scale 3, guided minus conditional output is twice the difference between conditional and unconditional."""
    noise = jax.random.normal(jax.random.split(jax.random.split(jax.random.key(0), 3)[1])[0], VIDEO.shape)
    features = MODEL.features(params, BATCH, jax.random.key(0))
    branches = (frozenset(), frozenset({"picture"}))
    inputs = branch_inputs(MODEL, MODEL.inputs(features), branches)
    without, given = branch_outputs(MODEL, params, inputs, 2)(noise, jnp.float32(999))
    expected = jnp.square(2 * (given - without)).mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(loss_of(config_of(3.0, steps=1), params).loss, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("row", [0, 2, 3])
def test_the_teacher_makes_the_steps_of_the_sampling_loop(params, row):
    config = config_of(2.0, teacher_steps=3, rescale=0.7)
    options = MODEL.resolve(distilled_of(config).teacher_options(3))
    table, guidance = MODEL.solver_table(options), MODEL.guidance(options.as_dict())
    inputs = MODEL.inputs(MODEL.features(params, BATCH, jax.random.key(0)))
    x = jax.random.normal(jax.random.key(5), VIDEO.shape)
    predict = branch_outputs(MODEL, params, branch_inputs(MODEL, inputs, guidance.branches), len(guidance.branches))
    settings = {"weights": jnp.asarray(guidance.weights), "keys": jax.random.split(jax.random.key(0), 4)}
    settings |= {"table": on_device(table), "guidance_rescale": options.guidance_rescale}
    expected = sample(predict, initial_state(x), start=3 * row, stop=3 * row + 3, **settings).latents
    found = _teacher(config, MODEL)(params, inputs, x, jnp.full(4, row))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file", ["smcd/distill.py:tiny", "dynamicrafter/tiny.py:boxes"])
def test_the_objective_of_every_family_has_a_frozen_teacher(file):
    config = load_config(f"{CONFIGS / file}", ["objective=distill", "dropout=False"])
    mesh = make_mesh(MeshShape(), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        program = TrainProgram(config, mesh)
        params = join(program.state.params, program.frozen)
        losses, _ = jax.eval_shape(program.objective, params, {}, program.batch, jax.random.key(0))
    assert losses.loss.shape == (config.data.batch_size,)
    trained, teacher = set(flatten(program.state.params)), set(flatten(program.frozen[TEACHER]))
    assert trained <= teacher
    assert {path.split("/", 1)[0] for path in teacher} == {path.split("/", 1)[0] for path in trained}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with training_files(tmp_path_factory.getbasetemp()) as made:
        yield made


def test_the_command_writes_a_model_with_fixed_guidance_and_resumes(files, tmp_path):
    base, work, output = tmp_path / "base", tmp_path / "work", tmp_path / "fast"
    records = f"--config.data.records={files.records}"
    train = ["train", "--config", toy_config.__file__, "--workdir", str(tmp_path / "run"), records]
    assert main([*train, "--config.run.steps=1", "--config.run.sample_every=0"]) == 0
    assert main(["export", "--workdir", str(tmp_path / "run"), "--output", str(base)]) == 0

    distill = ["distill", "--config", toy_config.__file__, "--workdir", str(work), "--output", str(output), records]
    distill += [f"--config.init.model={base}", "--config.distill.guidance.image_guidance_scale=3.0"]
    assert failure(distill).argument == "objective"
    distill.append("--config.objective=distill")
    assert main([*distill, "--config.run.steps=2"]) == 0
    assert failure(distill).argument == "output"
    assert main([*distill, "--overwrite"]) == 0  # resumes from the checkpoint of step 2 and ends at step 4
    assert json.loads((output / "model.json").read_text())["distilled"]["guidance"] == {"image_guidance_scale": 3.0}
    assert "step 4" in ModelFolder(output).origin.note
    assert flatten(ModelFolder(output).params("net")).keys() == flatten(ModelFolder(base).params("net")).keys()

    pipeline = VideoPipeline.from_pretrained(output)
    video = pipeline(VIDEO[0, 0], num_frames=2, output_type="latent")
    options = video.request.options
    assert (options.num_inference_steps, options.timestep_spacing, options.eta) == (4, "trailing", 0.0)
    assert len(pipeline.model.guidance(options.as_dict()).branches) == 1
    for name, value in (("image_guidance_scale", 2.0), ("guidance_rescale", 0.5), ("negative_prompt", "fog")):
        with refused(name, value=value):
            pipeline.model.resolve(SamplingOptions(**{name: value}))
