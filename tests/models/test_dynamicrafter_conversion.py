"""DynamiCrafter's files: every published name, variants, prefixes, stored schedules, and conversion back."""

import dataclasses
import json

import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.conversion.to_model_folder import convert_to_model_folder
from smcd_jax.conversion.to_torch import convert_to_torch
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.conversion import get_conversion
from smcd_jax.models.dynamicrafter.config import PRESETS
from smcd_jax.models.dynamicrafter.conversion import checkpoint, detect
from smcd_jax.models.dynamicrafter.conversion.table import FPS, FRAMESTRIDE, component_rows
from smcd_jax.models.registry import get_family
from smcd_jax.models.tables.schedule_tables import schedule_tables
from smcd_jax.nn.config import PositionNetConfig
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.weights.conversion_engine import match
from smcd_jax.weights.tensor_files import LazyTensor, open_tensors, save_tensors
from tests.cli.command_errors import failure
from tests.conftest import SHARED
from tests.errors import refused

KEYS = SHARED / "golden_dynamicrafter" / "keys"
CONVERSION = get_conversion(get_family("dynamicrafter"))
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason=f"needs {KEYS}")


def tables_of(config):
    schedule = NoiseSchedule(
        prediction_type=config.prediction_type,
        rescale_zero_terminal_snr=config.zero_terminal_snr,
        dynamic_rescale=config.dynamic_rescale,
    )
    return schedule_tables(schedule)


def published(monkeypatch, tmp_path, variant, *, file="model.ckpt", rename=None, stated=None):
    """Returns the model read from a file with a variant's published names and shapes."""
    shapes = json.loads((KEYS / f"checkpoint_{variant}.json").read_text())
    tables = tables_of(PRESETS[f"dynamicrafter_{variant}"])
    zero = np.float32(0)
    arrays = {name: tables.get(name, np.broadcast_to(zero, shape)) for name, shape in shapes.items()}
    arrays = {rename(name) if rename else name: array for name, array in arrays.items()}
    tensors = {name: LazyTensor(array.shape, lambda array=array: array) for name, array in arrays.items()}
    monkeypatch.setattr(checkpoint, "open_tensors", lambda path: tensors)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return CONVERSION.read({"dynamicrafter": path, "variant": stated}), set(arrays)


@needs_keys
@pytest.mark.parametrize("variant", ["256", "512"])
def test_every_published_name_has_one_leaf_and_is_restored(monkeypatch, tmp_path, variant):
    model, names = published(monkeypatch, tmp_path, variant)
    for name, source in model.sources.items():
        match(source.rows, source.tensors, flatten(abstract_params(source.config)), where=name)
    assert {name for source in model.sources.values() for name in source.tensors} == names
    (file,) = CONVERSION.torch_files(model.config)
    written = [row.torch for rows in file.tables.values() for row in rows]
    assert len(written) == len(set(written)) == len(names)
    assert set(written) == names
    for other in {"512": ("1024", "512_interp")}.get(variant, ()):
        assert json.loads((KEYS / f"checkpoint_{other}.json").read_text()).keys() == names


@needs_keys
@pytest.mark.parametrize("variant", ["256", "512", "1024", "512_interp"])
def test_the_variant_follows_from_names_shapes_and_tables(monkeypatch, tmp_path, variant):
    folder = f"dynamicrafter_{variant}_v1/model.ckpt"
    model, _ = published(monkeypatch, tmp_path, variant, file=folder)
    expected = PRESETS[f"dynamicrafter_{variant}"]
    for name in ("unet", "resampler", "image_tower", "text_encoder", "autoencoder"):
        assert getattr(model.config, name) == getattr(expected, name)
    for name in ("prediction_type", "dynamic_rescale", "interpolation", "height", "frame_rate"):
        assert getattr(model.config, name) == getattr(expected, name)
    assert any("agree" in note for note in model.notes)


@needs_keys
def test_a_stated_variant_must_fit_the_arrays(monkeypatch, tmp_path):
    model, _ = published(monkeypatch, tmp_path, "512", stated="512_interp")
    assert model.config.interpolation
    with refused("variant", value="1024"):
        published(monkeypatch, tmp_path, "512", stated="1024")
    with refused("variant", value="2048"):
        published(monkeypatch, tmp_path, "512", stated="2048")


@needs_keys
def test_prefixes_of_deepspeed_and_the_old_name_of_the_frame_rate_are_read(monkeypatch, tmp_path):
    model, _ = published(monkeypatch, tmp_path, "512", rename=lambda name: "_forward_module." + name)
    assert len(model.sources["unet"].tensors) == 1516
    model, names = published(monkeypatch, tmp_path, "256", rename=lambda name: name.replace(FPS, FRAMESTRIDE))
    assert model.config.leftovers.framestride_names
    written = {row.torch for rows in component_rows(model.config).values() for row in rows}
    assert written == names


def test_gates_and_position_net_have_names_of_our_own_and_are_recognised(tmp_path):
    """Gates have the same names as SMCD's gates, below DynamiCrafter's module names."""
    unet = dataclasses.replace(PRESETS["dynamicrafter_tiny"].unet, gate="object", groups=32)
    position_net = PositionNetConfig(label_width=64, token_width=64, hidden_width=64)
    config = dataclasses.replace(PRESETS["dynamicrafter_tiny"], unet=unet, position_net=position_net)
    rows = component_rows(config)
    leaves = {name: flatten(abstract_params(getattr(config, name))) for name in ("unet", "position_net")}
    for name, parts in leaves.items():
        assert {row.path for row in rows[name]} == set(parts)
    shapes = {row.torch: row.layout.torch_shape(leaves["unet"][row.path].shape) for row in rows["unet"]}
    assert "model.diffusion_model.middle_block.1.transformer_blocks.0.gate_attn.alpha_attn" in shapes
    assert all(row.torch.startswith("position_net.") for row in rows["position_net"])
    zero, prefix = np.float32(0), "model.diffusion_model."
    tensors = {name.removeprefix(prefix): np.broadcast_to(zero, shape) for name, shape in shapes.items()}
    found = detect.unet_config(tensors, path=tmp_path, head_width=16)
    assert dataclasses.replace(found, image_tokens_per_frame=4) == unet


def test_tables_of_another_schedule_are_reported():
    config = PRESETS["dynamicrafter_512"]
    same = checkpoint._schedule_notes(config, tables_of(config))
    other = checkpoint._schedule_notes(config, tables_of(PRESETS["dynamicrafter_1024"]))
    older = checkpoint._schedule_notes(config, tables_of(PRESETS["dynamicrafter_256"]))
    assert "agree" in same[0]
    assert "1 of 13" in other[0]  # only the rescale table
    assert "of 12 stored tables" in older[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    assert main(["convert", "--preset", "dynamicrafter_tiny", "--output", str(folder)]) in (0, None)
    return folder


@pytest.mark.parametrize("format", [pytest.param("bin", marks=pytest.mark.slow), "safetensors"])
def test_a_file_comes_back_bit_for_bit(tiny, tmp_path, format):
    """Includes unused arrays and schedule tables, under names that only the 256 file uses."""
    first = tmp_path / "first"
    (path, _) = convert_to_torch(tiny, first, format=format)
    tensors = {name: tensor.numpy() for name, tensor in open_tensors(path).items()}
    rng = np.random.default_rng(0)
    tensors |= tables_of(PRESETS["dynamicrafter_tiny"])
    tensors["embedder.model.token_embedding.weight"] = rng.standard_normal((5, 3)).astype(np.float16)
    tensors = {name.replace(FPS, FRAMESTRIDE): np.array(array, order="C") for name, array in tensors.items()}
    save_tensors(path, tensors, key="state_dict")
    conversion = convert_to_model_folder(tmp_path / "model", "dynamicrafter", {"dynamicrafter": first})
    assert conversion.folder.config.leftovers.names
    back, _ = convert_to_torch(tmp_path / "model", tmp_path / "back", format=format)
    found = {name: tensor.numpy() for name, tensor in open_tensors(back).items()}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array), name


def test_weights_of_another_family_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"input_blocks.0.0.weight": np.zeros((4, 4), np.float32)})
    error = failure(["convert", "--dynamicrafter", str(path), "--output", str(tmp_path / "out")])
    assert (error.argument, error.path, error.value) == ("dynamicrafter", str(path), "unet")
