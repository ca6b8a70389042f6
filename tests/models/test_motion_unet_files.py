"""Files of the motion UNet: LFDM's diffusion models and LVMM's UNet3D.pth, with bit-exact round trips."""

import dataclasses
import json

import numpy as np
import pytest

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.lvmm.conversion import unet_file
from smcd_jax.models.lvmm.conversion.unet_file import motion_unet_config, read_unet_file, unet_file_rows
from smcd_jax.models.lvmm.conversion.unet_table import rotary_names
from smcd_jax.models.lvmm.unet_config import LFDM_UNET, LVMM_FRAME_UNET, LVMM_UNET, MotionUNetConfig
from smcd_jax.models.tables.schedule_tables import schedule_tables
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.weights.conversion_engine import match, to_flax, to_torch
from smcd_jax.weights.tensor_files import LazyTensor, values
from tests.errors import refused

torch = pytest.importorskip("torch")

TINY = MotionUNetConfig(
    input_channels=5,
    grid_channels=2,
    confidence_channels=1,
    base_channels=8,
    channel_mult=(1, 2),
    heads=2,
    head_dim=8,
    condition="vector",
    context_dim=6,
)
VARIANTS = {
    "lfdm": TINY,
    "lvmm": dataclasses.replace(TINY, condition="tokens"),
    "nearest": dataclasses.replace(TINY, condition="tokens", upsampling="nearest", learned_null=True),
    "frame": dataclasses.replace(TINY, condition="tokens", confidence_channels=0, per_frame=True),
}


def published(config, *, dtype=np.float32):
    """Returns the tensors of a file: the network, the rotary frequencies, and for LFDM the schedule's tables."""
    rng, leaves = np.random.default_rng(0), flatten(abstract_params(config))
    tensors = {}
    for row in unet_file_rows(config):
        tensors[row.torch] = rng.standard_normal(row.layout.torch_shape(leaves[row.path].shape)).astype(dtype)
    prefix = "denoise_fn." if config.condition == "vector" else ""
    tensors |= {prefix + name: rng.random(4).astype(np.float32) for name in rotary_names(config)}
    return tensors | (schedule_tables(NoiseSchedule(kind="cosine")) if prefix else {})


def saved(path, config, tensors):
    as_torch = {name: torch.from_numpy(np.array(array, order="C")) for name, array in tensors.items()}
    state = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4}]}
    if config.condition == "vector":
        torch.save({"example": 12, "diffusion": as_torch, "optimizer_diff": state}, path)
    else:
        torch.save({"global_step": 12, "state_dict": as_torch}, path)
    return path


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_tensor_comes_back_bit_for_bit(tmp_path, config, dtype):
    tensors = published(config, dtype=dtype)
    file = read_unet_file(saved(tmp_path / "model.pth", config, tensors))
    assert file.unet.config == config
    back = {}
    for source in (file.unet, file.leftovers):
        match(source.rows, source.tensors, flatten(abstract_params(source.config)), where="file")
        back |= to_torch(source.rows, to_flax(source.rows, dict(values(source.tensors))))
    assert back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype
        assert np.array_equal(back[name], array), name


@pytest.mark.parametrize(
    ("file", "config"),
    [("lvmm_unet_flow", LVMM_UNET), ("lvmm_unet_frame", LVMM_FRAME_UNET), ("lfdm_diffusion", LFDM_UNET)],
)
def test_the_config_follows_from_published_names_and_shapes(shared, monkeypatch, tmp_path, file, config):
    listed = json.loads((shared / "golden_lvmm" / "keys" / f"{file}.json").read_text())
    tables = schedule_tables(NoiseSchedule(kind="cosine"))
    tensors = {
        name: LazyTensor(tuple(shape), lambda name=name: tables[name]) for name, shape in listed.items()
    }  # only the values of tables are loaded
    monkeypatch.setattr(unet_file, "_tensors", lambda path: tensors)
    found = read_unet_file(tmp_path / "file.pth")
    assert found.unet.config == config
    assert len(found.unet.tensors) + len(found.leftovers.tensors) == len(listed)
    assert {name for row in (found.unet, found.leftovers) for name in row.tensors} == set(listed)
    match(found.unet.rows, found.unet.tensors, flatten(abstract_params(config)), where=file)
    assert len(found.notes) == (file == "lfdm_diffusion")


def test_another_schedule_is_noted(tmp_path):
    tensors = published(TINY)
    tensors["betas"] = tensors["betas"] * np.float32(0.5)
    same = read_unet_file(saved(tmp_path / "same.pth", TINY, published(TINY))).notes
    other = read_unet_file(saved(tmp_path / "other.pth", TINY, tensors)).notes
    assert len(same) == len(other) == 1
    assert "betas" in other[0]
    assert "betas" not in same[0]


def test_files_of_other_networks_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3, 3)}, path)
    with refused(value="init_conv.weight"):
        read_unet_file(path)
    with refused(value="downs.0"):
        names = {"init_conv.weight": (8, 5, 1, 7, 7), "time_rel_pos_bias.relative_attention_bias.weight": (32, 2)}
        motion_unet_config({name: LazyTensor(shape, lambda: np.zeros(())) for name, shape in names.items()}, path=path)
