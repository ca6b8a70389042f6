"""Features of pictures and texts, metrics computed from them, weight files, and `Metric`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from smcd_jax.cli.open_extractor import open_extractor
from smcd_jax.conversion.feature_networks import read_openai_clip, read_openclip
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.features.extractors import (
    CLIP_DEVIATION,
    CLIP_MEAN,
    CLIPExtractor,
    DINOExtractor,
    picture_input,
)
from smcd_jax.evaluation.features.weight_files import KNOWN, find_weights
from smcd_jax.evaluation.grounding_run import SPRITES
from smcd_jax.evaluation.metric_specs import METRICS
from smcd_jax.evaluation.metrics.clip_score import caption_similarity, frame_consistency
from smcd_jax.evaluation.metrics.fidelity import first_frame_fidelity, pixel_metric, psnr, ssim
from smcd_jax.evaluation.metrics.metric_rows import Metric, bootstrap_interval, from_json, to_json
from smcd_jax.evaluation.trackers.learned_tracker import VIT
from smcd_jax.evaluation.trackers.object_trackers import TRACKERS
from smcd_jax.files.config_json import from_dict, to_dict
from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.models.tables.clip_towers import text_encoder_rows, vision_encoder_rows
from smcd_jax.nn.config import AutoencoderConfig, DINOConfig, TextEncoderConfig, UNetConfig, VisionEncoderConfig
from smcd_jax.nn.networks import abstract_params, flatten, network, unflatten
from smcd_jax.weights.conversion_engine import to_torch
from tests.errors import refused

TEXT = TextEncoderConfig(width=64, heads=2, layers=2, embed_width=32)
VISION = VisionEncoderConfig(picture_size=32, patch=8, width=48, heads=3, layers=2, embed_width=32)
TEXTS = ["a rocket lifting off", "two cats", ""]


class Named:
    name, implementation, weights_sha256, frame_rule = "net", "a network", "0" * 64, "every frame, resized"


def pictures(count=3, height=40, width=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def host_params(config):
    """Returns random parameters with norm scales near 1; the networks' own initialisers would take seconds each."""
    random = np.random.default_rng(0)
    leaves = {
        path: (random.normal(path.endswith("scale"), 0.1, leaf.shape)).astype(np.float32)
        for path, leaf in flatten(abstract_params(config)).items()
    }
    return unflatten(leaves)


# Comparison of the towers with those of the transformers library


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def reference(request, tmp_path_factory):
    """The transformers library's CLIPModel with random weights, and the folder in which it is saved."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    shared = {"hidden_act": request.param, "num_hidden_layers": 2, "projection_dim": 32}
    text = shared | {"hidden_size": TEXT.width, "intermediate_size": 4 * TEXT.width, "num_attention_heads": TEXT.heads}
    vision = shared | {
        "hidden_size": VISION.width,
        "intermediate_size": 4 * VISION.width,
        "num_attention_heads": VISION.heads,
        "image_size": VISION.picture_size,
        "patch_size": VISION.patch,
    }
    described = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    model = transformers.CLIPModel(described).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("weights") / "clip-vit-base-patch32"
    model.save_pretrained(folder)
    return request.param, model, folder


def pooled(output):
    """Returns the projected features; since version 5, transformers returns them together with other values."""
    return getattr(output, "pooler_output", output).numpy()


def test_towers_of_a_folder_equal_the_class_of_transformers(reference):
    torch = pytest.importorskip("torch")
    activation, model, folder = reference
    text, vision = read_openai_clip(folder)
    assert dataclasses.replace(TEXT, activation=activation, skip_last=0) == text.config
    assert dataclasses.replace(VISION, activation=activation) == vision.config
    extractor = open_extractor("openai-clip", folder.parent)
    ids = extractor._tokenizer.encode(TEXTS)
    ready = np.stack([picture_input(frame, 32, CLIP_MEAN, CLIP_DEVIATION) for frame in pictures()])
    with torch.no_grad():
        want_texts = pooled(model.get_text_features(input_ids=torch.from_numpy(ids).long()))
        want = pooled(model.get_image_features(pixel_values=torch.from_numpy(ready.transpose(0, 3, 1, 2))))
    assert min(np.abs(want_texts).max(), np.abs(want).max()) > 0.5
    np.testing.assert_allclose(extractor.texts(TEXTS), want_texts, atol=1e-4)
    np.testing.assert_allclose(extractor.features(pictures()), want, atol=1e-4)
    assert extractor.name == "openai-vit-48-8"
    assert f"float32, {activation}, weights clip-vit-base-patch32" in extractor.implementation
    assert extractor.weights_sha256 == vision.sha256


def test_the_two_activations_are_distinguished():
    frame = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3)), jnp.float32)
    params = {"params": host_params(VISION)}
    exact, quick = (
        network(dataclasses.replace(VISION, activation=name)).apply(params, frame) for name in ("gelu", "quick_gelu")
    )
    assert np.abs(exact - quick).max() > 1e-3


def test_a_folder_of_another_kind_is_refused(reference, tmp_path):
    _, _, folder = reference
    described = json.loads((folder / "config.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    with refused(path=other / "config.json"):
        read_openai_clip(other)
    (other / "config.json").write_text(json.dumps(described))
    with refused(path=other):
        read_openai_clip(other)
    (other / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    described["text_config"]["hidden_act"] = "relu"
    (other / "config.json").write_text(json.dumps(described))
    with refused("text_config", value=("relu", 1e-5)):
        read_openai_clip(other)
    (other / "config.json").write_text(json.dumps({"model_type": "siglip"}))
    with refused("model_type", path=other / "config.json"):
        read_openai_clip(other)


def test_an_openclip_file_is_read_by_the_tables_of_conversion(tmp_path):
    torch = pytest.importorskip("torch")
    # The head widths are those of ViT-H/14, which the reader of OpenCLIP files expects.
    text = TextEncoderConfig(width=64, heads=1, layers=2, embed_width=32)
    vision = VisionEncoderConfig(picture_size=28, width=80, heads=1, layers=2, embed_width=32)
    params = {config: host_params(config) for config in (text, vision)}
    tensors = to_torch(text_encoder_rows(text), flatten(params[text]))
    tensors |= to_torch(vision_encoder_rows(vision), flatten(params[vision])) | {"attn_mask": np.zeros((77, 77))}
    file = tmp_path / "open_clip_pytorch_model.bin"
    torch.save({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}, file)
    found = read_openclip(file)
    assert [tower.config for tower in found] == [text, vision]
    for tower, config in zip(found, params, strict=True):
        for path, leaf in flatten(params[config]).items():
            np.testing.assert_array_equal(flatten(tower.params)[path], leaf)


def test_a_model_converted_with_its_vision_tower_needs_no_other_weights(tmp_path):
    least = {"base_channels": 32, "channel_mult": (1,), "num_res_blocks": 1}
    config = ModelConfig(
        unet=UNetConfig(**least, attention_scales=(), head_dim=16, stem_heads=2, context_dim=64),
        position_net=None,
        image_encoder=None,
        autoencoder=AutoencoderConfig(**least),
        text_encoder=TEXT,
        vision_encoder=VISION,
    )
    leaves = ((name, flatten(host_params(part))) for name, part in config.components().items())
    model = write_model_folder(tmp_path / "model", config, leaves, origin=Origin("untrained"))
    extractor = open_extractor("openclip", model=model)
    assert extractor.texts(["a cat"]).shape == extractor.features(pictures(1)).shape == (1, 32)
    assert extractor.weights_sha256 == model.digest
    with refused("weights", value="open_clip_pytorch_model.bin"):
        open_extractor("openclip", tmp_path, model=ModelFolder("tiny"))


def test_the_activation_is_written_only_if_it_is_not_the_default():
    # Feature caches identify an encoder by its config as stored, so writing a new field would invalidate old caches.
    assert "activation" not in to_dict(TEXT)
    quick = dataclasses.replace(TEXT, activation="quick_gelu")
    assert to_dict(quick)["activation"] == "quick_gelu"
    for config in (TEXT, quick):
        assert from_dict(TextEncoderConfig, json.loads(json.dumps(to_dict(config)))) == config


# Extractors


@pytest.fixture(scope="module")
def clip():
    towers = [(config, host_params(config)) for config in (TEXT, VISION)]
    return CLIPExtractor(*towers, family="openclip", source="here", weights_sha256="0" * 64)


def test_features_do_not_depend_on_the_batch(clip):
    config = DINOConfig(picture_size=32, patch=8, width=64, heads=1, layers=2)
    dino = DINOExtractor(config, host_params(config), source="here", weights_sha256="0" * 64)
    frames = pictures(4)
    for extractor in (clip, dino):
        together = extractor.features(frames)
        assert together.dtype == np.float64
        assert np.abs(together[0] - together[1]).max() > 1e-3
        np.testing.assert_array_equal(extractor.features(frames[::-1]), together[::-1])
        np.testing.assert_array_equal(np.concatenate([extractor.features(f[None]) for f in frames]), together)
    np.testing.assert_array_equal(clip.texts(TEXTS[::-1]), clip.texts(TEXTS)[::-1])


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)]
)
def test_frames_of_another_kind_are_refused(clip, frames):
    with refused("frames", value=frames.shape):
        clip.features(frames)


def test_towers_of_different_clips_are_refused():
    other = dataclasses.replace(VISION, embed_width=16)
    with refused("text", path="x", value=32):
        CLIPExtractor((TEXT, {}), (other, {}), family="openclip", source="x", weights_sha256="")


@pytest.mark.parametrize(("height", "width"), [(40, 56), (56, 40), (20, 20), (32, 32), (33, 70)])
def test_pictures_are_resized_by_the_shorter_side_and_cropped_to_the_centre(height, width):
    [frame] = pictures(1, height, width)
    got = picture_input(frame, 32, CLIP_MEAN, CLIP_DEVIATION)
    assert (got.shape, got.dtype) == ((32, 32, 3), np.float32)
    factor = 32 / min(height, width)
    size = (int(width * factor + 1e-9), int(height * factor + 1e-9))
    resized = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), np.float64)
    top, left = (round((length - 32) / 2) for length in resized.shape[:2])
    want = (resized[top : top + 32, left : left + 32] / 255 - CLIP_MEAN) / CLIP_DEVIATION
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_pictures_equal_those_of_the_processor_of_transformers():
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for height, width in ((40, 56), (64, 36)):
        [frame] = pictures(1, height, width)
        want = processor(images=frame, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(picture_input(frame, 32, CLIP_MEAN, CLIP_DEVIATION), want, atol=1e-5)


# Weights on disk


@pytest.mark.parametrize("name", KNOWN)
def test_the_error_for_missing_weights_names_file_source_and_folder(name, tmp_path, monkeypatch):
    monkeypatch.delenv("SMCD_WEIGHTS_DIR", raising=False)
    for folder in (None, tmp_path):
        with refused("weights", value=KNOWN[name].file) as record:
            open_extractor(name, folder)
        assert record.value.path == (None if folder is None else str(folder))
        for part in (KNOWN[name].file, KNOWN[name].source, "--weights", "SMCD_WEIGHTS_DIR"):
            assert part in str(record.value)


def test_the_documentation_names_every_metric_tracker_and_file():
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name in (*METRICS, *KNOWN, *TRACKERS, SPRITES, f"{VIT}:FILE.onnx", *(of.file for of in KNOWN.values())):
        assert f"`{name}`" in page.replace("/`", "`"), name


def test_weights_are_found_in_the_given_folder_or_in_that_of_the_variable(tmp_path, monkeypatch):
    file = tmp_path / "dino_vitbase16_pretrain.pth"
    file.write_bytes(b"x")
    assert find_weights("dino-b16", tmp_path) == file
    monkeypatch.setenv("SMCD_WEIGHTS_DIR", str(tmp_path))
    assert find_weights("dino-b16") == file
    file.rename(file.with_suffix(".safetensors"))
    assert find_weights("dino-b16") == file.with_suffix(".safetensors")
    folder = tmp_path / "clip-vit-base-patch32"
    folder.mkdir()
    with refused("weights", value="clip-vit-base-patch32"):
        find_weights("openai-clip")
    (folder / "config.json").write_text("{}")
    assert find_weights("openai-clip") == folder
    with refused("name", value="vgg"):
        find_weights("vgg")


# Similarities


def directions(*degrees):
    """Returns vectors of length 3 at these angles in degrees."""
    return 3 * np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_caption_similarity_is_the_mean_cosine_whatever_the_lengths():
    frames = {"a": directions(0, 60), "b": directions(90, 90), "c": directions(0)}
    captions = {"a": directions(0)[0], "b": 7 * directions(180)[0]}
    result = caption_similarity(frames, captions, Named)
    assert result.name == "clip-sim-net"
    assert result.per_clip == pytest.approx({"a": 0.75, "b": 0}, abs=1e-12)
    assert (result.value, result.count) == (pytest.approx(0.375), 2)
    assert result.note.endswith(": c")
    with refused("clip-sim-net"):
        caption_similarity(frames, {}, Named)


def test_frame_consistency_is_the_mean_cosine_of_neighbours():
    result = frame_consistency(
        {"still": directions(20, 20, 20), "moves": directions(0, 60, 60), "one": directions(0)}, Named
    )
    assert result.name == "frame-consistency-net"
    assert result.per_clip == pytest.approx({"still": 1, "moves": 0.75})
    assert result.note.endswith(": one")


def test_first_frame_fidelity_has_values_for_the_first_frame_and_for_all():
    first, every = first_frame_fidelity({"a": directions(60, 0, 0, 90)}, {"a": directions(0)[0]}, Named)
    assert (first.name, every.name) == ("fff-first-net", "fff-all-net")
    assert (first.value, every.value) == (pytest.approx(0.5), pytest.approx(0.625))
    assert (first.frame_rule, every.frame_rule) == ("frame 0, resized", "every frame, resized")
    assert first.weights_sha256 == every.weights_sha256 == Named.weights_sha256


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_feature_without_direction_is_refused(bad):
    with refused("features", value="a"):
        caption_similarity({"a": np.full((2, 2), bad)}, {"a": directions(0)[0]}, Named)
    with refused("second", value=2):
        caption_similarity({"a": np.ones((2, 3))}, {"a": directions(0)[0]}, Named)


def test_the_order_of_clips_changes_no_bit():
    random = np.random.default_rng(0)
    frames = {f"{index}": random.standard_normal((8, 5)) for index in range(20)}
    captions = {clip: random.standard_normal(5) for clip in frames}
    again = {clip: frames[clip] for clip in reversed(frames)}
    for measure in (
        lambda given: to_json([caption_similarity(given, captions, Named)]),
        lambda given: to_json([frame_consistency(given, Named)]),
        lambda given: to_json(first_frame_fidelity(given, captions, Named)),
    ):
        assert measure(again) == measure(frames)


# Pixels


def test_psnr_of_a_known_error_and_of_equal_frames():
    pytest.importorskip("skimage")
    real = np.full((2, 16, 16, 3), 100, np.uint8)
    assert psnr(real + np.uint8(5), real) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(real, real) == 100
    half = np.stack([real[0] + np.uint8(5), real[1]])
    assert psnr(half, real) == pytest.approx((20 * math.log10(255 / 5) + 100) / 2)


def test_ssim_of_flat_frames_is_the_closed_form():
    pytest.importorskip("skimage")
    real, other = (np.full((1, 16, 20, 3), level, np.uint8) for level in (100, 120))
    c = (0.01 * 255) ** 2
    assert ssim(other, real) == pytest.approx((2 * 100 * 120 + c) / (100**2 + 120**2 + c))
    noise = pictures(2, 24, 32)
    assert ssim(noise, noise) == pytest.approx(1)
    assert abs(ssim(pictures(2, 24, 32, seed=1), noise)) < 0.1


def test_ssim_is_the_formula_under_a_gaussian_window():
    pytest.importorskip("skimage")
    filters = pytest.importorskip("scipy.ndimage")
    real = pictures(1, 20, 24)
    other = (0.5 * real + 0.5 * pictures(1, 20, 24, seed=1)).astype(np.uint8)
    blur = lambda x: filters.gaussian_filter(x, 1.5, axes=(0, 1), truncate=3.5)  # noqa: E731
    x, y = real[0].astype(float), other[0].astype(float)
    means = blur(x), blur(y)
    covariance = blur(x * y) - means[0] * means[1]
    variances = blur(x * x) - means[0] ** 2, blur(y * y) - means[1] ** 2
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    each = (2 * means[0] * means[1] + c_1) * (2 * covariance + c_2)
    each /= (means[0] ** 2 + means[1] ** 2 + c_1) * (sum(variances) + c_2)
    want = each[5:-5, 5:-5].mean()  # only pixels whose 11 x 11 window lies within the frame
    assert 0.2 < want < 0.95
    assert ssim(other, real) == pytest.approx(want, abs=1e-9)


def test_clips_of_another_shape_than_the_real_ones_are_refused():
    pytest.importorskip("skimage")
    with refused("generated", value=(2, 16, 16, 3)):
        psnr(pictures(2, 16, 16), pictures(3, 16, 16))
    with refused("real", value=(8, 16)):
        ssim(pictures(1, 8, 16), pictures(1, 8, 16))


def test_pixel_metrics_name_the_library_and_its_settings():
    pytest.importorskip("skimage")
    result = pixel_metric("psnr", {"a": 20.0, "b": 30.0})
    assert (result.value, result.better) == (25, "higher")
    assert result.implementation.startswith("scikit-image 0.")
    assert result.implementation.endswith("dB, capped at 100")


def test_lpips_reads_the_given_weights_and_downloads_nothing(tmp_path):
    pytest.importorskip("lpips")
    torch, models = pytest.importorskip("torch"), pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    torch.save(models.alexnet(weights=None).state_dict(), tmp_path / "alexnet-owt-7be5be79.pth")
    opened = open_extractor("lpips", tmp_path)
    real, other = pictures(2, 64, 64), pictures(2, 64, 64, seed=1)
    assert opened.distance(real, real) == 0
    assert opened.distance(other, real) > 0
    result = pixel_metric("lpips", {"a": opened.distance(other, real)}, lpips=opened)
    assert (result.name, result.better) == ("lpips-alex", "lower")
    assert "weights alexnet-owt-7be5be79.pth" in result.implementation
    assert opened.distance(other, real) == open_extractor("lpips", tmp_path).distance(other, real)
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "alexnet-owt-7be5be79.pth")
    with refused(path="alexnet-owt-7be5be79.pth", value="features.0.bias"):
        open_extractor("lpips", tmp_path)


# Serialization of metrics


def test_a_metric_survives_json_bit_for_bit():
    values = {"b": np.float64(0.1) + np.float64(0.2), "a": np.float32(1) / 3}
    metric = Metric.mean_of_clips("m", values, implementation="i", weights_sha256="s", frame_rule="r", note="n")
    never = Metric.not_run("n", SMCDError("no weights"), better="lower")
    text = to_json([metric, never])
    assert from_json(text) == [metric, never]
    assert to_json(from_json(text)) == text
    assert json.loads(text)[0]["per_clip"]["b"] == 0.1 + 0.2
    assert list(metric.per_clip) == ["a", "b"]
    assert (never.value, never.note) == (None, "not run: no weights")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_metric_that_is_not_finite_is_refused(bad):
    with refused("m"):
        Metric("m", bad)
    with refused("m"):
        Metric("m", 1.0, per_clip={"a": 1.0, "b": bad})
    with refused("m"):
        Metric("m", 1.0, interval=(0.0, bad))


@pytest.mark.parametrize("text", ["{", '[{"name": "m"}]', '[{"name": "m", "value": 1, "colour": 2}]', "[3]"])
def test_text_other_than_a_list_of_metrics_is_refused(text):
    with refused(path="metrics.json"):
        from_json(text, where="metrics.json")


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(2, 1, 400)
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / 20
    # the sampling error of a quantile of 1000 draws is 3 to 4 percent of the width
    assert low == pytest.approx(values.mean() - error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.15 * error)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([3.0, 3.0]) == (3.0, 3.0)
