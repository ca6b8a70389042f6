"""The conversion tables, compared with every published name and shape, and the mismatches that conversion refuses."""

import dataclasses
import json

import numpy as np
import pytest

from smcd_jax.conversion.i3d_table import i3d_rows, without_counters
from smcd_jax.models.smcd.config import ControlNetConfig, ImageEncoderConfig
from smcd_jax.models.smcd.conversion.detect import controlnet_config, image_encoder_config, unet_config
from smcd_jax.models.smcd.conversion.table import controlnet_rows, image_encoder_rows, unet_rows
from smcd_jax.models.tables.autoencoder_kl import autoencoder_config, autoencoder_rows
from smcd_jax.models.tables.box_tokens import position_net_config, position_net_rows
from smcd_jax.models.tables.clip_towers import (
    split_towers,
    text_encoder_config,
    text_encoder_rows,
    vision_encoder_config,
    vision_encoder_rows,
)
from smcd_jax.nn.config import AutoencoderConfig, PositionNetConfig, TextEncoderConfig, UNetConfig, VisionEncoderConfig
from smcd_jax.nn.i3d import I3D, I3DConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.weights.conversion_engine import match, to_flax, to_torch
from smcd_jax.weights.conversion_table import CONV, KEEP, LINEAR, POINTWISE_1D, POINTWISE_2D, TEMPORAL, Row
from tests.errors import refused

PUBLISHED = UNetConfig()
UNETS = {
    "unet_base": PUBLISHED,
    "unet_base_cat_init": dataclasses.replace(PUBLISHED, image_latent=True),
    "unet_stage1_vanilla": dataclasses.replace(PUBLISHED, gate="object"),
    "unet_final_vanilla_cross_vision_cat_init": dataclasses.replace(PUBLISHED, gate="object_image", image_latent=True),
    "unet_vanilla_cross_vision_parallel": dataclasses.replace(PUBLISHED, gate="parallel"),
    "unet_vanilla_cross_vision_clip_vision": dataclasses.replace(PUBLISHED, gate="parallel", image_width=1280),
    "unet_double": dataclasses.replace(PUBLISHED, gate="double"),
    "unet_merge": dataclasses.replace(PUBLISHED, gate="merge"),
    "unet_use_control": dataclasses.replace(PUBLISHED, control=True),
    "unet_base_fps": dataclasses.replace(PUBLISHED, fps_embedding=True),
}
OTHERS = {
    "controlnet": (ControlNetConfig(), controlnet_rows, controlnet_config),
    "position_net": (PositionNetConfig(), position_net_rows, position_net_config),
    "visual_encoder": (ImageEncoderConfig(), image_encoder_rows, image_encoder_config),
    "autoencoder_kl": (AutoencoderConfig(), autoencoder_rows, autoencoder_config),
}
CASES = {name: (config, unet_rows, unet_config) for name, config in UNETS.items()} | OTHERS


@dataclasses.dataclass
class Shape:
    shape: tuple


def published(shared, name):
    shapes = json.loads((shared / "golden" / "keys" / f"{name}.json").read_text())
    return {key: Shape(tuple(shape)) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_published_name_is_one_leaf_of_the_right_shape(shared, name):
    config, rows, _ = CASES[name]
    tensors, leaves = published(shared, name), flatten(abstract_params(config))
    match(rows(config), tensors, leaves, where=name)
    assert len(rows(config)) == len(tensors) == len(leaves)


@pytest.mark.parametrize("name", CASES)
def test_config_is_inferred_from_names_and_shapes(shared, name):
    config, _, detect = CASES[name]
    assert detect(published(shared, name), path=name) == config


def test_every_openclip_name_is_one_leaf_of_a_tower(shared):
    tensors = published(shared, "openclip_vit_h_14")
    text, vision = split_towers(tensors)
    assert len(text) + len(vision) == len(tensors)
    match(text_encoder_rows(TextEncoderConfig()), text, flatten(abstract_params(TextEncoderConfig())), where="text")
    leaves = flatten(abstract_params(VisionEncoderConfig()))
    match(vision_encoder_rows(VisionEncoderConfig()), vision, leaves, where="vision")
    assert text_encoder_config(text, path="here") == TextEncoderConfig()
    assert vision_encoder_config(vision, path="here") == VisionEncoderConfig()


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_another_network_is_refused_by_its_first_missing_name(name):
    with refused(path="file") as record:
        CASES[name][2]({"fc.weight": Shape((2, 2))}, path="file")
    assert isinstance(record.value.value, str)


def test_every_i3d_name_is_one_leaf(shared):
    import jax

    tensors = without_counters(published(shared, "i3d"))
    module = I3D(I3DConfig(), ComputePolicy())
    abstract = jax.eval_shape(lambda: module.init(jax.random.key(0), method="dummy_call")["params"])
    match(i3d_rows(I3DConfig()), tensors, flatten(abstract), where="i3d")
    assert len(i3d_rows(I3DConfig())) == len(tensors) == len(flatten(abstract))


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (KEEP, (3,)),
        (KEEP, ()),
        (LINEAR, (2, 3)),
        (CONV, (2, 3, 5, 7)),
        (POINTWISE_1D, (2, 3, 1)),
        (POINTWISE_2D, (2, 3, 1, 1)),
        (TEMPORAL, (2, 3, 5, 1, 1)),
    ],
)
def test_layouts_invert(layout, shape):
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    there = layout.to_flax(array)
    np.testing.assert_array_equal(layout.to_torch(there), array)
    assert layout.torch_shape(there.shape) == shape


ROWS = [Row("a.weight", "a/kernel", LINEAR), Row("b", "b", KEEP)]
TENSORS = {"a.weight": np.zeros((2, 3)), "b": np.zeros(4)}
LEAVES = {"a/kernel": np.zeros((3, 2)), "b": np.zeros(4)}


@pytest.mark.parametrize(
    ("rows", "tensors", "leaves", "problems"),
    [
        (ROWS, TENSORS | {"c": np.zeros(1)}, LEAVES, {"unmapped": ["c"]}),
        (ROWS, {"b": TENSORS["b"]}, LEAVES, {"missing": ["a.weight"]}),
        (ROWS[1:], {"b": TENSORS["b"]}, LEAVES, {"unset": ["a/kernel"]}),
        ([*ROWS, Row("c", "b", KEEP)], TENSORS | {"c": np.zeros(4)}, LEAVES, {"set twice": ["b"]}),
        (ROWS, TENSORS | {"a.weight": np.zeros((3, 2))}, LEAVES, {"wrong shape": ["a.weight (3, 2), expected (2, 3)"]}),
    ],
)
def test_anything_that_does_not_fit_is_listed(rows, tensors, leaves, problems):
    with refused(path="file", value=problems) as record:
        match(rows, tensors, leaves, where="unet in file", path="file")
    for names in problems.values():
        assert names[0] in str(record.value)


def test_both_directions_of_a_table_agree():
    tensors = {"a.weight": np.arange(6.0).reshape(2, 3), "b": np.arange(4.0)}
    back = to_torch(ROWS, to_flax(ROWS, tensors))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)
