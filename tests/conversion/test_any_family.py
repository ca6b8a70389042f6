"""A family with its own file layout converts both ways: a single file, name prefixes, unused arrays, DeepSpeed files.

Nothing in `smcd_jax.conversion` refers to this family or its components.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.conversion.to_model_folder import convert_to_model_folder
from smcd_jax.conversion.to_torch import convert_to_torch
from smcd_jax.models import registry
from smcd_jax.models.conversion import FamilyConversion, PublishedModel, Source, TorchFile, get_conversion
from smcd_jax.models.conversion_flags import FLAGS, PRESETS, selected_families
from smcd_jax.nn.networks import register_network
from smcd_jax.weights.conversion_table import LINEAR, Row, array, weighted
from smcd_jax.weights.tensor_files import open_tensors, tensor_file
from tests.errors import refused

torch = pytest.importorskip("torch")


@dataclasses.dataclass(frozen=True)
class LinearConfig:
    inputs: int = 2
    outputs: int = 3


@dataclasses.dataclass(frozen=True)
class ExtraConfig:
    tensors: int = 1


@dataclasses.dataclass(frozen=True)
class OneFileConfig:
    linear: LinearConfig | None = LinearConfig()
    extra: ExtraConfig | None = ExtraConfig()

    def components(self):
        parts = {"linear": self.linear, "extra": self.extra}
        return {name: part for name, part in parts.items() if part is not None}


class Linear(nn.Module):
    config: LinearConfig
    policy: object

    @nn.compact
    def dummy_call(self):
        return nn.Dense(self.config.outputs, name="dense")(jnp.zeros((1, self.config.inputs)))


class Extra(nn.Module):
    config: ExtraConfig
    policy: object

    def setup(self):
        for index in range(self.config.tensors):
            self.param(f"array_{index}", nn.initializers.zeros, (4,))

    def dummy_call(self):
        return None


def linear_rows() -> list[Row]:
    return weighted("model", "dense", LINEAR)


class OneFile(FamilyConversion):
    def read(self, options):
        file = tensor_file(options["folder"], "model")
        tensors = {name.removeprefix("_forward_module."): tensor for name, tensor in open_tensors(file).items()}
        linear = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
        buffers = {name: tensor for name, tensor in tensors.items() if name == "betas"}
        left_out = len(tensors) - len(linear) - len(buffers)
        sources = {
            "linear": Source(file, linear, LinearConfig(*linear["model.weight"].shape[::-1]), linear_rows(), left_out),
            "extra": Source(file, buffers, ExtraConfig(len(buffers)), array("betas", "array_0")),
        }
        config = OneFileConfig(sources["linear"].config, sources["extra"].config)
        return PublishedModel(config, sources, license="MIT", notes=("the stored betas differ",))

    def torch_files(self, config):
        return [TorchFile("model.ckpt", {"linear": linear_rows(), "extra": array("betas", "array_0")}, "state_dict")]


CONVERSION = OneFile()


@pytest.fixture(autouse=True)
def family(monkeypatch):
    register_network(LinearConfig, Linear)
    register_network(ExtraConfig, Extra)
    family = registry.Family("one_file", OneFileConfig, {}, None, conversion=__name__)
    monkeypatch.setitem(registry._FAMILIES, family.name, family)


@pytest.mark.parametrize(("key", "prefix"), [("state_dict", ""), ("module", "_forward_module.")])
def test_a_checkpoint_of_one_file_returns_bit_for_bit(tmp_path, key, prefix):
    rng = np.random.default_rng(0)
    tensors = {"model.weight": (3, 2), "model.bias": (3,), "betas": (4,)}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in tensors.items()}
    content = {prefix + name: torch.from_numpy(values) for name, values in tensors.items()}
    torch.save({key: content | {prefix + "ema.decay": torch.zeros(1)}, "step": 3}, tmp_path / "model.ckpt")

    conversion = convert_to_model_folder(tmp_path / "folder", "one_file", {"folder": tmp_path})
    assert conversion.notes == ("the stored betas differ",)
    assert conversion.folder.origin.license == "MIT"
    assert {part.name: part.left_out for part in conversion.components} == {"linear": 1, "extra": 0}

    convert_to_torch(tmp_path / "folder", tmp_path / "back")
    back = open_tensors(tmp_path / "back" / "model.ckpt")
    assert back.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(back[name].numpy(), values, strict=True)


def test_a_family_without_a_published_layout_is_refused():
    with refused("family", value="plain"):
        get_conversion(registry.Family("plain", LinearConfig, {}, None))


def test_the_flags_belong_to_the_families_and_presets_of_the_registry():
    assert FLAGS.keys() <= registry._BUILT_IN.keys()
    built_in = [registry.get_family(name) for name in registry._BUILT_IN]  # without the tests' families
    assert set(PRESETS) == {name for family in built_in for name in family.presets}
    for family in FLAGS:
        assert isinstance(get_conversion(registry.get_family(family)), FamilyConversion)
        assert selected_families({flag.name: True for flag in FLAGS[family] if flag.source}) == [family]
    assert selected_families({"with_vision": True}) == []
