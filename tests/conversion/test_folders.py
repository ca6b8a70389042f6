"""SMCD's conversions at tiny size: bit-exact round trips, diffusers' layout, and files that are refused."""

import dataclasses
import json
import os
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.conversion.to_model_folder import convert_to_model_folder
from smcd_jax.conversion.to_torch import convert_to_torch
from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.smcd.config import PRESETS, ControlNetConfig
from smcd_jax.models.smcd.conversion import diffusers_unet
from smcd_jax.models.smcd.conversion.table import unet_rows
from smcd_jax.models.tables import autoencoder_kl
from smcd_jax.nn.config import AutoencoderConfig, TextEncoderConfig
from smcd_jax.nn.networks import abstract_params, flatten, network, unflatten
from smcd_jax.weights.conversion_engine import match, to_flax
from smcd_jax.weights.tensor_files import open_tensors
from tests.errors import refused

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The tiny model in the published layout, saved with PyTorch."""
    folder = tmp_path_factory.mktemp("published")
    convert_to_torch("tiny", folder)
    return folder


@pytest.fixture
def damaged(published, tmp_path):
    folder = tmp_path / "published"
    shutil.copytree(published, folder)
    return folder


def convert(folder, output, *, head_width=None, **kwargs):
    options = {"smcd": folder, "modelscope": folder, "head_width": head_width}
    return convert_to_model_folder(output, "smcd", options, **kwargs)


@pytest.fixture(scope="module")
def conversion(published, tmp_path_factory):
    """The published files as a model folder."""
    return convert(published, tmp_path_factory.mktemp("converted") / "model")


def test_torch_to_model_folder_to_torch_is_bit_for_bit(published, conversion, tmp_path):
    convert_to_torch(conversion.folder.path, tmp_path / "back")
    for file in published.iterdir():
        if file.suffix == ".json":
            continue
        want, got = open_tensors(file), open_tensors(tmp_path / "back" / file.name)
        assert want.keys() == got.keys()
        for name in want:
            np.testing.assert_array_equal(want[name].numpy(), got[name].numpy(), strict=True)


def test_float32_values_survive_bit_for_bit(tmp_path):
    """Values with random bits, including NaNs and subnormal numbers, pass through a conversion table unchanged."""
    config = ModelFolder("tiny").config.unet
    rng, leaves = np.random.default_rng(0), flatten(abstract_params(config))
    rows = unet_rows(config)
    shapes = {row.torch: row.layout.torch_shape(leaves[row.path].shape) for row in rows}
    tensors = {n: rng.integers(0, 2**32, shape, np.uint32).view(np.float32) for n, shape in shapes.items()}
    there = to_flax(rows, tensors)
    back = {row.torch: row.layout.to_torch(np.array(there[row.path])) for row in rows}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name].view(np.uint32), tensor.view(np.uint32))


def test_a_converted_folder_has_the_arrays_of_its_source(conversion):
    folder = conversion.folder
    assert folder.digest == ModelFolder("tiny").digest
    assert folder.config == ModelFolder("tiny").config
    assert folder.origin.kind == "converted"
    assert {part.name for part in conversion.components} == set(folder.config.components())
    assert all(len(source["sha256"]) == 64 for source in folder.origin.sources)


def test_safetensors_give_the_same_model(published, tmp_path):
    convert_to_torch("tiny", tmp_path / "safe", format="safetensors")
    folder = convert(tmp_path / "safe", tmp_path / "model").folder
    assert folder.digest == ModelFolder("tiny").digest


def test_cast_once_gates_stay_float32(published, tmp_path):
    folder = convert(published, tmp_path / "model", dtype=np.float16).folder
    leaves = folder.leaves("unet")
    assert {leaf.dtype.name for leaf in leaves.values() if leaf.ndim} == {"float16"}
    assert {leaf.dtype.name for leaf in leaves.values() if not leaf.ndim} == {"float32"}


def test_second_file_may_hold_a_controlnet(tmp_path):
    """A ControlNet is distinguished from an image encoder by its tensor names."""
    tiny = PRESETS["tiny"]
    unet = dataclasses.replace(
        tiny.unet,
        gate="object",
        image_latent=False,
        control=True,
        image_width=1024,
        groups=32,  # as in every published ControlNet
    )
    branch = ControlNetConfig(dataclasses.replace(unet, gate="none", control=False, object_width=1024))
    config = dataclasses.replace(tiny, unet=unet, image_encoder=None, controlnet=branch)
    blank = {
        name: {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in flatten(abstract_params(part)).items()}
        for name, part in config.components().items()
    }
    made = write_model_folder(tmp_path / "made", config, blank.items(), origin=Origin("untrained"))
    convert_to_torch(tmp_path / "made", tmp_path / "torch")
    (tmp_path / "torch" / "configuration.json").unlink()
    folder = convert(tmp_path / "torch", tmp_path / "model", head_width=unet.head_dim).folder
    assert folder.config.image_encoder is None
    assert folder.config.unet == unet
    assert folder.leaves("controlnet").keys() == made.leaves("controlnet").keys()


class RunsCode:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_pickle_that_would_run_code_is_refused_and_does_not_run(damaged, tmp_path):
    marker = tmp_path / "ran"
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save({"weight": RunsCode(marker)}, damaged / "pytorch_model.bin")
        with refused(path=damaged / "pytorch_model.bin"):
            convert(damaged, tmp_path / "model")
        assert not marker.exists()
        assert not (tmp_path / "model").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_tensor(path):
    tensors = torch.load(path, weights_only=True)
    del tensors["out.2.bias"]
    torch.save(tensors, path)


def other_variant(path):
    tensors = torch.load(path, weights_only=True)
    torch.save({name: tensor for name, tensor in tensors.items() if "cross_norm1" not in name}, path)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a model at all"),
        lambda path: torch.save([1, 2], path),
        lambda path: torch.save({"step": 3}, path),
    ],
    ids=["truncated", "empty", "text", "list", "no tensors"],
)
def test_a_file_without_weights_is_refused_and_nothing_is_written(damaged, tmp_path, damage):
    damage(damaged / "pytorch_model.bin")
    with refused(path=damaged / "pytorch_model.bin"):
        convert(damaged, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_a_missing_file_is_refused_by_its_stem(damaged, tmp_path):
    (damaged / "pytorch_model_2.bin").unlink()
    with refused(path=damaged, value="pytorch_model_2"):
        convert(damaged, tmp_path / "model")


@pytest.mark.parametrize(("damage", "missing"), [(drop_tensor, "out.2.bias"), (other_variant, "cross_norm1")])
def test_weights_of_another_variant_are_refused_with_a_list(damaged, tmp_path, damage, missing):
    damage(damaged / "pytorch_model.bin")
    with refused(path=damaged / "pytorch_model.bin") as record:
        convert(damaged, tmp_path / "model")
    assert record.value.value.keys() == {"missing"}
    assert all(missing in name for name in record.value.value["missing"])
    assert missing in str(record.value)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_existing_output_is_kept_without_overwrite(published, conversion, tmp_path):
    shutil.copytree(conversion.folder.path, tmp_path / "model")
    with refused("output", path=tmp_path / "model"):
        convert(published, tmp_path / "model")
    convert(published, tmp_path / "model", overwrite=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    with refused("output", path=tmp_path / "precious"):
        convert(published, tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()
    with refused("output", path=published / "pytorch_model.bin"):
        convert_to_torch("tiny", published)


def test_damaged_model_folder_is_refused_by_name(conversion, tmp_path):
    folder = ModelFolder(shutil.copytree(conversion.folder.path, tmp_path / "model"))
    data = max((tmp_path / "model" / "params" / "unet").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with refused() as record:
        folder.leaves("unet")
    assert record.value.path.startswith(str(folder.path))


def shapes_of(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def randomised(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        spread = 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + (parameter.ndim == 1) * 0.5
    return module.eval()


def loaded(rows, config, tensors):
    match(rows, tensors, flatten(abstract_params(config)), where="diffusers")
    return {"params": unflatten({path: jnp.asarray(leaf) for path, leaf in to_flax(rows, tensors).items()})}


def test_unet_computes_what_diffusers_computes():
    diffusers = pytest.importorskip("diffusers")
    described = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 16,
    }
    theirs = randomised(diffusers.UNet3DConditionModel(**described))
    config = diffusers_unet.unet_config(described, path="here")
    params = loaded(diffusers_unet.unet_rows(config), config, shapes_of(theirs))
    rng = np.random.default_rng(1)
    video = rng.standard_normal((2, 3, 8, 8, 4)).astype(np.float32)
    text, t = rng.standard_normal((2, 5, 24)).astype(np.float32), np.array([10, 800])
    with torch.no_grad():
        inputs = (torch.from_numpy(array) for array in (video.transpose(0, 4, 1, 2, 3), t, text))
        want = theirs(*inputs).sample
    module = network(config)
    conditions = module.apply(params, jnp.asarray(text), method="keys_values")
    got = jax.jit(module.apply)(params, video, t.astype(np.float32), conditions)
    error = np.abs(np.moveaxis(np.asarray(got), -1, 1) - want.numpy()).max() / np.abs(want.numpy()).max()
    assert error < 2e-5  # float32 rounding through about sixty layers


def test_autoencoder_computes_what_diffusers_computes():
    diffusers = pytest.importorskip("diffusers")
    described = {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    theirs = randomised(diffusers.AutoencoderKL(**described))
    config = autoencoder_kl.diffusers_config(described)
    assert config == AutoencoderConfig(base_channels=32, channel_mult=(1, 2), num_res_blocks=1)
    params = loaded(autoencoder_kl.diffusers_rows(config), config, shapes_of(theirs))
    picture = np.random.default_rng(2).standard_normal((1, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        encoded = theirs.encode(torch.from_numpy(picture.transpose(0, 3, 1, 2))).latent_dist.mean
        want = theirs.decode(encoded).sample
    module = network(config)
    mean = module.apply(params, picture, method="posterior").mean
    got = module.apply(params, mean, method="decode_unscaled")
    for ours, reference in ((mean, encoded), (got, want)):
        tolerance = 2e-5 * float(reference.abs().max())
        np.testing.assert_allclose(np.moveaxis(np.asarray(ours), -1, 1), reference.numpy(), atol=tolerance)


def test_names_of_old_diffusers_are_translated():
    old = {"decoder.mid_block.attentions.0.query.weight": 1, "decoder.mid_block.attentions.0.proj_attn.bias": 2, "x": 3}
    assert autoencoder_kl.diffusers_tensors(old) == {
        "decoder.mid_block.attentions.0.to_q.weight": 1,
        "decoder.mid_block.attentions.0.to_out.0.bias": 2,
        "x": 3,
    }


@pytest.fixture(scope="module")
def diffusers_folder(tmp_path_factory):
    """A tiny ModelScope text-to-video model, saved by diffusers."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("diffusers")
    unet = diffusers.UNet3DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=64,
        attention_head_dim=16,
    )
    unet.save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(folder / "vae")
    described = transformers.CLIPTextConfig(
        vocab_size=49408,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu",
        bos_token_id=49406,
        eos_token_id=49407,
    )
    theirs = randomised(transformers.CLIPTextModel(described))
    theirs.save_pretrained(folder / "text_encoder")
    return folder, theirs


def test_diffusers_layout_converts_whole_and_its_text_tower_agrees(diffusers_folder, tmp_path):
    folder, theirs = diffusers_folder
    conversion = convert_to_model_folder(tmp_path / "model", "smcd", {"modelscope": folder})
    model = conversion.folder
    assert [part.name for part in conversion.components] == ["unet", "autoencoder", "text_encoder"]
    assert model.config.text_encoder == TextEncoderConfig(width=64, heads=4, layers=2, embed_width=0, skip_last=0)
    assert model.config.position_net is None
    ids = model.tokenizer().encode(["a dog", "a very small cat"])
    with torch.no_grad():
        want = theirs(torch.from_numpy(ids.astype(np.int64))).last_hidden_state.numpy()
    params = {"params": model.params("text_encoder")}
    got = network(model.config.text_encoder).apply(params, jnp.asarray(ids))
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())


def test_unet_of_another_class_is_named_before_anything_is_written(diffusers_folder, tmp_path):
    folder, _ = diffusers_folder
    wrong = tmp_path / "wrong"
    shutil.copytree(folder, wrong)
    config = json.loads((wrong / "unet" / "config.json").read_text())
    (wrong / "unet" / "config.json").write_text(json.dumps(config | {"_class_name": "UNet2DConditionModel"}))
    with refused("_class_name", path=wrong / "unet" / "config.json", value="UNet2DConditionModel"):
        convert_to_model_folder(tmp_path / "model", "smcd", {"modelscope": wrong})
    assert not (tmp_path / "model").exists()
