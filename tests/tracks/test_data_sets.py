"""Readers of data sets: GOT-10k, MOTChallenge and YouTube-VIS files in their published layouts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smcd_jax.tracks import BoxTracks, load_tracks, read_got10k, read_mot, read_youtube_vis, xywh_to_xyxy
from tests.errors import refused

SIZE = (640, 427)


def in_pixels(tracks: BoxTracks) -> np.ndarray:
    return tracks.boxes * np.tile(SIZE, 2)


# --- GOT-10k ---------------------------------------------------------------------------------------------------------


def got10k_folder(folder, boxes="10.0000,20.0000,30.0000,40.0000\n0,0,0,0\n", absence="0\n1\n", meta=None):
    (folder / "groundtruth.txt").write_text(boxes)
    (folder / "absence.label").write_text(absence)
    default = (
        "[METAINFO]\nurl: https://example.org/a\nobject_class: lion\nmotion_class: walking\nresolution: (640, 427)\n"
    )
    (folder / "meta_info.ini").write_text(default if meta is None else meta)


def test_a_got10k_sequence_gives_label_prompt_size_and_absence(tmp_path):
    got10k_folder(tmp_path)
    parsed = read_got10k(tmp_path)
    np.testing.assert_array_equal(parsed.boxes[0, 0], [10, 20, 40, 60])
    assert (parsed.labels, parsed.size) == (("lion",), (640, 427))
    tracks = load_tracks(tmp_path / "groundtruth.txt")
    np.testing.assert_array_equal(tracks.mask[:, 0], [1, 0])
    np.testing.assert_allclose(in_pixels(tracks)[0, 0], [10, 20, 40, 60], rtol=1e-6)
    assert tracks.prompt == "A lion that is walking. "


def test_groundtruth_txt_alone_needs_label_and_size(tmp_path):
    (tmp_path / "groundtruth.txt").write_text("10,20,30,40\n")
    with refused("label", path=tmp_path / "groundtruth.txt"):
        load_tracks(tmp_path, image_size=SIZE)
    tracks = load_tracks(tmp_path, image_size=SIZE, label="cat")
    assert (tracks.labels, tracks.prompt) == (("cat",), None)


@pytest.mark.parametrize(
    ("changes", "file", "argument", "value"),
    [
        ({"absence": "0\n"}, "absence.label", None, 1),
        ({"absence": "0\n2\n"}, "absence.label", "line 2", 2),
        ({"absence": "0\n0\n"}, "groundtruth.txt", "boxes", [0, 0, 0, 0]),
        ({"meta": "object_class: lion\n"}, "meta_info.ini", None, None),
        ({"meta": "[OTHER]\na: b\n"}, "meta_info.ini", "METAINFO", None),
        (
            {"meta": "[METAINFO]\nobject_class: lion\nresolution: 640x427\n"},
            "meta_info.ini",
            "resolution",
            "640x427",
        ),
        (
            {"meta": "[METAINFO]\nobject_class: lion\nresolution: (0, 427)\n"},
            "groundtruth.txt",
            "image_size",
            (0, 427),
        ),
    ],
)
def test_faults_of_a_got10k_sequence(tmp_path, changes, file, argument, value):
    got10k_folder(tmp_path, **changes)
    with refused(path=tmp_path / file, value=value) as record:
        load_tracks(tmp_path)
    assert record.value.argument == argument


# --- MOTChallenge ----------------------------------------------------------------------------------------------------


def mot_folder(folder, rows, length=4):
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text("\n".join(rows) + "\n")
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname=MOT17-02\nframeRate=30\nseqLength={length}\nimWidth=640\nimHeight=427\nimExt=.jpg\n"
    )


def test_mot_counts_frames_and_pixels_from_one(tmp_path):
    rows = ["1,7,1,1,640,427,1,3,1", "3,7,11,21,30,40,1,3,0.5", "2,2,11,21,30,40,1,1,1", "1,9,1,1,9,9,0,7,1"]
    mot_folder(tmp_path, rows)
    tracks = load_tracks(tmp_path)
    assert tracks.labels == ("pedestrian", "car")
    np.testing.assert_array_equal(tracks.mask, [[0, 1], [1, 0], [0, 1], [0, 0]])
    np.testing.assert_array_equal(tracks.boxes[0, 1], [0, 0, 1, 1])
    np.testing.assert_allclose(in_pixels(tracks)[2, 1], [10, 20, 40, 60], rtol=1e-6)
    assert "1 of 4 rows" in tracks.notes[1]


def test_rows_without_a_class_take_the_label(tmp_path):
    mot_folder(tmp_path, ["1,1,1,1,9,9,0.8,-1,-1,-1", "2,2,1,1,9,9,0.8,-1,-1,-1"])
    with refused("label", path=tmp_path / "gt" / "gt.txt", value=None):
        load_tracks(tmp_path)
    assert load_tracks(tmp_path, label="cat").labels == ("cat", "cat")


def test_a_label_renames_objects_of_one_name_and_is_noted_where_they_have_several(tmp_path):
    mot_folder(tmp_path, ["1,1,1,1,9,9,1,1,1", "1,2,1,1,9,9,1,3,1"])
    tracks = load_tracks(tmp_path, label="cat")
    assert tracks.labels == ("pedestrian", "car")
    assert any("'cat'" in note for note in tracks.notes)
    (tmp_path / "gt" / "gt.txt").write_text("1,1,1,1,9,9,1,1,1\n1,2,1,1,9,9,1,1,1\n")
    assert load_tracks(tmp_path, label="cat").labels == ("cat", "cat")


@pytest.mark.parametrize(
    ("rows", "argument", "value"),
    [
        (["1.5,1,1,1,9,9,1,1,1"], "line 1", 1.5),
        (["999999999,1,1,1,9,9,1,1,1"], "line 1", 999999999),
        (["1,-1,1,1,9,9,1,1,1"], "line 1", -1),
        (["1,1,1,1,9,9,1,1,1", "1,1,2,2,9,9,1,1,1"], "id", 1),
        (["1,1,1,1,9,9,1,1,1", "2,1,2,2,9,9,1,3,1"], "class", "car"),
        (["1,1,1,1,9,9,1,14,1"], "class", 14),
        (["1,1,1,1,9,9,0,1,1"], "conf", 0),
        (["1,1,1,1,9,9,1,1,1", "1,2,1,1,9,9,1"], "line 2", "1,2,1,1,9,9,1"),
        (["1,1,1,1,9,9"], "line 1", "1,1,1,1,9,9"),
        (["1,1,1,1,0,9,1,1,1"], "boxes", [0, 0, 0, 9]),
    ],
)
def test_faults_of_a_mot_file(tmp_path, rows, argument, value):
    mot_folder(tmp_path, rows)
    with refused(argument, path=tmp_path / "gt" / "gt.txt", value=value):
        load_tracks(tmp_path)


def test_a_mot_sequence_shorter_than_its_boxes_is_refused(tmp_path):
    mot_folder(tmp_path, ["5,1,1,1,9,9,1,1,1"])
    with refused("seqlength", path=tmp_path / "seqinfo.ini", value="4"):
        load_tracks(tmp_path)


def test_mot_reads_one_array_for_many_rows(tmp_path):
    rows = [f"{frame},{identity},1,1,9,9,1,1,1" for identity in (5, 3) for frame in range(1, 5)]
    mot_folder(tmp_path, rows)
    parsed = read_mot(tmp_path)
    assert parsed.boxes.shape == (4, 2, 4)
    assert parsed.present.all()


# --- YouTube-VIS -----------------------------------------------------------------------------------------------------


def instances(**changes) -> dict:
    def video(identity, name):
        files = [f"{name}/{frame:05d}.jpg" for frame in range(0, 15, 5)]
        return {"id": identity, "width": 640, "height": 427, "length": 3, "file_names": files}

    content = {
        "info": {"version": "1.0"},
        "videos": [video(1, "0043f083b5"), video(2, "00f88c4f0a")],
        "categories": [{"id": 4, "name": "cat", "supercategory": "object"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "video_id": 1,
                "category_id": 9,
                "iscrowd": 0,
                "bboxes": [[10, 20, 30, 40], None, [0, 0, 640, 427]],
            },
            {"id": 2, "video_id": 1, "category_id": 4, "iscrowd": 0, "bboxes": [None, [1.5, 2, 3, 4], None]},
        ],
    }
    return {**content, **changes}


def written(folder, content):
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"


@pytest.mark.parametrize("video", [1, "1", "0043f083b5"])
def test_a_youtube_vis_video_is_found_by_id_or_name(tmp_path, video):
    tracks = load_tracks(written(tmp_path, instances()), video=video)
    assert tracks.labels == ("dog", "cat")
    np.testing.assert_array_equal(tracks.mask, [[1, 0], [0, 1], [1, 0]])
    np.testing.assert_allclose(in_pixels(tracks)[0, 0], [10, 20, 40, 60], rtol=1e-6)
    assert len(tracks.notes) == 1


def test_a_parsed_youtube_vis_file_lists_its_videos(tmp_path):
    parsed = read_youtube_vis(written(tmp_path, instances()))
    assert parsed.names == {1: "0043f083b5", 2: "00f88c4f0a"}
    assert parsed.annotated == (1,)
    video = parsed.video(1)
    assert video.file_names[1] == "0043f083b5/00005.jpg"
    np.testing.assert_array_equal(video.tracks.boxes[1, 1], [1.5, 2, 4.5, 6])


def test_the_only_video_needs_no_name_and_several_do(tmp_path):
    content = instances()
    with refused("video", path=tmp_path / "instances.json", value=None):
        load_tracks(written(tmp_path, content))
    assert load_tracks(written(tmp_path, instances(videos=content["videos"][:1]))).num_objects == 2


def annotation(**changes):
    return [{**instances()["annotations"][0], **changes}]


@pytest.mark.parametrize(
    ("changes", "video", "argument", "value"),
    [
        ({}, 2, "video", 2),
        ({}, 3, "video", 3),
        ({"annotations": None}, 1, "annotations", None),
        ({"videos": []}, None, "videos", 0),
        ({"videos": [{"id": 1}, {"id": 1}]}, 1, "videos", 2),
        ({"videos": [{"id": 1, "width": 640, "height": 427}]}, 1, "videos[0].length", None),
        ({"videos": [{"id": 1, "width": 640, "height": 427, "length": 2.5}]}, 1, "videos[0].length", 2.5),
        ({"annotations": annotation(category_id=5)}, 1, "annotations[0].category_id", 5),
        ({"annotations": annotation(bboxes=[None])}, 1, "annotations[0].bboxes", [None]),
        ({"annotations": annotation(bboxes=None)}, 1, "annotations[0].bboxes", None),
        ({"annotations": annotation(bboxes=[None, [1, 2, 3], None])}, 1, "annotations[0].bboxes[1]", [1, 2, 3]),
        ({"annotations": annotation(bboxes=[None, [1, 2, 3, "4"], None])}, 1, "annotations[0].bboxes[1][3]", "4"),
        ({"annotations": annotation(bboxes=[None, [1, 2, 0, 4], None])}, 1, "boxes", [1, 2, 1, 6]),
    ],
)
def test_faults_of_a_youtube_vis_file(tmp_path, changes, video, argument, value):
    path = written(tmp_path, instances(**changes))
    with refused(argument, path=path, value=value):
        load_tracks(path, video=video)


def test_two_videos_of_one_name_are_ambiguous(tmp_path):
    videos = [{**video, "name": "a"} for video in instances()["videos"]]
    path = written(tmp_path, instances(videos=videos))
    with refused("video", path=path, value="a"):
        load_tracks(path, video="a")


def test_video_is_for_files_of_several_videos(tmp_path):
    got10k_folder(tmp_path)
    with refused("video", path=tmp_path, value="a"):
        load_tracks(tmp_path, video="a")


def test_xywh_is_the_upper_left_corner_and_the_size():
    np.testing.assert_array_equal(xywh_to_xyxy(np.array([[1, 2, 3, 4]])), [[1, 2, 4, 6]])
