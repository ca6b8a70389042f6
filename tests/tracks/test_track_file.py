"""Facts about the track file `tracks.json`: every rule of the format, every fault by name, and writing it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smcd_jax.errors import SMCDError
from smcd_jax.tracks import BoxTracks, load_tracks, parse_track_file, save_tracks

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
    # float32 in 0..1 of a picture of 640 pixels: 640 * 6e-8.
    np.testing.assert_allclose(pixels[:, 1], 125 - 115 * np.arange(8) / 7, atol=4e-5)
    np.testing.assert_allclose(pixels[:, 0], 300, atol=4e-5)
    assert tracks.labels == ("rocket",)
    assert tracks.prompt == "a rocket lifting off"
    assert tracks.mask.all()
    assert "smcd-tracks 1" in tracks.notes[0]
    assert len(tracks.notes) == 1


def test_interpolation_is_linear_unless_said_and_prompt_and_visible_are_optional():
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
    # On the file's time line the second of 2 frames is frame 7, where the second key begins.
    assert load(content, frames=2).boxes[1, 0, 1] == np.float32(10 / 427)
    held = load(content, frames=15).boxes[:, 0, 1]
    np.testing.assert_array_equal(held[:14], np.float32(125 / 427))
    smooth = load(changed_object(interpolation="smooth"), frames=15)
    np.testing.assert_array_equal(smooth.boxes[::2], load(changed_object(interpolation="smooth")).boxes)


def test_a_frame_beside_a_hidden_one_stays_where_the_object_was_seen():
    keyframes = [{"frame": 0, "box": [0, 0, 100, 100]}, {"frame": 7, "box": [1440, 0, 1540, 100]}]
    content = changed_object(keyframes=keyframes, visible=[[0, 3]])
    # In thirds of a frame: 9 is the file's frame 3 and 10 is nearest to it, but the motion would be outside by then.
    tracks = load(content, frames=22)
    np.testing.assert_array_equal(np.flatnonzero(tracks.mask[:, 0]), range(11))
    np.testing.assert_array_equal(tracks.boxes[[9, 10]], load(content).boxes[[3, 3]])


def test_clipping_to_the_picture_is_done_and_reported():
    keyframes = [{"frame": 0, "box": [-64, 10, 64, 100]}, {"frame": 7, "box": [64, 10, 192, 100]}]
    tracks = load(changed_object(keyframes=keyframes))
    assert tracks.boxes[:, 0, 0].min() == 0
    assert tracks.notes[1] == (
        "tracks.json: object 0 'rocket': clipped to the picture in frames 0-3, by at most 10 % of its side"
    )


def test_a_size_of_another_aspect_is_noted_and_a_scaled_one_is_not():
    assert "another aspect than the image" in load(ROCKET, image_size=(256, 256)).notes[1]
    assert len(load(ROCKET, image_size=(256, 171)).notes) == 1


def test_a_box_entirely_outside_the_picture_is_an_error_where_it_is_visible():
    keyframes = [{"frame": 0, "box": [300, 125, 345, 405]}, {"frame": 7, "box": [640, 10, 700, 290]}]
    with pytest.raises(SMCDError, match=r"object 0 'rocket', frame 7: box \[640, 10, 700, 290\] lies entirely outside"):
        load(changed_object(keyframes=keyframes))
    hidden = load(changed_object(keyframes=keyframes, visible=[[0, 6]]))
    assert not hidden.mask[7, 0]


def test_smooth_that_folds_a_box_is_an_error_and_not_a_repaired_box():
    # Between frames 4 and 5 the left side is nearly at rest and the right side leaps, so before, x1 overtakes x2.
    keyframes = [
        {"frame": 0, "box": [0, 0, 1, 9]},
        {"frame": 4, "box": [100, 0, 101, 9]},
        {"frame": 5, "box": [100.5, 0, 300, 9]},
    ]
    with pytest.raises(
        SMCDError, match=r"object 0 'rocket', frame \d: smooth interpolation folds the box \(x2 .* <= x1"
    ):
        load(changed_object(keyframes=keyframes, interpolation="smooth"))
    assert load(changed_object(keyframes=keyframes, interpolation="linear")).mask.all()


BOX = [300, 125, 345, 405]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (changed(format="other"), r"format is 'other', expected 'smcd-tracks'"),
        (changed(version=2), r"version 2 of smcd-tracks is unknown: this program reads version 1"),
        (changed(version="1"), r"version '1'"),
        (changed(version=True), r"version True"),
        (changed(extra=1), r"unknown key 'extra'"),
        (changed_object(colour="red"), r"object 0 'rocket': unknown key 'colour'"),
        (changed(frames=0), r"frames is 0, out of range 1 to"),
        (changed(frames=10**9), r"frames is 1000000000, out of range"),
        (changed(frames="8"), r"frames must be a whole number, got '8'"),
        (changed(frames=True), r"frames must be a whole number, got True"),
        (changed(size=[640]), r"size must be \[width, height\], got \[640\]"),
        (changed(size=[640, 0]), r"size must be positive, got \[640, 0\]"),
        (changed(size=[640, "427"]), r"size must be a number, got '427'"),
        (changed(prompt=None), r"prompt must be text, got None"),
        (changed(objects=[]), r"objects must be a list of at least one object, got \[\]"),
        (changed(objects={}), r"objects must be a list"),
        (changed(objects=["rocket"]), r"object 0: expected an object in braces, got 'rocket'"),
        ({key: value for key, value in ROCKET.items() if key != "size"}, r"key 'size' is missing"),
        (changed_object(label=""), r"object 0 '': label must be one line of text that is not empty"),
        (changed_object(label=7), r"object 0: label must be one line of text that is not empty, got 7"),
        (changed_object(interpolation="cubic"), r"object 0 'rocket': interpolation 'cubic' is unknown"),
        (changed_object(keyframes=[]), r"object 0 'rocket': no keyframe"),
        (
            changed_object(keyframes=[{"frame": 8, "box": BOX}]),
            r"'rocket', keyframe 0: frame is 8, out of range 0 to 7",
        ),
        (changed_object(keyframes=[{"frame": -1, "box": BOX}]), r"keyframe 0: frame is -1, out of range"),
        (changed_object(keyframes=[{"frame": 1.0, "box": BOX}]), r"keyframe 0: frame must be a whole number, got 1.0"),
        (changed_object(keyframes=[{"frame": 0}]), r"'rocket', keyframe 0: key 'box' is missing"),
        (changed_object(keyframes=[{"frame": 0, "box": BOX, "x": 1}]), r"keyframe 0: unknown key 'x'"),
        (
            changed_object(keyframes=[{"frame": 0, "box": [1, 2, 3]}]),
            r"\(frame 0\): box must be four numbers .* \[1, 2, 3\]",
        ),
        (
            changed_object(keyframes=[{"frame": 2, "box": [345, 125, 300, 405]}]),
            r"object 0 'rocket', keyframe 0 \(frame 2\): x2 300 <= x1 345",
        ),
        (changed_object(keyframes=[{"frame": 2, "box": [0, 5, 9, 5]}]), r"keyframe 0 \(frame 2\): y2 5 <= y1 5"),
        (
            changed_object(keyframes=[{"frame": 2, "box": [0, 0, float("nan"), 5]}]),
            r"keyframe 0 \(frame 2\): x2 must be a finite number .* got nan",
        ),
        (changed_object(keyframes=[{"frame": 2, "box": [0, 0, 10**400, 5]}]), r"x2 must be a finite number"),
        (changed_object(keyframes=[{"frame": 2, "box": [0, 0, "9", 5]}]), r"x2 must be a number, got '9'"),
        (
            changed_object(keyframes=[{"frame": 5, "box": BOX}, {"frame": 5, "box": BOX}]),
            r"'rocket': keyframe at frame 5 follows frame 5",
        ),
        (changed_object(visible=[]), r"'rocket': visible must list at least one range .* got \[\]"),
        (changed_object(visible=[[0, 8]]), r"last frame of visible range \[0, 8\] is 8, out of range 0 to 7"),
        (changed_object(visible=[[3, 2]]), r"last frame of visible range \[3, 2\] is 2, out of range 3 to 7"),
        (changed_object(visible=[3]), r"visible range must be \[first frame, last frame\], got 3"),
    ],
)
def test_each_fault_of_a_track_file_is_one_line_that_names_its_place(content, fault):
    with pytest.raises(SMCDError, match=fault) as raised:
        load(content)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("tracks.json: ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", r"not JSON: .* line 1 column 1"),
        ('{"format": "smcd-tracks",}', r"not JSON"),
        ("[]", r"expected an object in braces"),
        ('{"version": 1, "version": 2}', r"key 'version' is given twice"),
        ("[" * 100_000, r"not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(text, fault):
    with pytest.raises(SMCDError, match=fault):
        parse_track_file(text)


def test_a_file_is_named_in_its_errors_and_a_missing_one_is_an_error(tmp_path):
    file = tmp_path / "tracks.json"
    with pytest.raises(SMCDError, match=r"tracks\.json: cannot read: No such file"):
        load_tracks(file)
    file.write_text(json.dumps(changed(version=3)))
    with pytest.raises(SMCDError, match=rf"{file}: version 3"):
        load_tracks(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SMCDError, match="not UTF-8"):
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


def test_an_object_in_no_frame_cannot_be_written_to_a_track_file(tmp_path):
    tracks = BoxTracks(np.tile([0, 0, 1, 1], (3, 2, 1)), [[1, 0]] * 3, ("a", "b"))
    with pytest.raises(SMCDError, match="object 1 'b' is in no frame"):
        save_tracks(tracks, tmp_path / "tracks.json", format="smcd-tracks")
