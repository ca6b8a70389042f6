"""The track file `tracks.json`: every rule of the format, errors that say where the fault is, and writing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smcd_jax.tracks import BoxTracks, load_tracks, parse_track_file, save_tracks
from tests.errors import refused

ROCKET = {
    "format": "smcd-tracks",
    "version": 1,
    "frames": 8,
    "size": [640, 427],
    "prompt": "a rocket lifting off",
    "objects": [
        {
            "label": "rocket",
            "interpolation": "linear",
            "keyframes": [{"frame": 0, "box": [300, 125, 345, 405]}, {"frame": 7, "box": [300, 10, 345, 290]}],
            "visible": [[0, 7]],
        }
    ],
}


def load(content: dict, **options) -> BoxTracks:
    return parse_track_file(json.dumps(content)).to_pixel_tracks(options.pop("frames", None)).to_box_tracks(**options)


def changed(**changes) -> dict:
    return {**ROCKET, **changes}


def changed_object(**changes) -> dict:
    return changed(objects=[{**ROCKET["objects"][0], **changes}])


def test_linear_keyframes_move_evenly():
    tracks = load(ROCKET)
    pixels = tracks.boxes[:, 0] * np.array([640, 427, 640, 427])
    # float32 rounding in 0..1, for a width of 640 pixels: 640 * 6e-8
    np.testing.assert_allclose(pixels[:, 1], 125 - 115 * np.arange(8) / 7, atol=4e-5)
    np.testing.assert_allclose(pixels[:, 0], 300, atol=4e-5)
    assert tracks.labels == ("rocket",)
    assert tracks.prompt == "a rocket lifting off"
    assert tracks.mask.all()
    assert len(tracks.notes) == 1


def test_interpolation_defaults_to_linear_and_prompt_and_visible_are_optional():
    short = {key: value for key, value in ROCKET["objects"][0].items() if key in ("label", "keyframes")}
    content = {key: value for key, value in changed(objects=[short]).items() if key != "prompt"}
    tracks = load(content)
    assert tracks.prompt is None
    np.testing.assert_array_equal(tracks.boxes, load(ROCKET).boxes)
    np.testing.assert_array_equal(tracks.mask, load(ROCKET).mask)


def test_size_one_by_one_means_boxes_in_0_to_1():
    content = changed(size=[1, 1], objects=[{"label": "a", "keyframes": [{"frame": 3, "box": [0.25, 0, 0.5, 1]}]}])
    tracks = load(content, image_size=(640, 427))
    np.testing.assert_array_equal(tracks.boxes, np.tile(np.float32([0.25, 0, 0.5, 1]), (8, 1, 1)))
    assert len(tracks.notes) == 1


def test_outside_its_visible_ranges_an_object_is_masked_out():
    tracks = load(changed_object(visible=[[0, 1], [5, 6]]))
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 1, 0, 0, 0, 1, 1, 0])


def test_other_numbers_of_frames_come_from_the_keyframes():
    content = changed_object(interpolation="hold")
    # The second of 2 frames is frame 7 of the file, where the second keyframe is.
    assert load(content, frames=2).boxes[1, 0, 1] == np.float32(10 / 427)
    held = load(content, frames=15).boxes[:, 0, 1]
    np.testing.assert_array_equal(held[:14], np.float32(125 / 427))
    smooth = load(changed_object(interpolation="smooth"), frames=15)
    np.testing.assert_array_equal(smooth.boxes[::2], load(changed_object(interpolation="smooth")).boxes)


def test_a_frame_beside_a_hidden_one_stays_where_the_object_was_seen():
    keyframes = [{"frame": 0, "box": [0, 0, 100, 100]}, {"frame": 7, "box": [1440, 0, 1540, 100]}]
    content = changed_object(keyframes=keyframes, visible=[[0, 3]])
    # 22 frames are thirds of the file's: 9 is its frame 3, and 10 is nearest to that, but by then the box is outside.
    tracks = load(content, frames=22)
    np.testing.assert_array_equal(np.flatnonzero(tracks.mask[:, 0]), range(11))
    np.testing.assert_array_equal(tracks.boxes[[9, 10]], load(content).boxes[[3, 3]])


def test_boxes_are_clipped_to_the_picture_and_a_note_reports_it():
    keyframes = [{"frame": 0, "box": [-64, 10, 64, 100]}, {"frame": 7, "box": [64, 10, 192, 100]}]
    tracks = load(changed_object(keyframes=keyframes))
    assert tracks.boxes[:, 0, 0].min() == 0
    assert tracks.notes[1] == (
        "tracks.json: object 0 'rocket': clipped to the picture in frames 0-3, by at most 10 % of its side"
    )


def test_a_size_of_another_aspect_ratio_is_noted_and_a_scaled_one_is_not():
    assert len(load(ROCKET, image_size=(256, 256)).notes) == 2
    assert len(load(ROCKET, image_size=(256, 171)).notes) == 1


def test_a_box_entirely_outside_the_picture_is_an_error_where_it_is_visible():
    keyframes = [{"frame": 0, "box": [300, 125, 345, 405]}, {"frame": 7, "box": [640, 10, 700, 290]}]
    with refused("boxes", path="tracks.json", value=[640, 10, 700, 290]):
        load(changed_object(keyframes=keyframes))
    hidden = load(changed_object(keyframes=keyframes, visible=[[0, 6]]))
    assert not hidden.mask[7, 0]


def test_smooth_interpolation_that_folds_a_box_is_an_error():
    # Between frames 4 and 5 the left side barely moves and the right side leaps, so that x1 exceeds x2 before frame 4.
    keyframes = [
        {"frame": 0, "box": [0, 0, 1, 9]},
        {"frame": 4, "box": [100, 0, 101, 9]},
        {"frame": 5, "box": [100.5, 0, 300, 9]},
    ]
    with refused("interpolation", path="tracks.json", value="smooth"):
        load(changed_object(keyframes=keyframes, interpolation="smooth"))
    assert load(changed_object(keyframes=keyframes, interpolation="linear")).mask.all()


BOX = [300, 125, 345, 405]


@pytest.mark.parametrize(
    ("content", "argument", "value"),
    [
        (changed(format="other"), "format", "other"),
        (changed(version=2), "version", 2),
        (changed(version="1"), "version", "1"),
        (changed(version=True), "version", True),
        (changed(extra=1), "extra", 1),
        (changed_object(colour="red"), "objects[0].colour", "red"),
        (changed(frames=0), "frames", 0),
        (changed(frames=10**9), "frames", 10**9),
        (changed(frames="8"), "frames", "8"),
        (changed(frames=True), "frames", True),
        (changed(size=[640]), "size", [640]),
        (changed(size=[640, 0]), "size", [640, 0]),
        (changed(size=[640, "427"]), "size[1]", "427"),
        (changed(prompt=None), "prompt", None),
        (changed(objects=[]), "objects", []),
        (changed(objects={}), "objects", {}),
        (changed(objects=["rocket"]), "objects[0]", "rocket"),
        ({key: value for key, value in ROCKET.items() if key != "size"}, "size", None),
        (changed_object(label=""), "objects[0].label", ""),
        (changed_object(label=7), "objects[0].label", 7),
        (changed_object(interpolation="cubic"), "objects[0].interpolation", "cubic"),
        (changed_object(keyframes=[]), "objects[0].keyframes", []),
        (changed_object(keyframes=[{"frame": 8, "box": BOX}]), "objects[0].keyframes[0].frame", 8),
        (changed_object(keyframes=[{"frame": -1, "box": BOX}]), "objects[0].keyframes[0].frame", -1),
        (changed_object(keyframes=[{"frame": 1.0, "box": BOX}]), "objects[0].keyframes[0].frame", 1.0),
        (changed_object(keyframes=[{"frame": 0}]), "objects[0].keyframes[0].box", None),
        (changed_object(keyframes=[{"frame": 0, "box": BOX, "x": 1}]), "objects[0].keyframes[0].x", 1),
        (changed_object(keyframes=[{"frame": 0, "box": [1, 2, 3]}]), "objects[0].keyframes[0].box", [1, 2, 3]),
        (
            changed_object(keyframes=[{"frame": 2, "box": [345, 125, 300, 405]}]),
            "objects[0].keyframes[0].box",
            [345, 125, 300, 405],
        ),
        (changed_object(keyframes=[{"frame": 2, "box": [0, 5, 9, 5]}]), "objects[0].keyframes[0].box", [0, 5, 9, 5]),
        (
            changed_object(keyframes=[{"frame": 2, "box": [0, 0, float("inf"), 5]}]),
            "objects[0].keyframes[0].box[2]",
            float("inf"),
        ),
        (
            changed_object(keyframes=[{"frame": 2, "box": [0, 0, 10**400, 5]}]),
            "objects[0].keyframes[0].box[2]",
            10**400,
        ),
        (changed_object(keyframes=[{"frame": 2, "box": [0, 0, "9", 5]}]), "objects[0].keyframes[0].box[2]", "9"),
        (
            changed_object(keyframes=[{"frame": 5, "box": BOX}, {"frame": 5, "box": BOX}]),
            "objects[0].keyframes[1].frame",
            5,
        ),
        (changed_object(visible=[]), "objects[0].visible", []),
        (changed_object(visible=[[0, 8]]), "objects[0].visible[0][1]", 8),
        (changed_object(visible=[[3, 2]]), "objects[0].visible[0][1]", 2),
        (changed_object(visible=[3]), "objects[0].visible[0]", 3),
        (changed_object(visible=[[3]]), "objects[0].visible[0]", [3]),
    ],
)
def test_each_fault_of_a_track_file_is_one_line_that_names_its_place(content, argument, value):
    with refused(argument, path="tracks.json", value=value) as record:
        load(content)
    assert type(record.value.value) is type(value)


def test_a_box_that_holds_nan_is_refused():
    with refused("objects[0].keyframes[0].box[2]", path="tracks.json") as record:
        load(changed_object(keyframes=[{"frame": 2, "box": [0, 0, float("nan"), 5]}]))
    assert np.isnan(record.value.value)


def test_the_message_names_file_place_rule_and_value():
    with refused() as record:
        load(changed_object(keyframes=[{"frame": 8, "box": BOX}]))
    expected = "tracks.json: objects[0].keyframes[0].frame must be a whole number from 0 to 7, got 8"
    assert str(record.value) == expected


@pytest.mark.parametrize(
    ("text", "argument"),
    [
        ("", None),
        ('{"format": "smcd-tracks",}', None),
        ("[" * 100_000, None),
        ("[]", None),
        ('{"version": 1, "version": 2}', "version"),
    ],
)
def test_text_that_is_not_a_json_object_is_refused(text, argument):
    with refused(path="tracks.json") as record:
        parse_track_file(text)
    assert record.value.argument == argument


def test_errors_name_the_file_even_if_it_is_missing(tmp_path):
    file = tmp_path / "tracks.json"
    with refused(path=file):
        load_tracks(file)
    file.write_text(json.dumps(changed(version=3)))
    with refused("version", path=file, value=3):
        load_tracks(file)
    file.write_bytes(b"\xff\xfe")
    with refused(path=file):
        load_tracks(file)


def test_writing_a_track_file_gives_the_same_float32_boxes_back(tmp_path):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((6, 2, 2, 2)), axis=2)
    tracks = BoxTracks(corners.reshape(6, 2, 4), rng.random((6, 2)) > 0.4, ("ä", "b"), "a prompt")
    assert save_tracks(tracks, tmp_path / "tracks.json", format="smcd-tracks") == ()
    again = load_tracks(tmp_path / "tracks.json")
    np.testing.assert_array_equal(again.boxes, tracks.boxes)
    np.testing.assert_array_equal(again.mask, tracks.mask)
    assert (again.labels, again.prompt) == (tracks.labels, tracks.prompt)


def test_an_object_absent_from_all_frames_cannot_be_written_to_a_track_file(tmp_path):
    tracks = BoxTracks(np.tile([0, 0, 1, 1], (3, 2, 1)), [[1, 0]] * 3, ("a", "b"))
    with refused("tracks", value="b"):
        save_tracks(tracks, tmp_path / "tracks.json", format="smcd-tracks")
