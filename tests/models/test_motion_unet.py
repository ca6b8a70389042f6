"""The motion UNet of LVMM and LFDM beyond the golden files: published names, sharding, gradients and bfloat16."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.models.lvmm.conversion.unet_table import motion_unet_rows, rotary_names
from smcd_jax.models.lvmm.sharding import motion_unet_rules
from smcd_jax.models.lvmm.unet_config import LFDM_UNET, LVMM_FRAME_UNET, LVMM_UNET, MotionUNetConfig
from smcd_jax.models.tables.imagebind import (
    IMAGEBIND_TEXT,
    IMAGEBIND_VISION,
    TEXT_MASK,
    imagebind_text_rows,
    imagebind_vision_rows,
)
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, flatten, init_params, network
from smcd_jax.nn.sharding_rules import SMALL, tower_rules, video_patch_rules
from smcd_jax.runtime.sharding import MeshShape, ShardingTable, make_mesh, partition_specs, shardings
from smcd_jax.weights.conversion_engine import match

TINY = MotionUNetConfig(
    input_channels=5,
    grid_channels=4,
    confidence_channels=0,
    base_channels=8,
    channel_mult=(1, 2),
    heads=2,
    head_dim=8,
    context_dim=6,
    groups=4,
)
UNET_RULES = (*motion_unet_rules("unet"), *SMALL)
LFDM_TINY = dataclasses.replace(TINY, condition="vector", confidence_channels=1)
VARIANTS = {
    "tokens": TINY,
    "vector": LFDM_TINY,
    "learned null, nearest": dataclasses.replace(TINY, learned_null=True, upsampling="nearest", padding="reflect"),
    "per frame": dataclasses.replace(TINY, per_frame=True),
}


@pytest.mark.parametrize(
    ("file", "prefix", "config", "parameters"),
    [
        ("lvmm_unet_flow", "", LVMM_UNET, 25_316_118),
        ("lvmm_unet_frame", "", LVMM_FRAME_UNET, 22_484_880),
        ("lfdm_unet", "", LFDM_UNET, 42_731_219),
        ("lfdm_diffusion", "denoise_fn.", LFDM_UNET, 42_731_219),
    ],
)
def test_every_published_name_is_one_leaf_of_its_shape(shared, file, prefix, config, parameters):
    listed = json.loads((shared / "golden_lvmm" / "keys" / f"{file}.json").read_text())
    named = {name.removeprefix(prefix): shape for name, shape in listed.items() if name.startswith(prefix)}
    buffers = {name: named.pop(name) for name in rotary_names(config)}
    assert set(map(tuple, buffers.values())) == {(16,)}
    leaves = flatten(abstract_params(config))
    tensors = {name: jax.ShapeDtypeStruct(tuple(shape), np.float32) for name, shape in named.items()}
    match(motion_unet_rows(config), tensors, leaves, where=file)
    frequencies = 16  # size of a constant that is included in the published parameter count
    assert sum(leaf.size for leaf in leaves.values()) + frequencies == parameters


def test_every_name_of_imagebind_is_one_leaf_of_its_shape(shared):
    listed = json.loads((shared / "golden_lvmm" / "keys" / "imagebind_vision_text.json").read_text())
    assert listed.pop(TEXT_MASK) == [77, 77]
    tensors = {name: jax.ShapeDtypeStruct(tuple(shape), np.float32) for name, shape in listed.items()}
    text, vision = abstract_params(IMAGEBIND_TEXT), abstract_params(IMAGEBIND_VISION)
    rows = under_component("text", imagebind_text_rows(IMAGEBIND_TEXT))
    rows += under_component("vision", imagebind_vision_rows(IMAGEBIND_VISION))
    leaves = flatten({"text": text, "vision": vision})
    match(rows, tensors, leaves, where="imagebind")
    assert sum(leaf.size for leaf in leaves.values()) == 986_862_081
    table = ShardingTable(
        (*tower_rules("text", "vision"), *video_patch_rules("vision"), *SMALL), frozenset({"text", "vision"})
    )
    partition_specs({"text": text, "vision": vision}, make_mesh(MeshShape(data=1, fsdp=8)), table)


def under_component(name, rows):
    return [row._replace(path=f"{name}/{row.path}") for row in rows]


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_parameter_matches_one_sharding_rule(config):
    table = ShardingTable(UNET_RULES, frozenset({"unet"}), head_dim=8)
    specs = partition_specs({"unet": abstract_params(config)}, make_mesh(MeshShape(data=1, fsdp=8)), table)
    split = [spec for spec in jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, jax.P)) if "fsdp" in spec]
    assert len(split) > 20


def test_a_sharded_network_gives_the_same_output():
    config = dataclasses.replace(TINY, channel_mult=(1,))
    params = init_params(config, jax.random.key(0))
    mesh, table = make_mesh(MeshShape(data=2, fsdp=2, tensor=2)), ShardingTable(UNET_RULES, frozenset({"unet"}), 8)
    placed = jax.device_put({"unet": params}, shardings({"unet": params}, mesh, table))["unet"]
    want = _output(config, params, ComputePolicy(), batch=4)
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(_output(config, placed, ComputePolicy(), batch=4), want, atol=1e-5)


@pytest.mark.slow
def test_recomputed_activations_give_the_same_gradients():
    config = dataclasses.replace(TINY, channel_mult=(1,))
    params = init_params(config, jax.random.key(0))
    plain, recomputed = (_gradients(config, params, ComputePolicy(remat=remat)) for remat in (False, True))
    for path, gradient in flatten(plain).items():
        assert np.abs(gradient).max() > 0, path
        np.testing.assert_allclose(flatten(recomputed)[path], gradient, rtol=1e-4, atol=1e-6)


def test_bfloat16_stays_near_float32():
    config = dataclasses.replace(LFDM_TINY, channel_mult=(1,))
    params = init_params(config, jax.random.key(0))
    half = ComputePolicy(jnp.bfloat16, jnp.bfloat16, precision=None, reduction="moments")
    want = _output(config, params, ComputePolicy())
    got = _output(config, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params), half)
    assert got.dtype == jnp.float32
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()


def test_tokens_are_dropped_one_by_one():
    config = dataclasses.replace(TINY, learned_null=True, channel_mult=(1,))
    params = {"params": init_params(config, jax.random.key(0))}
    tokens = jax.random.normal(jax.random.key(1), (2, 3, config.context_dim))
    keep = jnp.array([[True, False, True], [False, False, True]])
    kept = network(config).apply(params, tokens, keep, method="with_null")
    null = params["params"]["null_condition"][0]
    np.testing.assert_array_equal(kept[0, 0], tokens[0, 0])
    np.testing.assert_array_equal(kept[1, 1], null)
    whole = network(config).apply(params, tokens, jnp.array([True, False]), method="with_null")
    np.testing.assert_array_equal(whole[0], tokens[0])
    np.testing.assert_array_equal(whole[1], jnp.broadcast_to(null, tokens[1].shape))


def _output(config, params, policy, batch=2):
    x = jax.random.normal(jax.random.key(2), (batch, 3, 4, 4, config.input_channels))
    shape = (batch, config.context_dim) if config.condition == "vector" else (batch, 3, config.context_dim)
    condition, module = jax.random.normal(jax.random.key(3), shape), network(config, policy)

    @jax.jit
    def forward(params):
        context = module.apply({"params": params}, condition, method="context")
        return module.apply({"params": params}, x, jnp.linspace(3.0, 800.0, batch), context)

    return forward(params)


def _gradients(config, params, policy):
    return jax.jit(jax.grad(lambda params: jnp.square(_output(config, params, policy)).mean()))(params)
