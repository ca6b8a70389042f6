"""Facts about the importers of data sets: GOT-10k, MOTChallenge and YouTube-VIS files in their true layout."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smcd_jax.errors import SMCDError
from smcd_jax.tracks import BoxTracks, load_tracks, read_got10k, read_mot, read_youtube_vis, xywh_to_xyxy

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
    with pytest.raises(SMCDError, match="does not name its object"):
        load_tracks(tmp_path, image_size=SIZE)
    tracks = load_tracks(tmp_path, image_size=SIZE, label="cat")
    assert (tracks.labels, tracks.prompt) == (("cat",), None)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"absence": "0\n"}, r"absence\.label: 1 lines for 2 boxes"),
        ({"absence": "0\n2\n"}, r"absence\.label: line 2: 2 is neither 0 \(present\) nor 1"),
        ({"absence": "0\n0\n"}, r"object 0 'lion', frame 1: x2 0 <= x1 0"),
        ({"meta": "object_class: lion\n"}, r"meta_info\.ini: not an ini file"),
        ({"meta": "[OTHER]\na: b\n"}, r"meta_info\.ini: no section \[METAINFO\]; found \['OTHER'\]"),
        ({"meta": "[METAINFO]\nobject_class: lion\nresolution: 640x427\n"}, r"resolution '640x427' is not of the form"),
        ({"meta": "[METAINFO]\nobject_class: lion\nresolution: (0, 427)\n"}, r"must be a positive \(width, height\)"),
    ],
)
def test_faults_of_a_got10k_sequence(tmp_path, changes, fault):
    got10k_folder(tmp_path, **changes)
    with pytest.raises(SMCDError, match=fault):
        load_tracks(tmp_path)


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
    assert "from 1" in tracks.notes[0]
    assert "1 of 4 rows have conf 0 (to be ignored), left out" in tracks.notes[1]


def test_rows_without_a_class_take_the_label_given(tmp_path):
    mot_folder(tmp_path, ["1,1,1,1,9,9,0.8,-1,-1,-1", "2,2,1,1,9,9,0.8,-1,-1,-1"])
    with pytest.raises(SMCDError, match="pass --label"):
        load_tracks(tmp_path)
    assert load_tracks(tmp_path, label="cat").labels == ("cat", "cat")


def test_a_label_cannot_rename_one_of_several(tmp_path):
    mot_folder(tmp_path, ["1,1,1,1,9,9,1,1,1", "1,2,1,1,9,9,1,3,1"])
    with pytest.raises(SMCDError, match=r"--label 'cat' names one object, .* names 2 \(pedestrian, car\)"):
        load_tracks(tmp_path, label="cat")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (["0,1,1,1,9,9,1,1,1"], r"line 1: frame 0 is not a whole number from 1"),
        (["1.5,1,1,1,9,9,1,1,1"], r"line 1: frame 1.5 is not a whole number"),
        (["999999999,1,1,1,9,9,1,1,1"], r"line 1: frame 1e\+09 is not"),
        (["1,-1,1,1,9,9,1,1,1"], r"line 1: id -1 is no identity"),
        (["1,1,1,1,9,9,1,1,1", "1,1,2,2,9,9,1,1,1"], r"id 1 has two boxes in frame 1"),
        (["1,1,1,1,9,9,1,1,1", "2,1,2,2,9,9,1,3,1"], r"id 1 has classes 1 and 3"),
        (["1,1,1,1,9,9,1,14,1"], r"id 1: class 14 has no name"),
        (["5,1,1,1,9,9,1,1,1"], r"seqlength '4' is not a whole number from 5"),
        (["1,1,1,1,9,9,0,1,1"], r"all 1 rows have conf 0"),
        (["1,1,1,1,9,9,1,1,1", "1,2,1,1,9,9,1"], r"line 2: 7 comma-separated fields .* expected 9"),
        (["1,1,1,1,9,9"], r"line 1: 6 comma-separated fields .* expected 7 or 8 or 9 or 10"),
        (["1,1,1,1,0,9,1,1,1"], r"object 0 'pedestrian', frame 0: x2 0 <= x1 0"),
    ],
)
def test_faults_of_a_mot_file(tmp_path, rows, fault):
    mot_folder(tmp_path, rows)
    with pytest.raises(SMCDError, match=fault):
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
    assert "null where absent" in tracks.notes[0]


def test_a_parsed_youtube_vis_file_lists_its_videos(tmp_path):
    parsed = read_youtube_vis(written(tmp_path, instances()))
    assert parsed.names == {1: "0043f083b5", 2: "00f88c4f0a"}
    assert parsed.annotated == (1,)
    video = parsed.video(1)
    assert video.file_names[1] == "0043f083b5/00005.jpg"
    np.testing.assert_array_equal(video.tracks.boxes[1, 1], [1.5, 2, 4.5, 6])


def test_the_only_video_needs_no_name_and_several_do(tmp_path):
    content = instances()
    with pytest.raises(SMCDError, match=r"holds 2 videos: choose one by id or name: 1 \(0043f083b5\)"):
        load_tracks(written(tmp_path, content))
    assert load_tracks(written(tmp_path, instances(videos=content["videos"][:1]))).num_objects == 2


def annotation(**changes):
    return [{**instances()["annotations"][0], **changes}]


@pytest.mark.parametrize(
    ("changes", "video", "fault"),
    [
        ({}, 2, r"video 2 has no annotation"),
        ({}, 3, r"no video of id or name 3 among 2"),
        ({"annotations": None}, 1, r"no list of objects named 'annotations'"),
        ({"videos": []}, None, r"holds 0 videos"),
        ({"videos": [{"id": 1}, {"id": 1}]}, 1, r"holds 2 videos with 1 ids"),
        ({"videos": [{"id": 1, "width": 640, "height": 427}]}, 1, r"an entry has no key 'length'"),
        ({"videos": [{"id": 1, "width": 640, "height": 427, "length": 2.5}]}, 1, r"length 2.5 is not a positive whole"),
        ({"annotations": annotation(category_id=5)}, 1, r"category 5 is not among the 2 categories"),
        ({"annotations": annotation(bboxes=[None])}, 1, r"annotation 1: 1 boxes for a video of 3 frames"),
        ({"annotations": annotation(bboxes=None)}, 1, r"annotation 1: no list 'bboxes'"),
        (
            {"annotations": annotation(bboxes=[None, [1, 2, 3], None])},
            1,
            r"frame 1: box must be x,y,width,height or null",
        ),
        ({"annotations": annotation(bboxes=[None, [1, 2, 3, "4"], None])}, 1, r"frame 1: box .*: '4' is not a finite"),
        ({"annotations": annotation(bboxes=[None, [1, 2, 0, 4], None])}, 1, r"object 0 'dog', frame 1: x2 1 <= x1 1"),
    ],
)
def test_faults_of_a_youtube_vis_file(tmp_path, changes, video, fault):
    path = written(tmp_path, instances(**changes))
    with pytest.raises(SMCDError, match=fault):
        load_tracks(path, video=video)


def test_video_is_for_files_of_several_videos(tmp_path):
    got10k_folder(tmp_path)
    with pytest.raises(SMCDError, match=r"a got10k file holds one video: leave --tracks_video .video='a'. out"):
        load_tracks(tmp_path, video="a")


def test_xywh_is_the_upper_left_corner_and_the_size():
    np.testing.assert_array_equal(xywh_to_xyxy(np.array([[1, 2, 3, 4]])), [[1, 2, 4, 6]])
