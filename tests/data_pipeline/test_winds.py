"""The world of winds: deterministic clips, and true displacement fields that warp frame 0 to the other frames."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from data_pipeline.builders import make_source
from data_pipeline.records.schema import deserialize, serialize
from data_pipeline.winds import WindConfig, WindWorld, clip_id, parse_clip_id
from tests.errors import refused

WORLD = WindWorld()
IDENTITY = np.stack(np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64)), axis=-1)


def warped(picture, field):
    """Returns the picture warped by a backward displacement field, in coordinates of -1..1."""
    at = (IDENTITY + field[..., :2] + 1) / 2 * 63
    channels = [map_coordinates(picture[..., c].astype(float), [at[..., 1], at[..., 0]], order=1) for c in range(3)]
    return np.stack(channels, axis=-1)


@pytest.mark.parametrize("index", range(4))
def test_true_fields_carry_frame_0_to_later_frames(index):
    video = WORLD.render(index, split="test").video
    fields = WORLD.fields(index, split="test", side=64)
    for frame in (3, 8):
        valid = fields[frame, ..., 2] > 0
        error = np.square(warped(video[0], fields[frame]) - video[frame])[valid].mean()
        copied = np.square(video[0].astype(float) - video[frame])[valid].mean()
        assert error < 60  # a PSNR of 30 dB; pixels on soft outlines mix two layers
        assert error < 0.4 * copied


def test_the_first_field_is_no_motion_and_everything_is_visible():
    field = WORLD.fields(0, side=16)[0]
    np.testing.assert_allclose(field, np.broadcast_to([0.0, 0.0, 1.0], field.shape), atol=1e-6)


def test_revealed_background_is_not_valid_and_does_not_move():
    hidden = [WORLD.fields(index, side=64)[8] for index in range(8)]
    revealed = np.concatenate([field[field[..., 2] == 0] for field in hidden])
    assert 0.002 < len(revealed) / (8 * 64 * 64) < 0.2
    assert (np.abs(revealed[:, :2]).max(axis=-1) < 1e-6).mean() > 0.3


def test_frames_between_two_frames_lie_between_them():
    whole, between = WORLD.fields(2, side=32), WORLD.fields(2, side=32, frames=[3.5])[0]
    moved = np.abs(whole[3, ..., :2] - whole[4, ..., :2]).mean()
    assert np.abs(between[..., :2] - (whole[3, ..., :2] + whole[4, ..., :2]) / 2).mean() < 0.5 * moved


def test_a_clip_is_a_function_of_seed_split_and_index():
    first = WORLD.render(7)
    np.testing.assert_array_equal(first.video, WindWorld(WindConfig()).render(7).video)
    assert (first.video != WORLD.render(7, split="test").video).any()
    assert (first.video != WindWorld(WindConfig(seed=1)).render(7).video).any()


def test_records_hold_the_frames_exactly():
    source = make_source("winds", None, train_clips=2, width=32, height=32)
    clip = deserialize(b"".join(serialize(source.clip("train", 1))))
    stored = np.stack([np.asarray(Image.open(io.BytesIO(frame))) for frame in clip.frames])
    np.testing.assert_array_equal(stored, source.world.render(1).video)
    assert clip.clip_id == clip_id("train", 1)
    assert parse_clip_id(clip.clip_id) == ("train", 1)
    assert clip.num_frames == 9
    assert set(clip.labels) <= {"plant", "balloon", "cloud"}


@pytest.mark.parametrize(
    ("options", "argument"),
    [({"width": 8}, "width"), ({"max_period": 3.0}, "max_period"), ({"wind": 1}, "options"), ({"sway": 1.0}, "sway")],
)
def test_wrong_options_are_refused(options, argument):
    with refused(argument=argument):
        make_source("winds", None, **options)
