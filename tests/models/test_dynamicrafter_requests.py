"""Requests to DynamiCrafter: options, modes, fitting and refusals without weights, and videos of random weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from smcd_jax.cli import main
from smcd_jax.diffusion.samplers import initial_state
from smcd_jax.diffusion.sampling import on_device, sample
from smcd_jax.media import read_video
from smcd_jax.models.dynamicrafter.config import PRESETS, TINY
from smcd_jax.models.dynamicrafter.pictures import fit_picture
from smcd_jax.models.registry import make_model
from smcd_jax.nn.config import PositionNetConfig
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.request import make_request
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.tracks import BoxTracks
from tests.cli.command_errors import failure
from tests.errors import refused
from tests.training.training_run import write_stand_in

pytestmark = pytest.mark.usefixtures("shared_programs")

BOXED = dataclasses.replace(
    TINY,
    unet=dataclasses.replace(TINY.unet, gate="object"),
    position_net=PositionNetConfig(label_width=64, token_width=64, hidden_width=64),
    max_objects=4,
)
# The network of the sampled videos, whose one level compiles in half the time; no test looks at the frames.
SMALL = dataclasses.replace(
    TINY,
    unet=dataclasses.replace(TINY.unet, channel_mult=(1,), attention_scales=(1.0,)),
    autoencoder=dataclasses.replace(TINY.autoencoder, base_channels=8, channel_mult=(1, 1, 1)),
)
MODELS = {
    "plain": make_model(TINY),
    "interp": make_model(dataclasses.replace(TINY, interpolation=True)),
    "boxed": make_model(BOXED),
}
TRACKS = BoxTracks(np.tile([[0.1, 0.1, 0.5, 0.5]], (5, 1, 1)), np.ones((5, 1), bool), ("a ball",))
PICTURE = np.tile(np.arange(48, dtype=np.uint8)[:, None] * 4, (32, 1, 1)).repeat(3, axis=2)  # 32 x 48, a ramp


def plan(model, tracks=None, **options):
    request = make_request(MODELS[model], image=PICTURE, prompt=None, tracks=tracks, options=SamplingOptions(**options))
    return MODELS[model].plan(request, Tokenizer.published()), request


@pytest.mark.parametrize(
    ("variant", "spacing", "rescale", "rate"),
    [("256", "leading", 0.0, 3), ("512", "trailing", 0.7, 24), ("1024", "trailing", 0.7, 10)],
)
def test_each_variant_samples_as_published(variant, spacing, rescale, rate):
    model = make_model(PRESETS[f"dynamicrafter_{variant}"])
    options = model.resolve(SamplingOptions())
    assert (options.num_inference_steps, options.eta, options.guidance_scale) == (50, 1.0, 7.5)
    assert (options.timestep_spacing, options.guidance_rescale) == (spacing, rescale)
    assert (options.frame_stride or options.fps_condition) == rate
    times = model.solver_table(options).timesteps[:50]
    assert times.tolist() == (list(range(981, 0, -20)) if variant == "256" else list(range(999, 0, -20)))


def test_a_picture_alone_conditions_every_frame():
    made, _ = plan("plain")
    assert made.raw["latent_source"].tolist() == [[0] * 8]
    assert made.raw["frame_rate"].tolist() == [8]
    assert made.keep_frames is None
    assert made.latent_shape == (8, 8, 8, 4)


def test_fewer_frames_are_the_beginning_of_a_whole_video():
    made, _ = plan("plain", num_frames=5, fps_condition=4)
    assert (made.latent_shape[0], made.keep_frames) == (8, (0, 1, 2, 3, 4))
    assert made.raw["frame_rate"].tolist() == [4]


def test_the_published_switch_to_shared_image_tokens_has_a_name():
    for count in (5, 12):
        made, _ = plan("plain", num_frames=count, shared_image_tokens=True)
        assert (made.latent_shape[0], made.keep_frames) == (count, None)


def test_a_long_video_is_sampled_whole_in_windows_of_the_trained_length():
    made, request = plan("boxed", tracks=TRACKS, num_frames=12)
    assert (made.latent_shape[0], made.keep_frames) == (12, None)
    assert made.raw["boxes"].shape == (1, 12, 4, 4)
    assert (request.options.window, request.options.window_overlap) == (8, 4)
    _, shared = plan("plain", num_frames=12, shared_image_tokens=True)
    assert shared.options.window == 12  # all frames in one window, as in the published code


def test_a_loop_has_one_picture_at_both_ends_and_hides_the_last_frame():
    made, _ = plan("interp", loop=True)
    assert made.raw["latent_source"].tolist() == [[0, *[-1] * 6, 0]]
    assert made.raw["video"].shape[1] == 1
    assert made.keep_frames == tuple(range(7))


def test_an_in_between_ends_at_the_second_picture():
    made, _ = plan("interp", end_image=255 - PICTURE)
    assert made.raw["latent_source"].tolist() == [[0, *[-1] * 6, 1]]
    assert made.raw["video"].shape[1] == 2
    assert made.keep_frames is None
    assert made.raw["picture"].mean() < 0  # the image tower gets the first picture


def test_tracks_are_extended_to_the_length_of_the_model():
    made, _ = plan("boxed", tracks=TRACKS, num_frames=5)
    assert made.raw["boxes"].shape == (1, 8, 4, 4)
    assert made.raw["mask"][0, :, 0].tolist() == [1] * 8
    assert made.keep_frames == tuple(range(5))


@pytest.mark.parametrize(
    ("model", "options", "argument"),
    [
        ("plain", {"num_frames": 1}, "num_frames"),
        ("plain", {"window": 4}, "window"),
        ("plain", {"loop": True}, "loop"),
        ("plain", {"end_image": PICTURE}, "end_image"),
        ("plain", {"frame_stride": 2}, "frame_stride"),
        ("plain", {"box_guidance_scale": 2.0}, "box_guidance_scale"),
        ("plain", {"width": 40}, None),
        ("plain", {"width": 36}, "width"),
        ("interp", {}, "end_image"),
        ("interp", {"loop": True, "end_image": PICTURE}, "end_image"),
        ("interp", {"loop": "mirror"}, "loop"),
        ("interp", {"loop": True, "num_frames": 5}, "num_frames"),
        ("interp", {"loop": True, "num_frames": 9}, "num_frames"),
        ("interp", {"end_image": PICTURE, "num_frames": 9}, "num_frames"),
        ("interp", {"loop": True, "num_frames": 12, "shared_image_tokens": True, "window": 8}, "num_frames"),
        ("boxed", {"picture_fit": "crop"}, "picture_fit"),
    ],
)
def test_an_option_that_a_model_does_not_support_is_refused_by_name(model, options, argument):
    tracks = TRACKS if model == "boxed" else None
    if argument is None:
        assert plan(model, tracks, **options)[0].latent_shape[2] == 10
        return
    with refused(argument):
        plan(model, tracks, **options)


def test_tracks_are_refused_without_gates_and_required_with_them():
    with refused("tracks"):
        plan("plain", tracks=TRACKS)
    with refused("tracks"):
        plan("boxed")


@pytest.mark.parametrize(
    ("fit", "left", "noted"),
    [("crop", 30, True), ("pad", 30, True), ("gui", 30, True), ("stretch", 2, True)],
)
def test_a_wide_picture_is_cut_at_both_ends(fit, left, noted):
    fitted = fit_picture(PICTURE, height=32, width=32, fit=fit)
    assert fitted.pixels.shape == (32, 32, 3)
    assert abs(float(fitted.pixels[0, 0, 0]) - left) <= 4
    assert bool(fitted.note) == noted


@pytest.mark.parametrize(("fit", "bar"), [("pad", 0), ("gui", 127.5)])
def test_a_tall_picture_gets_bars(fit, bar):
    tall = np.full((64, 32, 3), 200, np.uint8)
    fitted = fit_picture(tall, height=32, width=64, fit=fit)
    assert fitted.pixels[:, 0].max() == bar
    assert abs(float(fitted.pixels[16, 32, 0]) - 200) < 1
    assert "50 %" in fitted.note
    assert fit_picture(tall, height=32, width=64, fit="crop").pixels.min() == 200


@pytest.mark.parametrize(("undo", "contrast"), [(None, 0.926), (True, 1.0)])
def test_undoing_the_rescale_restores_the_contrast_at_ten_steps(undo, contrast):
    """If the network knows the clean latents, samples have 93 % of their contrast as published, and 100 % with undo."""
    model = make_model(PRESETS["dynamicrafter_512"])
    schedule, x0 = model.schedule, jax.random.normal(jax.random.key(1), (1, 4, 4, 4, 4))
    table = model.solver_table(model.resolve(SamplingOptions(num_inference_steps=10, eta=0.0, undo_rescale=undo)))
    signal, noise, scale = (jnp.asarray(part, jnp.float32) for part in (
        np.sqrt(schedule.alphas_cumprod), np.sqrt(1 - schedule.alphas_cumprod), schedule.scale
    ))  # fmt: skip

    def predict(x, t):
        a, s, clean = signal[t.astype(int)], noise[t.astype(int)], x0 * scale[t.astype(int)]
        return (a * (x - a * clean) / s - s * clean)[None]

    state = initial_state(jax.random.normal(jax.random.key(2), x0.shape))
    settings = {"weights": jnp.ones(1), "keys": jax.random.split(jax.random.key(0), 1)}
    final = sample(predict, state, table=on_device(table), start=0, stop=10, **settings).latents
    measured = float((final * x0).sum() / (x0 * x0).sum()) / float(signal[0])
    assert measured == pytest.approx(contrast, abs=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "plain"
    write_stand_in(path, SMALL)
    return path


@pytest.fixture(scope="module")
def pipeline(folder):
    return VideoPipeline.from_pretrained(folder)


@pytest.mark.parametrize("steps", [7, 20, *(pytest.param(count, marks=pytest.mark.slow) for count in (25, 61))])
def test_every_number_of_steps_gives_finite_frames(pipeline, steps):
    """With these numbers of steps, the published float32 code takes the square root of a negative number."""
    video = pipeline(PICTURE, num_inference_steps=steps, output_type="latent")
    assert np.isfinite(video.latents).all()
    assert video.latents.std() > 0.01


def test_a_long_video_has_its_own_image_tokens_in_every_window(pipeline):
    """Windows have the number of frames used in training, so every frame attends to its own image tokens."""
    video = pipeline(PICTURE, num_frames=12, num_inference_steps=2, output_type="latent")
    assert video.latents.shape[1] == 12
    assert np.isfinite(video.latents).all()
    assert video.latents.std() > 0.01


def test_animate_writes_a_video_of_a_picture_alone(folder, tmp_path, capsys):
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    command = ["animate", "--model", str(folder), "--image", str(tmp_path / "picture.png")]
    command += ["--output", str(tmp_path / "clip"), "--num_inference_steps", "2", "--num_frames", "5"]
    assert main([*command, "--replace_first_frame", "--image_guidance_scale", "2"]) == 0
    frames, _ = read_video(tmp_path / "clip.mp4")
    assert frames.shape == (5, 32, 32, 3)
    fitted = fit_picture(PICTURE, height=32, width=32, fit="crop").pixels.astype(float)
    assert np.abs(frames[0] - fitted).mean() < 4  # out of 255; video compression is lossy
    said = capsys.readouterr().err
    assert "33 % of the picture's width is cut off" in said
    assert "pixels change by" in said
    options = json.loads((tmp_path / "clip.json").read_text())["options"]
    assert (options["fps_condition"], options["image_guidance_scale"], options["eta"]) == (8, 2.0, 1.0)
    assert failure([*command, "--track", "a ball: 0,0,16,16 -> 16,16,32,32"]).argument == "tracks"
