"""Track files from common tools: format variants, and values that could be misread, such as fractions as pixels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smcd_jax.tracks import detect_format, load_tracks
from tests.errors import refused

SIZE = (640, 480)


def pixels(tracks, size=SIZE) -> np.ndarray:
    return tracks.boxes * np.tile(size, 2)


def noted(tracks, text: str) -> bool:
    return any(text in note for note in tracks.notes)


def one(path, **options):
    return load_tracks(path, **{"image_size": SIZE, "label": "cat", **options})


# --- the cases of the shared folder ----------------------------------------------------------------------------------


@pytest.fixture
def case(shared):
    return lambda name: shared / "field_cases" / name


def test_case_01_tabs_separate_numbers(case):
    tracks = one(case("01_got10k_tab_separated") / "seq", image_size=(480, 360))
    np.testing.assert_allclose(pixels(tracks, (480, 360))[0, 0], [198, 214, 232, 295], atol=1e-3)
    assert tracks.num_frames == 3


def test_case_03_files_of_cvat_count_pixels_from_0(case):
    tracks = load_tracks(case("03_cvat_mot11"), image_size=(1920, 1080))
    assert (tracks.labels, tracks.num_frames) == (("car",), 3)
    assert pixels(tracks, (1920, 1080))[0, 0, 0] == pytest.approx(878.77, abs=1e-3)
    assert noted(tracks, "CVAT")
    shifted = load_tracks(case("03_cvat_mot11"), image_size=(1920, 1080), format="mot")
    assert pixels(shifted, (1920, 1080))[0, 0, 0] == pytest.approx(877.77, abs=1e-3)


def test_case_04_classes_may_be_names(case):
    assert load_tracks(case("04_cvat_mot_csv10") / "gt.txt", image_size=SIZE).labels == ("person",)


def test_case_05_the_categories_of_visdrone_are_kept(case):
    path = case("05_visdrone_vid") / "uav0000013_00000_v.txt"
    tracks = load_tracks(path, image_size=(1344, 756), label="car")
    assert tracks.labels == ("car", "pedestrian")
    assert noted(tracks, "'car' is not used")
    assert pixels(tracks, (1344, 756))[0, 0, 0] == pytest.approx(808, abs=1e-3)


def test_case_08_lasot_marks_absent_frames(case):
    tracks = load_tracks(case("08_lasot") / "lion-5", image_size=(480, 360))
    assert tracks.labels == ("lion",)
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 0, 1])


def test_case_10_xml_of_cvat(case):
    tracks = load_tracks(case("10_cvat_xml") / "annotations.xml")
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 1, 0])
    np.testing.assert_allclose(pixels(tracks)[:2, 0], [[10, 20, 60, 70], [20, 20, 70, 70]], atol=1e-3)


def test_case_13_a_file_without_annotations_says_so(case):
    path = case("13_ovis_null") / "annotations_valid.json"
    with refused("annotations", path=path):
        load_tracks(path)


def test_case_43_boxes_within_0_to_1_are_fractions(case):
    folder = case("43_normalised_boxes")
    tracks = one(folder / "seq", image_size=(128, 128))
    np.testing.assert_allclose(tracks.boxes[0, 0], [0.15, 0.39, 0.39, 0.62], atol=1e-6)
    assert noted(tracks, "fractions")
    np.testing.assert_allclose(one(folder / "track.txt").boxes[0, 0], [0.5, 0.37, 0.6, 0.49], atol=1e-6)
    with refused("size", path=folder / "t.json", value=(128, 128)):
        load_tracks(folder / "t.json")


def test_case_49_a_label_settles_an_object_of_two_classes(case):
    path = case("49_class_flip") / "t.txt"
    assert load_tracks(path, image_size=(96, 64), label="car").labels == ("car",)
    with refused("class", path=path, value="motorbike") as record:
        load_tracks(path, image_size=(96, 64))
    assert "line 1" in str(record.value)
    assert "line 2" in str(record.value)


# --- variants of files with one object -------------------------------------------------------------------------------

BOX = [[10, 20, 40, 60], [12, 20, 42, 60]]


@pytest.mark.parametrize(
    "text",
    [
        b"10 20 30 40\n12 20 30 40\n",
        b"10, 20, 30, 40\n12, 20, 30, 40\n",
        b"10,20,30,40,\n12,20,30,40,\n",
        b"10;20;30;40\r\n12;20;30;40\r\n",
        b"10,0;20,0;30,0;40,0\n12,0;20,0;30,0;40,0\n",
        b"10,0\t20,0\t30,0\t40,0\n12,0\t20,0\t30,0\t40,0\n",
        b"\xef\xbb\xbf10,20,30,40\n12,20,30,40",
        b"# x y w h\n10 20 30 40\n12 20 30 40\n\n\n",
        b"x,y,w,h\n10,20,30,40\n12,20,30,40\n",
        b"  10  20  30  40  \n  12  20  30  40\n",
        "10,20,30,40\n12,20,30,40\n".encode("utf-16"),
        b"10.0e0 2e1 30. 40\r12 20 30 40\r",
    ],
)
def test_separators_marks_and_encodings(tmp_path, text):
    (tmp_path / "groundtruth.txt").write_bytes(text)
    np.testing.assert_allclose(pixels(one(tmp_path))[:, 0], BOX, atol=1e-3)


@pytest.mark.parametrize("absent", ["NaN,NaN,NaN,NaN", "nan nan nan nan", ",,,", "-1,-1,-1,-1", "0,0,0,0", "1,1,-1,-1"])
def test_a_line_without_a_box_is_an_absent_frame(tmp_path, absent):
    (tmp_path / "groundtruth.txt").write_text(f"10,20,30,40\n{absent}\n12,20,30,40\n")
    tracks = one(tmp_path)
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 0, 1])
    assert noted(tracks, "absent in frames 1")


def test_a_line_of_some_missing_numbers_is_refused(tmp_path):
    (tmp_path / "groundtruth.txt").write_text("10,20,30,40\n10,20,NaN,40\n")
    with refused("line 2", path=tmp_path / "groundtruth.txt", value="NaN"):
        one(tmp_path)


@pytest.mark.parametrize(("marks", "name"), [("0,1,0", "out_of_view.txt"), ("0\n1\n0\n", "full_occlusion.txt")])
def test_lasot_marks_on_one_line_or_several(tmp_path, marks, name):
    (tmp_path / "dog-12").mkdir()
    (tmp_path / "dog-12" / "groundtruth.txt").write_text("1,2,30,40\n1,2,30,40\n1,2,30,40\n")
    (tmp_path / "dog-12" / name).write_text(marks)
    (tmp_path / "dog-12" / "nlp.txt").write_text("a dog on the grass\n")
    tracks = load_tracks(tmp_path / "dog-12", image_size=SIZE)
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 0, 1])
    assert (tracks.labels, tracks.prompt) == (("dog",), "a dog on the grass")
    (tmp_path / "dog-12" / name).write_text("0,1")
    with refused(path=tmp_path / "dog-12" / name, value=2):
        load_tracks(tmp_path / "dog-12", image_size=SIZE)


def test_otb_counts_pixels_from_1_and_may_hold_several_objects(tmp_path):
    (tmp_path / "groundtruth_rect.txt").write_text("11\t21\t30\t40\n13\t21\t30\t40\n")
    np.testing.assert_allclose(pixels(one(tmp_path))[:, 0], BOX, atol=1e-3)
    (tmp_path / "groundtruth_rect.txt").rename(tmp_path / "groundtruth_rect.1.txt")
    (tmp_path / "groundtruth_rect.2.txt").write_text("1 1 5 5\n1 1 5 5\n")
    with refused("file", path=tmp_path):
        one(tmp_path)
    assert one(tmp_path / "groundtruth_rect.2.txt", format="otb").num_frames == 2


def test_uav123_needs_its_format_by_name(tmp_path):
    (tmp_path / "bike1.txt").write_text("10,20,30,40\nNaN,NaN,NaN,NaN\n")
    with refused("format", path=tmp_path / "bike1.txt"):
        one(tmp_path / "bike1.txt")
    np.testing.assert_array_equal(one(tmp_path / "bike1.txt", format="got10k").mask[:, 0], [1, 0])


def test_polygons_of_vot_become_their_bounding_boxes(tmp_path):
    (tmp_path / "groundtruth.txt").write_text("10,20,40,20,40,60,10,60\n12,30,27,20,42,40,27,60\n")
    tracks = one(tmp_path)
    np.testing.assert_allclose(pixels(tracks)[:, 0], BOX, atol=1e-3)
    assert noted(tracks, "polygon")


# --- files with several objects --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "frames", "first"),
    [
        (["0,1,11,21,30,40,1,-1,-1,-1", "1,1,13,21,30,40,1,-1,-1,-1"], 2, 0),
        (["frame,id,bb_left,bb_top,bb_width,bb_height,conf", "1,1,11,21,30,40,0.9", "2,1,13,21,30,40,0.8"], 2, 0),
        (["1 1 11 21 30 40 1 1 1", "2 1 13 21 30 40 1 1 1"], 2, 0),
        (["5;1;11;21;30;40;1;1;1", "6;1;13;21;30;40;1;1;1"], 6, 4),
    ],
)
def test_rows_of_mot_and_where_their_frames_begin(tmp_path, rows, frames, first):
    (tmp_path / "t.txt").write_text("\n".join(rows))
    tracks = one(tmp_path / "t.txt")
    assert tracks.num_frames == frames
    np.testing.assert_allclose(pixels(tracks)[first : first + 2, 0], BOX, atol=1e-3)
    assert noted(tracks, "first box is in frame") == (first > 0)


def test_kitti_tracking(tmp_path):
    (tmp_path / "0000.txt").write_text(
        "0 -1 DontCare -1 -1 -10 1 1 5 5 -1 -1 -1 -1 -1 -1 -10\n"
        "0 2 Pedestrian 0 0 -1.7 10.0 20.0 40.0 60.0 1.7 0.6 0.7 -4.5 1.8 13.4 -2.1\n"
        "1 2 Pedestrian 0 0 -1.7 12.0 20.0 42.0 60.0 1.7 0.6 0.7 -4.5 1.8 13.4 -2.1\n"
    )
    tracks = load_tracks(tmp_path / "0000.txt", image_size=SIZE)
    assert (tracks.labels, noted(tracks, "1 of 3 rows")) == (("Pedestrian",), True)
    np.testing.assert_allclose(pixels(tracks)[:, 0], BOX, atol=1e-3)


def test_vatic(tmp_path):
    (tmp_path / "out.txt").write_text(
        '0 10 20 40 60 0 0 0 0 "Red Car"\n0 12 20 42 60 1 0 0 1 "Red Car"\n0 0 0 0 0 2 1 0 1 "Red Car"\n'
    )
    tracks = load_tracks(tmp_path / "out.txt", image_size=SIZE)
    assert tracks.labels == ("Red Car",)
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 1, 0])
    np.testing.assert_allclose(pixels(tracks)[:2, 0], BOX, atol=1e-3)


def region(labels, sequence):
    return {"type": "videorectangle", "value": {"framesCount": 4, "sequence": sequence, "labels": labels}, "id": "a"}


SEQUENCE = [
    {"frame": 1, "x": 25, "y": 50, "width": 50, "height": 25, "enabled": True, "rotation": 0},
    {"frame": 3, "x": 35, "y": 50, "width": 50, "height": 25, "enabled": False, "rotation": 0},
]


@pytest.mark.parametrize(
    "content",
    [
        [{"id": 7, "data": {"video": "a.mp4"}, "annotations": [{"result": [region(["Car"], SEQUENCE)]}]}],
        [{"id": 7, "video": "a.mp4", "box": [{"framesCount": 4, "sequence": SEQUENCE, "labels": ["Car"]}]}],
        {"id": 7, "video": "a.mp4", "track": [{"framesCount": 4, "sequence": SEQUENCE, "labels": ["Car"]}]},
    ],
)
def test_label_studio(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content))
    tracks = load_tracks(tmp_path / "x.json")
    assert tracks.labels == ("Car",)
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 1, 1, 0])
    np.testing.assert_allclose(tracks.boxes[1, 0], [0.3, 0.5, 0.8, 0.75], atol=1e-6)


def coco(**changes):
    content = {
        "videos": [{"id": 1, "name": "walk"}],
        "images": [
            {"id": 12, "video_id": 1, "frame_id": 1, "width": 640, "height": 480, "file_name": "b.jpg"},
            {"id": 11, "video_id": 1, "frame_id": 0, "width": 640, "height": 480, "file_name": "a.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 11, "instance_id": 5, "category_id": 1, "bbox": [10, 20, 30, 40]},
            {"id": 2, "image_id": 12, "instance_id": 5, "category_id": 1, "bbox": [12, 20, 30, 40]},
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    return {**content, **changes}


def test_coco_vid_orders_images_by_frame_and_needs_ids(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(coco()))
    tracks = load_tracks(tmp_path / "x.json", video="walk")
    assert tracks.labels == ("person",)
    np.testing.assert_allclose(pixels(tracks)[:, 0], BOX, atol=1e-3)
    plain = [{"id": 1, "image_id": 11, "category_id": 1, "bbox": [10, 20, 30, 40]}]
    (tmp_path / "x.json").write_text(json.dumps(coco(annotations=plain)))
    with refused("annotations[0]", path=tmp_path / "x.json"):
        load_tracks(tmp_path / "x.json")


def test_coco_of_cvat_has_the_id_among_attributes(tmp_path):
    content = coco(videos=[])
    for item in content["annotations"]:
        item["attributes"] = {"track_id": item.pop("instance_id")}
    for image in content["images"]:
        del image["video_id"]
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert load_tracks(tmp_path / "x.json").num_frames == 2


@pytest.mark.parametrize("absent", [None, [], [-1, -1, -1, -1], [0, 0, 0, 0], [float("nan")] * 4])
def test_all_markers_of_absence_of_youtube_vis_are_read(tmp_path, absent):
    content = {
        "videos": [{"id": 1, "width": 640, "height": 480, "length": 2}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"video_id": 1, "category_id": 1, "bboxes": [[10, 20, 30, 40], absent]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    np.testing.assert_array_equal(load_tracks(tmp_path).mask[:, 0], [1, 0])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0001.txt", "0 0.5 0.5 0.1 0.2\n"),
        ("a.xml", "<annotation><object/></annotation>"),
        ("a.xml", '<annotations><image id="0"><box/></image></annotations>'),
        ("a.json", '{"shapes": []}'),
        ("a.zip", "PK"),
        ("a.txt", "words only"),
        ("a.txt", ""),
    ],
)
def test_an_unsupported_file_is_refused_with_the_supported_formats(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with refused(path=tmp_path / name) as record:
        one(tmp_path / name)
    assert "CVAT" in str(record.value)


def test_a_pointer_of_git_lfs_and_a_web_page_are_named(tmp_path):
    (tmp_path / "tracks.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with refused(path=tmp_path / "tracks.json", value="git-lfs"):
        one(tmp_path)
    (tmp_path / "tracks.json").write_text("<!DOCTYPE html><html></html>")
    with refused(path=tmp_path / "tracks.json", value="html"):
        one(tmp_path)


# --- plausible numbers -----------------------------------------------------------------------------------------------


def test_a_box_smaller_than_a_pixel_is_noted(tmp_path):
    (tmp_path / "bbox.txt").write_text("10,20,10.5,20.5\n100,20,140,60\n")
    assert noted(one(tmp_path), "smaller than a pixel in frames 0")


def test_the_other_order_of_the_four_numbers_is_suspected(tmp_path):
    (tmp_path / "bbox.txt").write_text("10,20,300,200\n100,30,300,200\n150,40,300,200\n")
    assert noted(one(tmp_path), "--tracks_format got10k")
    (tmp_path / "bbox.txt").write_text("100,20,30,40\n120,20,30,40\n")
    with refused("boxes", path=tmp_path / "bbox.txt") as record:
        one(tmp_path)
    assert "--tracks_format got10k" in str(record.value)
    (tmp_path / "groundtruth.txt").write_text("300,200,400,300\n310,200,410,300\n")
    (tmp_path / "meta_info.ini").write_text("[METAINFO]\nresolution: (640, 480)\n")
    assert noted(one(tmp_path / "groundtruth.txt"), "--tracks_format reference")


def test_a_header_settles_the_order(tmp_path):
    (tmp_path / "a.csv").write_text("x1,y1,x2,y2\n10,20,40,60\n")
    (tmp_path / "b.csv").write_text("x,y,w,h\n10,20,30,40\n")
    assert (detect_format(tmp_path / "a.csv"), detect_format(tmp_path / "b.csv")) == ("reference", "got10k")


def test_frames_after_the_last_box_are_absent_and_noted(tmp_path):
    (tmp_path / "t.txt").write_text("1,1,11,21,30,40,1,1,1\n")
    tracks = one(tmp_path / "t.txt", video_frames=3)
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 0, 0])
    assert noted(tracks, "last box is in frame 0")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.txt", "100000,1,1,1,9,9,1,1,1\n" + "".join(f"1,{index},1,1,9,9,1,1,1\n" for index in range(2, 99))),
        (
            "a.xml",
            "<annotations>"
            + "".join('<track label="a"><box frame="99999" /></track>' for _ in range(99))
            + "</annotations>",
        ),
        (
            "t.json",
            json.dumps(
                {
                    "format": "smcd-tracks",
                    "version": 1,
                    "frames": 100_000,
                    "size": [64, 64],
                    "objects": [{"label": "a", "keyframes": [{"frame": 0, "box": [1, 1, 9, 9]}]}] * 99,
                }
            ),
        ),
    ],
)
def test_more_boxes_than_fit_in_memory_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text.replace("/>", 'xtl="1" ytl="1" xbr="9" ybr="9"/>'))
    with refused("frames", path=tmp_path / name, value=100_000):
        one(tmp_path / name)
