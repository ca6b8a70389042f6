"""DINO's vision transformer: its conversion table, and agreement with transformers' ViTModel for equal weights."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from smcd_jax.conversion.dino_table import dino_config, dino_rows
from smcd_jax.conversion.feature_networks import read_dino
from smcd_jax.nn.config import DINOConfig
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, flatten, network, unflatten
from smcd_jax.weights.conversion_engine import match, to_flax, to_torch
from tests.errors import refused

SMALL = DINOConfig(picture_size=32, patch=8, width=128, heads=2, layers=3)
WHOLE = {  # names in transformers: names in the authors' files
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
PARTS = {  # the same for parts of a layer, which releases of transformers name differently
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
}


def published_names(state):
    """Returns the tensors of transformers' ViTModel under the names of the authors' files, with q, k and v joined."""
    renamed, joined = {}, {}
    for name, tensor in state.items():
        if name in WHOLE:
            renamed[WHOLE[name]] = tensor.numpy()
            continue
        layer, part, kind = re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)\.(.+)\.(weight|bias)", name).groups()
        if found := re.fullmatch(r"attention\.(?:attention\.)?(?:(q|k|v)_proj|(query|key|value))", part):
            joined.setdefault((layer, kind), {})[(found[1] or found[2])[0]] = tensor.numpy()
        else:
            renamed[f"blocks.{layer}.{PARTS[part]}.{kind}"] = tensor.numpy()
    for (layer, kind), parts in joined.items():
        renamed[f"blocks.{layer}.attn.qkv.{kind}"] = np.concatenate([parts[which] for which in "qkv"])
    return renamed


@pytest.fixture(scope="module")
def reference():
    """A ViTModel in which all weights are random, including those that are initially zeros or ones."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    described = transformers.ViTConfig(
        hidden_size=SMALL.width,
        num_hidden_layers=SMALL.layers,
        num_attention_heads=SMALL.heads,
        intermediate_size=4 * SMALL.width,
        image_size=SMALL.picture_size,
        patch_size=SMALL.patch,
    )
    assert (described.layer_norm_eps, described.qkv_bias, described.hidden_act) == (1e-12, True, "gelu")
    described.layer_norm_eps = 1e-6  # the value of DINO's authors
    model = transformers.ViTModel(described, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_features_are_those_of_transformers_class(reference):
    torch = pytest.importorskip("torch")
    tensors = published_names(reference.state_dict())
    assert dino_config(tensors, path="here") == SMALL
    match(dino_rows(SMALL), tensors, flatten(abstract_params(SMALL)), where="here")
    params = unflatten(to_flax(dino_rows(SMALL), tensors))
    pictures = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    got = jax.jit(network(SMALL).apply)({"params": params}, pictures)
    with torch.no_grad():
        want = reference(torch.from_numpy(pictures.transpose(0, 3, 1, 2))).last_hidden_state[:, 0].numpy()
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_conversion_returns_the_same_tensors(reference):
    tensors = published_names(reference.state_dict())
    back = to_torch(dino_rows(SMALL), to_flax(dino_rows(SMALL), tensors))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_a_published_file_is_read_completely_and_named_by_its_hash(reference, tmp_path):
    torch = pytest.importorskip("torch")
    file = tmp_path / "dino_deitsmall16_pretrain.pth"
    tensors = published_names(reference.state_dict())
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, file)
    found = read_dino(file)
    assert (found.config, found.file, len(found.sha256)) == (SMALL, file.name, 64)
    np.testing.assert_array_equal(found.params["class_token"], tensors["cls_token"])
    torch.save({"head.last_layer": torch.zeros(1)}, file)
    with refused(path=file, value="patch_embed.proj.weight"):
        read_dino(file)


@pytest.mark.parametrize(("config", "millions"), [(DINOConfig(), 21.7), (DINOConfig(width=768, heads=12), 85.8)])
def test_published_sizes_have_the_published_number_of_parameters(config, millions):
    leaves = flatten(abstract_params(config))
    assert sum(np.prod(leaf.shape) for leaf in leaves.values()) / 1e6 == pytest.approx(millions, abs=0.05)
    shapes = {
        row.torch: jax.ShapeDtypeStruct(row.layout.torch_shape(leaves[row.path].shape), np.float32)
        for row in dino_rows(config)
    }
    assert dino_config(shapes, path="here") == config


def test_a_half_precision_policy_keeps_features_in_float32():
    module = network(SMALL, ComputePolicy.for_device("bfloat16"))
    params = abstract_params(SMALL, ComputePolicy.for_device("bfloat16"))
    pictures = jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
    assert jax.eval_shape(module.apply, {"params": params}, pictures).dtype == np.float32
