"""Files of LFDM and MRAA: every published name, the data set, and round trips through the command line."""

import dataclasses
import json

import numpy as np
import pytest

from smcd_jax.cli import main
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.lfdm.config import LFDMConfig
from smcd_jax.models.lfdm.conversion import CONVERSION
from smcd_jax.models.lvmm.autoencoder_config import (
    BackgroundPredictorConfig,
    FlowPredictorConfig,
    RegionPredictorConfig,
    RendererConfig,
)
from smcd_jax.models.lvmm.conversion.autoencoder_file import (
    AUTOENCODER_COMPONENTS,
    autoencoder_configs,
    autoencoder_rows,
)
from smcd_jax.models.lvmm.conversion.unet_file import unet_file_rows
from smcd_jax.models.lvmm.unet_config import MotionUNetConfig
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.weights.conversion_engine import match
from smcd_jax.weights.tensor_files import LazyTensor
from tests.cli.command_errors import failure
from tests.conftest import SHARED
from tests.errors import refused

torch = pytest.importorskip("torch")

KEYS = SHARED / "golden_lvmm" / "keys"
needs_keys = pytest.mark.skipif(not KEYS.is_dir(), reason=f"needs {KEYS}")
SMALL = LFDMConfig(
    region_predictor=RegionPredictorConfig(base_channels=2, max_channels=16, padding=0),
    background_predictor=BackgroundPredictorConfig(base_channels=2, max_channels=16),
    flow_predictor=FlowPredictorConfig(base_channels=2, max_channels=16, align_corners=False),
    renderer=RendererConfig(base_channels=4, max_channels=8, align_corners=False, without_occlusion="replace"),
    unet=MotionUNetConfig(
        **{"input_channels": 11, "grid_channels": 2, "confidence_channels": 1, "base_channels": 8, "heads": 1},
        **{"channel_mult": (1, 2), "condition": "vector", "context_dim": 12},
    ),
)


def published_shapes():
    """Returns the shapes in LFDM's file for MHAD by name; each name starts with the key of its dictionary."""
    groups = ("generator", "region_predictor", "bg_predictor")
    read = {group: json.loads((KEYS / f"lfdm_mhad_{group}.json").read_text()) for group in groups}
    return {f"{group}.{name}": tuple(shape) for group, names in read.items() for name, shape in names.items()}


def shapes_of(rows, config):
    leaves = flatten(abstract_params(config))
    return {row.torch: row.layout.torch_shape(leaves[row.path].shape) for row in rows}


def small_tensors():
    """Returns random tensors of a small model, with all extra entries of the published file."""
    rng, tensors = np.random.default_rng(0), {}
    for name in AUTOENCODER_COMPONENTS:
        config = getattr(SMALL, name)
        for key, shape in shapes_of(autoencoder_rows(name, config), config).items():
            tensors[key] = rng.normal(size=shape).astype(np.float32)
            if key.endswith("running_var"):
                tensors[key.replace("running_var", "num_batches_tracked")] = np.array(rng.integers(1 << 40), np.int64)
    for prefix in ("region_predictor", "generator.pixelwise_flow_predictor"):
        tensors[f"{prefix}.down.weight"] = rng.normal(size=(3, 1, 13, 13)).astype(np.float32)
    return tensors


def nested(tensors):
    groups = {name.split(".")[0]: {} for name in tensors}
    for name, array in tensors.items():
        group, rest = name.split(".", 1)
        groups[group][rest] = torch.from_numpy(array)
    return groups


def write_published(folder):
    """Writes the two files as LFDM saves them, with their training state."""
    tensors, rng = small_tensors(), np.random.default_rng(1)
    state = {"optimizer": {"state": {0: {"step": 7}}, "param_groups": []}, "epoch": 99, "example": torch.zeros(1, 3)}
    torch.save({"example": torch.zeros(2), **nested(tensors), **state}, folder / "mhad_autoencoder.pth")
    unet = shapes_of(unet_file_rows(SMALL.unet), SMALL.unet)
    diffusion = {name: torch.tensor(rng.normal(size=shape).astype(np.float32)) for name, shape in unet.items()}
    diffusion["betas"] = torch.linspace(0, 1, 10)
    example = torch.zeros(1, 3, 8, 8)
    torch.save(
        {"example": example, "diffusion": diffusion, "optimizer_diff": {"state": {}}}, folder / "mhad_diffusion.pth"
    )
    return tensors, diffusion


def convert(folder, output, *more):
    file = ["--lfdm", str(folder / "mhad_autoencoder.pth")]
    return main(["convert", *file, "--output", str(output), *map(str, more)])


@needs_keys
def test_every_published_name_is_a_leaf_or_kept():
    shapes = published_shapes()
    tensors = {name: LazyTensor(shape, lambda: None) for name, shape in shapes.items()}
    configs = autoencoder_configs(tensors, padding=0, path="lfdm.pth")
    used = set()
    for name, config in configs.items():
        rows = autoencoder_rows(name, config)
        own = {row.torch: tensors[row.torch] for row in rows}
        match(rows, own, flatten(abstract_params(config)), where=name)
        used |= set(own)
    others = set(shapes) - used
    assert {name.rsplit(".", 1)[1] for name in others} == {"num_batches_tracked", "weight"}
    assert len([name for name in others if name.endswith("down.weight")]) == 2


@needs_keys
def test_configs_are_those_that_were_published():
    tensors = {name: LazyTensor(shape, lambda: None) for name, shape in published_shapes().items()}
    found = autoencoder_configs(tensors, padding=0, path="lfdm.pth")
    given = json.loads((KEYS / "configs.json").read_text())["lfdm_mhad"]
    region, flow = given["region_predictor_params"], given["generator_params"]["pixelwise_flow_predictor_params"]
    assert found["region_predictor"] == RegionPredictorConfig(
        regions=given["num_regions"], padding=region["pad"], max_channels=region["max_features"]
    )
    assert found["flow_predictor"] == FlowPredictorConfig(
        base_channels=flow["block_expansion"], max_channels=flow["max_features"], align_corners=False
    )
    assert found["background_predictor"] == BackgroundPredictorConfig()
    renderer = found["renderer"]
    assert (renderer.base_channels, renderer.levels, renderer.residual_blocks) == (64, 2, 6)
    assert not renderer.align_corners


@needs_keys
def test_the_small_file_has_the_published_names():
    assert set(small_tensors()) == set(published_shapes())


def test_both_files_there_and_back_bit_for_bit(tmp_path, capsys):
    tensors, diffusion = write_published(tmp_path)
    assert convert(tmp_path, tmp_path / "model", "--lfdm_diffusion", tmp_path / "mhad_diffusion.pth") == 0
    said = capsys.readouterr()
    assert "epoch, example, optimizer" in said.out + said.err
    folder = ModelFolder(tmp_path / "model")
    assert folder.family.name == "lfdm"
    assert folder.config.region_predictor.padding == 0
    assert folder.config.unet == SMALL.unet
    assert main(["convert", "--to_torch", str(tmp_path / "model"), "--output", str(tmp_path / "back")]) == 0
    back = torch.load(tmp_path / "back" / "flow_autoencoder.pth", weights_only=True)
    assert set(back) == {"generator", "region_predictor", "bg_predictor"}
    for group, wanted in nested(tensors).items():
        assert set(back[group]) == set(wanted)
        for name, tensor in wanted.items():
            assert back[group][name].dtype == tensor.dtype, name
            assert torch.equal(back[group][name], tensor), name
    again = torch.load(tmp_path / "back" / "diffusion.pth", weights_only=True)["diffusion"]
    assert set(again) == set(diffusion)
    assert all(torch.equal(again[name], tensor) for name, tensor in diffusion.items())


def test_written_files_are_read_again_with_their_config(tmp_path):
    """Also covers safetensors files, whose names contain the dictionary keys, and paths that name no data set."""
    tensors, _ = write_published(tmp_path)
    convert(tmp_path, tmp_path / "model")
    command = ["convert", "--to_torch", str(tmp_path / "model"), "--output", str(tmp_path / "back")]
    assert main([*command, "--format", "safetensors"]) == 0
    model = CONVERSION.read({"lfdm": tmp_path / "back" / "flow_autoencoder.safetensors"})
    before = ModelFolder(tmp_path / "model").config
    assert set(model.config.autoencoder_leftovers.names) == set(before.autoencoder_leftovers.names)
    assert dataclasses.replace(model.config, autoencoder_leftovers=before.autoencoder_leftovers) == before
    read = {name: part for source in model.sources.values() for name, part in source.tensors.items()}
    assert set(read) == set(tensors)
    assert all(np.array_equal(read[name].numpy(), array) for name, array in tensors.items())


@pytest.mark.parametrize(
    ("name", "stated", "padding"), [("LFAE_MUG.pth", None, 3), ("taichi256.pth", None, 0), ("x.pth", "vox", 3)]
)
def test_the_padding_follows_from_the_data_set(tmp_path, name, stated, padding):
    folder = tmp_path / "weights"
    folder.mkdir()
    write_published(folder)
    (folder / "mhad_autoencoder.pth").rename(folder / name)
    model = CONVERSION.read({"lfdm": folder / name, "trained_on": stated})
    assert model.config.region_predictor.padding == padding
    assert model.config.flow_predictor.align_corners is False


def test_an_unnamed_data_set_must_be_stated(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    write_published(folder)
    (folder / "mhad_autoencoder.pth").rename(folder / "x.pth")
    with refused("trained_on"):
        CONVERSION.read({"lfdm": folder / "x.pth"})
    with refused("trained_on", value="dogs"):
        CONVERSION.read({"lfdm": folder / "x.pth", "trained_on": "dogs"})
    command = ["convert", "--lfdm", str(folder / "x.pth"), "--output", str(tmp_path / "model")]
    assert failure(command).argument == "trained_on"


def test_files_of_different_models_are_refused(tmp_path):
    write_published(tmp_path)
    file = torch.load(tmp_path / "mhad_diffusion.pth", weights_only=True)
    kernel = file["diffusion"]["denoise_fn.init_conv.weight"]
    file["diffusion"]["denoise_fn.init_conv.weight"] = kernel.repeat(1, 2, 1, 1, 1)
    torch.save(file, tmp_path / "mhad_diffusion.pth")
    files = {"lfdm": tmp_path / "mhad_autoencoder.pth", "lfdm_diffusion": tmp_path / "mhad_diffusion.pth"}
    with refused("lfdm_diffusion", value=22):
        CONVERSION.read(files)
