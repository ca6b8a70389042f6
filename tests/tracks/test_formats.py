"""File formats for tracks: what each reader returns, round trips, and the shared examples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from smcd_jax.tracks import (
    FORMATS,
    BoxTracks,
    detect_format,
    got10k_prompt,
    load_tracks,
    save_tracks,
)
from tests.errors import refused

SIZE = (640, 427)
# x and width are each rounded by up to 5e-5 when written with 4 decimals; boxes are float32 in 0..1.
ROUND_TRIP = 1e-4 / min(SIZE) + 1.2e-7


def random_tracks(objects=1, absent=(), labels=("cat", "dog"), prompt=None) -> BoxTracks:
    corners = np.sort(np.random.default_rng(objects).uniform(0, 1, (6, objects, 2, 2)), axis=2)
    mask = np.ones((6, objects), bool)
    for frame, index in absent:
        mask[frame, index] = False
    return BoxTracks(corners.reshape(6, objects, 4), mask, labels[:objects], prompt)


def assert_same(again: BoxTracks, tracks: BoxTracks, *, atol: float = ROUND_TRIP) -> None:
    np.testing.assert_array_equal(again.mask, tracks.mask)
    np.testing.assert_allclose(again.boxes, tracks.boxes, rtol=0, atol=atol)
    assert again.labels == tracks.labels
    assert len(again.notes) == 1, again.notes


def in_pixels(tracks: BoxTracks) -> np.ndarray:
    return tracks.boxes * np.tile(SIZE, 2)


# --- the examples of the shared folder -------------------------------------------------------------------------------


def test_both_forms_of_the_rocket_example_agree(shared):
    folder = shared / "examples" / "rocket"
    from_file = load_tracks(folder / "tracks.json")
    from_text = load_tracks(folder / "bbox.txt", label="rocket")
    # bbox.txt has 2 decimals, and float32 has a resolution of 4e-5 pixels for a width of 640.
    np.testing.assert_allclose(in_pixels(from_text), in_pixels(from_file), atol=0.005 + 1e-4)
    assert from_text.labels == from_file.labels == ("rocket",)
    assert from_text.prompt == from_file.prompt == "a rocket lifting off into the evening sky"


def test_the_cat_example_stays_in_its_picture_and_both_forms_are_the_same_motion(shared):
    folder = shared / "examples" / "cat"
    from_file = load_tracks(folder / "tracks.json")
    from_text = load_tracks(folder / "bbox.txt", label="cat")
    assert len(from_file.notes) == len(from_text.notes) == 1
    # bbox.txt was drawn by eye in even pixels; the smooth curve through 3 of its 8 boxes is within 4 of 451 pixels.
    np.testing.assert_allclose(from_file.boxes, from_text.boxes, atol=4 / 451)


def test_a_folder_with_two_files_of_tracks_is_ambiguous(shared):
    folder = shared / "examples" / "rocket"
    with refused("format", path=folder, value=["tracks.json", "bbox.txt"]):
        load_tracks(folder)
    assert load_tracks(folder, format="reference", label="rocket").num_frames == 8
    assert load_tracks(folder, format="smcd-tracks").num_frames == 8


# --- round trips -----------------------------------------------------------------------------------------------------


def test_track_file_in_pixels_round_trip(tmp_path):
    tracks = random_tracks(2, absent=[(0, 0), (3, 1)], prompt="two pets")
    assert save_tracks(tracks, tmp_path / "any.json", format="smcd-tracks", image_size=SIZE) == ()
    assert json.loads((tmp_path / "any.json").read_text())["size"] == [640, 427]
    again = load_tracks(tmp_path / "any.json", image_size=SIZE)
    assert_same(again, tracks)
    assert again.prompt == "two pets"


def test_reference_folder_round_trip(tmp_path):
    tracks = random_tracks(prompt="a cat")
    lost = save_tracks(tracks, tmp_path, format="reference", image_size=SIZE)
    assert len(lost) == 2  # the format stores neither the label nor the picture
    Image.new("RGB", SIZE).save(tmp_path / "img.png")
    again = load_tracks(tmp_path, label="cat")
    assert_same(again, tracks)
    assert again.prompt == "a cat"


def test_got10k_round_trip_with_absence_and_prompt(tmp_path):
    tracks = random_tracks(absent=[(2, 0), (5, 0)], prompt=got10k_prompt("cat", "sleeping"))
    assert save_tracks(tracks, tmp_path / "seq", format="got10k", image_size=SIZE) == ()
    again = load_tracks(tmp_path / "seq")
    assert_same(again, tracks)
    assert again.prompt == "A cat that is sleeping. "


@pytest.mark.parametrize("labels", [("pedestrian", "person on vehicle"), ("cat", "car")])
def test_mot_round_trip_with_official_and_own_classes(tmp_path, labels):
    tracks = random_tracks(2, absent=[(0, 0), (5, 0), (5, 1)], labels=labels)
    assert save_tracks(tracks, tmp_path / "seq", format="mot", image_size=SIZE) == ()
    # The last frame has no object, so that only seqinfo.ini says that there are six frames.
    assert_same(load_tracks(tmp_path / "seq"), tracks)
    assert_same(load_tracks(tmp_path / "seq" / "gt" / "gt.txt"), tracks)
    assert (tmp_path / "seq" / "gt" / "labels.txt").exists() == ("cat" in labels)


def test_mot_file_alone_round_trip(tmp_path):
    tracks = random_tracks(2, labels=("car", "car"), prompt="cars")
    lost = save_tracks(tracks, tmp_path / "any.txt", format="mot", image_size=SIZE)
    assert len(lost) == 2
    assert_same(load_tracks(tmp_path / "any.txt", image_size=SIZE), tracks)
    with refused("image_size", path=tmp_path / "any.txt"):
        load_tracks(tmp_path / "any.txt")


def test_saving_mot_beside_an_old_labels_file_does_not_rename_the_classes(tmp_path):
    save_tracks(random_tracks(1, labels=("cat",)), tmp_path, format="mot", image_size=SIZE)
    tracks = random_tracks(1, labels=("pedestrian",))
    save_tracks(tracks, tmp_path, format="mot", image_size=SIZE)
    assert_same(load_tracks(tmp_path), tracks)


def test_youtube_vis_round_trip(tmp_path):
    tracks = random_tracks(2, absent=[(0, 1), (4, 0)], labels=("cat", "cat"))
    lost = save_tracks(tracks, tmp_path / "instances.json", format="youtube-vis", image_size=SIZE)
    assert len(lost) == 1  # the format stores no masks
    assert_same(load_tracks(tmp_path), tracks)


@pytest.mark.parametrize("format", FORMATS)
def test_a_saved_file_leaves_no_temporary_behind_and_is_detected(tmp_path, format):
    path = tmp_path / {"smcd-tracks": "x.json", "youtube-vis": "x.json", "mot": "x.txt"}.get(format, "")
    save_tracks(random_tracks(labels=("car",)), path, format=format, image_size=SIZE)
    assert not list(tmp_path.rglob(".*"))
    assert detect_format(path) == format


@pytest.mark.parametrize("format", FORMATS[1:])
def test_formats_in_pixels_need_the_size(tmp_path, format):
    with refused("image_size", value=None):
        save_tracks(random_tracks(), tmp_path / "x", format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["got10k", "mot"])
def test_formats_that_state_whole_sizes_refuse_others(tmp_path, format):
    with refused("image_size", value=(640.5, 427)):
        save_tracks(random_tracks(), tmp_path / "x", format=format, image_size=(640.5, 427))


def test_content_that_a_format_cannot_hold_is_refused_or_reported(tmp_path):
    two, gone = random_tracks(2), random_tracks(absent=[(3, 0)])
    for format in ("reference", "got10k"):
        with refused("tracks", value=2):
            save_tracks(two, tmp_path, format=format, image_size=SIZE)
    with refused("tracks", value=3):
        save_tracks(gone, tmp_path, format="reference", image_size=SIZE)
    never = random_tracks(2, absent=[(frame, 1) for frame in range(6)])
    with refused("tracks", value="dog"):
        save_tracks(never, tmp_path, format="mot", image_size=SIZE)
    lost = save_tracks(random_tracks(prompt="a cat"), tmp_path, format="got10k", image_size=SIZE)
    assert len(lost) == 1  # the format cannot store this prompt
    with refused("format", value="coco"):
        save_tracks(two, tmp_path, format="coco", image_size=SIZE)


@pytest.mark.parametrize("folder", ["file", "file/folder"])
def test_a_path_below_a_file_cannot_be_written(tmp_path, folder):
    (tmp_path / "file").write_text("")
    path = tmp_path / folder / "tracks.json"
    with refused(path=path):
        save_tracks(random_tracks(), path, format="smcd-tracks")


# --- detecting the format --------------------------------------------------------------------------------------------


def test_files_of_no_known_format_are_refused(tmp_path):
    with refused(path=tmp_path):
        detect_format(tmp_path)
    table, content, missing = (tmp_path / name for name in ("boxes.txt", "x.json", "none.txt"))
    table.write_text("1,2,3,4\n")
    with refused("format", path=table):
        load_tracks(table)
    content.write_text('{"boxes": []}')
    with refused("format", path=content):
        load_tracks(content)
    with refused(path=missing):
        load_tracks(missing)
    with refused("format", value="coco"):
        load_tracks(table, format="coco")


def test_frames_resamples_any_format(tmp_path):
    (tmp_path / "bbox.txt").write_text("0,0,10,10\n30,0,40,10\n")
    tracks = load_tracks(tmp_path, image_size=(40, 40), label="cat", frames=4)
    np.testing.assert_allclose(tracks.boxes[:, 0, 0], [0, 0.25, 0.5, 0.75], atol=1e-7)


def test_frames_of_a_track_file_come_from_its_keyframes(tmp_path):
    keyframes = [{"frame": 0, "box": [0, 0, 0.5, 1]}, {"frame": 1, "box": [0.5, 0, 1, 1]}]
    jump = {"label": "cat", "interpolation": "hold", "keyframes": keyframes}
    content = {"format": "smcd-tracks", "version": 1, "frames": 2, "size": [1, 1], "objects": [jump]}
    (tmp_path / "tracks.json").write_text(json.dumps(content))
    # Blending the two frames of the file would give boxes that the object never has.
    np.testing.assert_array_equal(load_tracks(tmp_path, frames=4).boxes[:, 0, 0], [0, 0, 0, 0.5])


# --- the reference folder --------------------------------------------------------------------------------------------


def test_the_reference_folder_needs_a_label_and_a_size(tmp_path):
    (tmp_path / "bbox.txt").write_text("0,0,10,10\n")
    (tmp_path / "prompt.txt").write_text("a cat\n")
    file = tmp_path / "bbox.txt"
    with refused("label", path=file) as record:
        load_tracks(tmp_path, image_size=SIZE)
    assert "does not name its object; pass --label" in str(record.value)
    with refused("image_size", path=file):
        load_tracks(tmp_path, label="cat")
    assert load_tracks(tmp_path, label="cat", image_size=SIZE).prompt == "a cat"


@pytest.mark.parametrize(
    ("text", "argument", "value"),
    [
        ("", None, None),
        ("1,2,3\n", "line 1", "1,2,3"),
        ("1,2,3,4\n\n1,2,3,4\n", "line 2", ""),
        ("1,2,3,4\n1,2,x,4\n", "line 2", "x"),
        ("1,2,1e10,4\n", "line 1", "1e10"),
        ("1,2,nan,4\n", "line 1", "nan"),
        ("1,2,3,4\n3,2,1,4\n", "boxes", [3, 2, 1, 4]),
        ("1,2,3,4\n700,2,800,4\n", "boxes", [700, 2, 800, 4]),
    ],
)
def test_faults_of_bbox_txt_name_the_line_or_the_box(tmp_path, text, argument, value):
    (tmp_path / "bbox.txt").write_text(text)
    with refused(path=tmp_path / "bbox.txt", value=value) as record:
        load_tracks(tmp_path, image_size=SIZE, label="cat")
    assert record.value.argument == argument


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path / "bbox.txt").write_text("0,0,10,10\n")
    (tmp_path / "img.png").write_text("no picture")
    with refused(path=tmp_path / "img.png"):
        load_tracks(tmp_path, label="cat")
