"""BoxTracks, interpolation, and tracks given as text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smcd_jax.tracks import BoxTracks, PixelTracks, interpolate, join_tracks, parse_track
from tests.errors import refused


def tracks_of(boxes, mask=None, labels=("a", "b")) -> BoxTracks:
    boxes = np.asarray(boxes)
    mask = np.ones(boxes.shape[:2], bool) if mask is None else mask
    return BoxTracks(boxes, mask, tuple(labels[: boxes.shape[1]]))


def moving(frames=5, start=(0.0, 0.0, 0.2, 0.2), end=(0.8, 0.4, 1.0, 0.6)) -> np.ndarray:
    t = np.linspace(0, 1, frames)[:, None, None]
    return (1 - t) * np.array(start) + t * np.array(end)


# --- BoxTracks -------------------------------------------------------------------------------------------------------


def test_absent_boxes_are_stored_as_zeros_and_may_hold_anything():
    boxes = moving(3)
    boxes[1] = np.nan
    tracks = tracks_of(boxes, [[1], [0], [1]])
    assert tracks.mask.dtype == bool
    assert tracks.boxes.dtype == np.float32
    np.testing.assert_array_equal(tracks.boxes[1], 0)
    assert (tracks.num_frames, tracks.num_objects) == (3, 1)


def test_arrays_are_own_and_read_only():
    boxes = moving(3)
    tracks = tracks_of(boxes)
    boxes[:] = 0
    assert tracks.boxes[0, 0, 2] == np.float32(0.2)
    with pytest.raises(ValueError, match="read-only"):
        tracks.boxes[0] = 0


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.25, 1), (0, 0.5, 1, 0.5), (0, 0, 1.5, 1), (-0.125, 0, 1, 1), (0, 0, float("inf"), 1)]
)
def test_an_invalid_box_is_refused(box):
    boxes = np.repeat(moving(4), 2, axis=1)
    boxes[2, 1] = box
    with refused("boxes", value=list(box)) as record:
        tracks_of(boxes)
    assert str(record.value).startswith("object 1 'b', frame 2: ")


def test_a_box_that_holds_nan_is_refused_where_it_is_present():
    boxes = moving(3)
    boxes[1, 0, 2] = np.nan
    with refused("boxes") as record:
        tracks_of(boxes)
    assert np.isnan(record.value.value[2])


@pytest.mark.parametrize(
    ("boxes", "mask", "labels", "argument", "value"),
    [
        (np.zeros((2, 1, 4)), np.zeros((2, 2)), ("a",), "boxes", (2, 1, 4)),
        (np.zeros((2, 1, 5)), np.zeros((2, 1)), ("a",), "boxes", (2, 1, 5)),
        (np.zeros((2, 0, 4)), np.zeros((2, 0)), (), "mask", (2, 0)),
        (np.zeros((2, 1, 4)), np.zeros((2, 1)), (" ",), "labels", " "),
        (np.zeros((2, 1, 4)), np.zeros((2, 1)), ("a\nb",), "labels", "a\nb"),
        (np.zeros((2, 1, 4)), np.zeros((2, 1)), "a", "labels", "a"),
        (np.zeros((2, 1, 4)), np.array([[0], [0.5]]), ("a",), "mask", 0.5),
    ],
)
def test_wrong_parts_are_refused(boxes, mask, labels, argument, value):
    with refused(argument, value=value):
        BoxTracks(boxes, mask, labels)


def test_a_prompt_that_is_not_text_is_refused():
    with refused("prompt", value=7):
        BoxTracks(moving(2), np.ones((2, 1)), ("a",), 7)


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 9, 17])
def test_resampling_a_linear_motion_gives_the_same_motion(frames):
    resampled = tracks_of(moving(5)).resample(frames)
    expected = moving(frames) if frames > 1 else moving(5)[:1]
    # Coordinates are float32 in 0..1, with a few rounding errors of 6e-8.
    np.testing.assert_allclose(resampled.boxes, expected, atol=2e-7)


def test_resampling_twice_the_steps_keeps_the_old_frames_exactly():
    tracks = tracks_of(moving(5))
    np.testing.assert_array_equal(tracks.resample(9).boxes[::2], tracks.boxes)


def test_resampling_takes_presence_from_the_nearest_frame_and_never_blends_with_an_absent_box():
    tracks = tracks_of(moving(3), [[1], [0], [1]])
    resampled = tracks.resample(9)
    # The old frames become 0, 4 and 8; the frames halfway between them, 2 and 6, take the later one.
    np.testing.assert_array_equal(resampled.mask[:, 0], [1, 1, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(resampled.boxes[1], tracks.boxes[0])
    np.testing.assert_array_equal(resampled.boxes[6], tracks.boxes[2])


@pytest.mark.parametrize("frames", [0, -1, 2.5, True])
def test_resampling_to_no_frames_is_refused(frames):
    with refused("frames", value=frames):
        tracks_of(moving(3)).resample(frames)


def test_pad_adds_masked_zero_boxes():
    tracks = tracks_of(moving(3))
    boxes, mask = tracks.pad(4)
    assert boxes.shape == (3, 4, 4)
    np.testing.assert_array_equal(boxes[:, 0], tracks.boxes[:, 0])
    np.testing.assert_array_equal(boxes[:, 1:], 0)
    np.testing.assert_array_equal(mask, np.tile([True, False, False, False], (3, 1)))


def test_pad_refuses_more_objects_than_the_model_takes():
    tracks = tracks_of(np.repeat(moving(3), 2, axis=1))
    with refused("tracks", value=2):
        tracks.pad(1)


def test_join_keeps_order_notes_and_the_one_prompt():
    first = BoxTracks(moving(3), np.ones((3, 1)), ("a",), "a prompt", ("read",))
    second = BoxTracks(moving(3, end=(0.5, 0.5, 1, 1)), np.ones((3, 1)), ("b",), None, ("read", "clipped"))
    joined = join_tracks([first, second])
    assert joined.labels == ("a", "b")
    assert joined.prompt == "a prompt"
    assert joined.notes == ("read", "clipped")
    np.testing.assert_array_equal(joined.boxes[:, 1], second.boxes[:, 0])


def test_join_refuses_tracks_that_differ():
    one, other = tracks_of(moving(3)), tracks_of(moving(4))
    with refused("tracks", value=[3, 4]):
        join_tracks([one, other])
    with refused("tracks", value=None):
        join_tracks([])
    prompted = [BoxTracks(moving(3), np.ones((3, 1)), ("a",), prompt) for prompt in ("x", "y")]
    with refused("tracks", value=["x", "y"]):
        join_tracks(prompted)


# --- interpolation ---------------------------------------------------------------------------------------------------

coordinates = st.floats(-2000, 2000, allow_nan=False)
key_frames = st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True).map(sorted)


@settings(deadline=None)
@given(key_frames.flatmap(lambda keys: st.tuples(st.just(keys), st.tuples(*[coordinates] * len(keys)))))
def test_smooth_stays_between_its_neighbouring_keys_and_is_monotone_there(motion):
    keys, values = np.array(motion[0]), np.array(motion[1])
    times = np.linspace(keys[0] - 2, keys[-1] + 2, 211)
    smooth = interpolate(keys, values[:, None], times, "smooth")[:, 0]
    for index in range(len(keys) - 1):
        piece = smooth[(times >= keys[index]) & (times <= keys[index + 1])]
        low, high = sorted(values[index : index + 2])
        assert np.all((piece >= low) & (piece <= high))
        # Float64 rounding of coordinates up to 2000 may change the sign of a step of a few ulps.
        assert np.all(np.diff(piece) * np.sign(values[index + 1] - values[index]) >= -1e-11)
    assert np.all(smooth[times <= keys[0]] == values[0])
    assert np.all(smooth[times >= keys[-1]] == values[-1])


def test_smooth_has_the_slopes_of_fritsch_and_butland():
    # The secants 1 and 3 give slopes 2 / (1 / 1 + 1 / 3) = 1.5 at the inner key and (3 * 1 - 3) / 2 = 0 at the first.
    smooth = interpolate(np.arange(3), np.array([[0.0], [1.0], [4.0]]), np.array([0.5]), "smooth")
    np.testing.assert_allclose(smooth, [[0.5 - 1.5 / 8]], rtol=1e-15)


def test_an_unknown_interpolation_is_refused():
    with refused("interpolation", value="cubic"):
        interpolate(np.arange(2), np.zeros((2, 1)), np.arange(2), "cubic")


@pytest.mark.parametrize("kind", ["linear", "smooth", "hold"])
def test_every_interpolation_passes_through_its_keys(kind):
    keys, values = np.array([0, 3, 4, 9]), np.array([[0.0, 5], [7, 5], [2, -1], [2, 8]])
    np.testing.assert_array_equal(interpolate(keys, values, keys, kind), values)


def test_hold_keeps_each_key_until_the_next():
    held = interpolate(np.array([1, 4]), np.array([[10.0], [20.0]]), np.arange(6), "hold")
    np.testing.assert_array_equal(held[:, 0], [10, 10, 10, 10, 20, 20])


# --- tracks as text --------------------------------------------------------------------------------------------------


def test_a_track_on_the_command_line_moves_evenly_between_its_boxes():
    tracks = parse_track("rocket: 300,125,345,405 -> 300,10,345,290", image_size=(640, 427), frames=8)
    expected = moving(8, (300, 125, 345, 405), (300, 10, 345, 290)) / np.array([640, 427, 640, 427])
    # Computed in float64 in another order, then rounded to float32 in 0..1.
    np.testing.assert_allclose(tracks.boxes, expected, atol=1e-7)
    assert tracks.labels == ("rocket",)
    assert tracks.notes == ()


def test_several_boxes_are_spread_evenly_and_one_holds_still():
    three = parse_track("a: 0,0,0.2,1 -> 0.4,0,0.6,1 -> 0.8,0,1,1", image_size=(1, 1), frames=5)
    np.testing.assert_allclose(three.boxes[:, 0, 0], [0, 0.2, 0.4, 0.6, 0.8], atol=1e-7)
    one = parse_track("the cat: left: 10,10,20,20", image_size=(40, 40), frames=3)
    assert one.labels == ("the cat: left",)
    np.testing.assert_array_equal(one.boxes[:, 0], np.tile(np.float32([0.25, 0.25, 0.5, 0.5]), (3, 1)))


def test_a_track_that_leaves_the_picture_is_clipped_and_a_note_reports_it():
    tracks = parse_track("a: 0,0,10,10 -> 35,0,45,10", image_size=(40, 40), frames=2)
    assert tracks.boxes[1, 0, 2] == 1
    assert len(tracks.notes) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("300,125,345,405", "300,125,345,405"),
        (": 0,0,1,1", ": 0,0,1,1"),
        ("a: 0,0,1", "0,0,1"),
        ("a: 0,0,1,1 -> ", ""),
        ("a: 0,0,x,1", "x"),
        ("a: 0,0,nan,1", "nan"),
        ("a: 0,0,1,1 -> 5,0,4,1", [5, 0, 4, 1]),
        ("a: 0,0,1,1 -> 50,0,54,1", [50, 0, 54, 1]),
        ("a: 0,0,1,1 -> 0,0,2,2 -> 0,0,3,3", 3),
    ],
)
def test_faults_of_a_track_as_text(text, value):
    with refused("track", value=value) as record:
        parse_track(text, image_size=(40, 40), frames=2)
    assert record.value.path is None


@pytest.mark.parametrize("size", [(0, 40), (40, -1), (40, float("inf")), (40,)])
def test_a_picture_without_a_positive_size_is_refused(size):
    with refused("image_size", value=size):
        parse_track("a: 0,0,1,1", image_size=size, frames=2)


def test_pixel_tracks_without_a_size_need_one():
    tracks = PixelTracks(np.array([[[0, 0, 5, 5.0]]]), np.ones((1, 1), bool), ("a",), None, "boxes")
    with refused("image_size", value=None):
        tracks.to_box_tracks()
