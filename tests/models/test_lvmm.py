"""The LVMM family: sampling, playback, guidance and rendering at the smallest sizes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.model_folder import Origin, write_model_folder
from smcd_jax.models.lvmm.config import RegionMotionConfig
from smcd_jax.models.lvmm.guidance import box_energy, loop_energy
from smcd_jax.models.registry import make_model, presets
from smcd_jax.motion import Motion, save_motion
from smcd_jax.nn.networks import abstract_params, flatten, unflatten
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tracks import parse_track
from tests.errors import refused

LVMM_TINY = presets()["lvmm_tiny"]  # importing it registers the networks
SMALL = dataclasses.replace(
    LVMM_TINY,
    unet=dataclasses.replace(LVMM_TINY.unet, base_channels=8, channel_mult=(1,), heads=1, groups=4, context_dim=16),
    pair_motion=dataclasses.replace(LVMM_TINY.pair_motion, base_channels=4, levels=2),
    renderer=dataclasses.replace(LVMM_TINY.renderer, base_channels=4, residual_blocks=1),
    motion_vae=dataclasses.replace(LVMM_TINY.motion_vae, base_channels=8),
    appearance=dataclasses.replace(LVMM_TINY.appearance, features=16),
    text_encoder=dataclasses.replace(LVMM_TINY.text_encoder, width=16, embed_width=16, layers=1, skip_last=0),
    field_scale=0.02,
    frames=5,
    height=32,
    width=32,
)
PICTURE = np.linspace(0, 255, 32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
STEPS = {"num_inference_steps": 2}
MOTION = {**STEPS, "output_type": "motion"}
TRACK = {"image_size": (32, 32), "frames": 5}


def random_leaves(config, seed):
    """Returns random parameters, which give a nonzero motion and need no compiled initializer."""
    rng, leaves = np.random.default_rng(seed), {}
    for path, leaf in flatten(abstract_params(config)).items():
        name, shape = path.rsplit("/", 1)[-1], leaf.shape
        spread = 0.7 / max(np.prod(shape[:-1]), 1) ** 0.5
        plain = name in ("scale", "variance")
        leaves[path] = np.asarray(np.ones(shape) if plain else spread * rng.standard_normal(shape), np.float32)
    return leaves


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    parts = SMALL.components()
    written = ((name, random_leaves(part, index)) for index, (name, part) in enumerate(parts.items()))
    path = tmp_path_factory.mktemp("lvmm") / "model"
    return write_model_folder(path, SMALL, written, origin=Origin("untrained")).path


@pytest.fixture(scope="module")
def pipe(folder):
    return VideoPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def motion(pipe):
    return pipe.sample_motion(PICTURE, "a plant sways", seed=3, **STEPS)


def test_presets_have_the_sizes_of_the_paper_and_of_the_small_model():
    full, tiny = make_model(presets()["lvmm"]), make_model(presets()["lvmm_tiny"])
    assert (full.field_shape, full.latent_shape) == ((128, 128, 3), (16, 16, 4))
    assert (tiny.field_shape, tiny.latent_shape) == ((32, 32, 3), (8, 8, 4))
    assert full.config.unet.input_channels == 4 + 4 + 16


def test_a_motion_starts_at_the_still_and_renders_one_frame_per_field(pipe, motion):
    assert motion.displacement.shape == (1, 5, 16, 16, 2)
    assert (motion.displacement[:, 0] == 0).all()
    assert (motion.confidence[:, 0] == 1).all()
    assert np.abs(motion.displacement[:, 1:]).max() > 0
    frames = pipe.render(PICTURE, motion)
    assert frames.shape == (1, 5, 32, 32, 3)
    # Resizing fields like the published renderer moves borders by up to half a pixel, which is 4 levels here.
    assert np.abs(frames[0, 0].astype(int) - PICTURE).max() <= 4
    np.testing.assert_array_equal(frames, pipe(PICTURE, "a plant sways", seed=3, output_type="uint8", **STEPS).frames)


def test_rendering_does_not_depend_on_the_chunks(pipe, motion):
    whole, parts = (pipe.render(PICTURE, motion, decode_chunk_size=size) for size in (8, 2))
    assert np.abs(whole.astype(int) - parts).max() <= 1


def test_slow_motion_and_strength_are_the_motion_of_the_same_seed(pipe, motion):
    options = {"slow": 3, "interpolation": "cubic", "strength": 0.5, "seed": 3}
    played = pipe.sample_motion(PICTURE, "a plant sways", **options, **STEPS)
    wanted = motion.scaled(0.5).slow(3, "cubic")
    np.testing.assert_allclose(played.displacement, wanted.displacement, atol=1e-6)


def test_a_saved_motion_moves_another_picture_without_sampling(pipe, motion, tmp_path):
    save_motion(tmp_path / "m.npz", motion)
    other = PICTURE[::-1].copy()
    found = pipe(other, motion_from=str(tmp_path / "m.npz"), output_type="uint8")
    assert found.latents is None
    np.testing.assert_array_equal(found.frames, pipe.render(other, motion))
    assert "denoise" not in found.seconds or found.seconds["denoise"] == 0


@pytest.mark.parametrize("gradient", ["short", pytest.param("full", marks=pytest.mark.slow)])
def test_a_guided_loop_has_a_smaller_seam(pipe, gradient):
    options = {"num_inference_steps": 8, "seed": 0}
    free = pipe.sample_motion(PICTURE, **options).frames(1, 5)
    whole = pipe(PICTURE, output_type="latent", loop="guided", loop_gradient=gradient, **options).latents
    guided = pipe.decoded(whole)
    assert guided.seam < 0.95 * free.seam
    looped = pipe.sample_motion(PICTURE, loop="guided", loop_gradient=gradient, **options)
    assert looped.loop
    assert looped.num_frames == 3  # K - 1, because frame K coincides with frame 1


def test_ping_pong_returns_to_the_still(pipe):
    played = pipe.sample_motion(PICTURE, loop="pingpong", **STEPS)
    assert played.num_frames == 2 * 5 - 2
    assert (played.displacement[:, 0] == 0).all()
    assert pipe.sample_motion(PICTURE, loop="none", **STEPS).num_frames == 5


def test_a_box_energy_is_zero_for_the_motion_of_the_box():
    boxes = jnp.asarray([[[[0.2, 0.2, 0.6, 0.6]], [[0.3, 0.2, 0.7, 0.6]]]])
    mask = jnp.ones((1, 2, 1))
    shift = jnp.broadcast_to(jnp.asarray([-0.2, 0.0]), (1, 1, 16, 16, 2))  # displacement from each pixel to its source
    assert float(box_energy(shift, boxes, mask)[0]) == pytest.approx(0, abs=1e-5)
    assert float(box_energy(-shift, boxes, mask)[0]) > 0.3


def test_tracks_guide_a_loop_and_one_that_does_not_return_is_reported(pipe):
    """`tests/models/test_box_guidance.py` tests where the boxes lead."""
    away, still = (
        pipe(PICTURE, tracks=parse_track(f"plant: 4,4,12,12 -> {end}", **TRACK), loop="guided", **MOTION)
        for end in ("20,4,28,12", "4,4,12,12")
    )
    assert any("track ends" in note for note in away.notes)
    assert not any("track ends" in note for note in still.notes)
    assert np.abs(away.motion.displacement - still.motion.displacement).max() > 0


def test_the_user_is_told_how_much_is_painted(pipe):
    found = pipe(PICTURE, **MOTION)
    assert any(f"{found.motion.hidden_share:.1%}" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"num_frames": 7}, "num_frames"),
        ({"loop": "guided", "eta": 0.5}, "eta"),
        ({"loop": "sideways"}, "loop"),
        ({"slow": 0}, "slow"),
        ({"strength": -1.0}, "strength"),
        ({"frame_stride": 2}, "frame_stride"),
        ({"motion_from": "missing.npz"}, "motion_from"),
    ],
)
def test_options_that_do_not_fit_are_refused(pipe, options, argument):
    with refused(argument=argument):
        pipe(PICTURE, **options)


def test_other_families_refuse_the_options_of_motion():
    other = make_model(presets()["tiny"])
    for name, value in {"slow": 2, "strength": 1.5, "motion_from": "m.npz", "interpolation": "cubic"}.items():
        with refused(argument=name):
            other.resolve(SamplingOptions(**{name: value}))


def test_conditions_are_dropped_independently(pipe):
    model = pipe.model
    inputs = model.inputs({name: jnp.ones(shape) for name, shape in INPUT_SHAPES.items()})
    keep = {"image": jnp.array([True, False]), "text": jnp.array([False, True])}
    dropped = model.drop(inputs, keep)
    assert [float(dropped.still[row].max()) for row in (0, 1)] == [1, 0]
    assert [float(dropped.appearance[row].max()) for row in (0, 1)] == [1, 0]
    assert [float(dropped.text_token[row].max()) for row in (0, 1)] == [0, 1]


INPUT_SHAPES = {"latents": (2, 5, 4, 4, 4), "appearance": (2, 4, 4, 16), "text_token": (2, 16)}


def test_no_prompt_is_a_token_of_zeros(pipe):
    features = {name: jnp.ones(shape) for name, shape in INPUT_SHAPES.items()}
    inputs = pipe.model.inputs({**features, "prompted": jnp.array([0.0, 1.0])})
    assert (inputs.text_token[0] == 0).all()
    assert (inputs.text_token[1] == 1).all()


def test_the_published_networks_of_regions_have_the_same_output():
    regions = RegionMotionConfig()
    small = {"base_channels": 4, "levels": 2, "scale": 0.5}
    regions = dataclasses.replace(
        regions,
        region_predictor=dataclasses.replace(regions.region_predictor, regions=3, **small),
        background_predictor=dataclasses.replace(regions.background_predictor, base_channels=4, levels=2),
        flow_predictor=dataclasses.replace(regions.flow_predictor, regions=3, **small),
    )
    model = make_model(dataclasses.replace(SMALL, pair_motion=None, region_motion=regions))
    params = {"region_motion": unflatten(random_leaves(regions, 0))}
    pictures = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
    field = jax.jit(model.estimate)(params, pictures, pictures)
    assert field.shape == (2, 16, 16, 3)
    assert model.objectives["motion"].components == ("region_motion", "renderer")


def test_the_loop_energy_is_zero_for_a_whole_period():
    period = jnp.sin(2 * jnp.pi * jnp.linspace(0, 1, 9))[None, :, None, None, None]
    assert float(loop_energy(period)[0]) == pytest.approx(0, abs=1e-5)
    assert float(loop_energy(period[:, :5])[0]) > 0.5
    assert isinstance(jax.tree.map(jnp.asarray, Motion(period, period[..., 0])), Motion)
