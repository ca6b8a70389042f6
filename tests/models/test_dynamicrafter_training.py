"""Training configs of the small DynamiCrafter: the complete step is traced, which checks every shape in it."""

from pathlib import Path

import jax
import pytest

from smcd_jax.nn.networks import flatten
from smcd_jax.runtime.sharding import MeshShape, make_mesh
from smcd_jax.training.config import load_config
from smcd_jax.training.step import TrainProgram

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "dynamicrafter" / "tiny.py"


@pytest.mark.parametrize("part", ["image", "interp", "boxes"])
def test_a_step_fits_records_without_image_tokens_or_frame_rates(part):
    config = load_config(f"{CONFIG}:{part}")
    mesh = make_mesh(MeshShape(), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        program = TrainProgram(config, mesh)
        state = jax.eval_shape(program.step, program.state, program.frozen, program.batch)
    trained = set(flatten(state.params))
    expected = {"unet", "resampler"} | ({"position_net"} if part == "boxes" else set())
    assert {path.split("/", 1)[0] for path in trained} == expected
    assert any("/gates/" in path for path in trained) == (part == "boxes")
    assert set(program.frozen) == {"text_encoder", "image_tower", "autoencoder"}
