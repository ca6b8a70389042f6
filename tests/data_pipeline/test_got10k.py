"""Tests of GOT-10k: records match the raw files, and damaged sequences are reported and skipped."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.builders import make_source
from data_pipeline.builders.got10k import EXCLUDED_IDS
from data_pipeline.builders.raw_clip import CLIPPED, EMPTY, SCALED
from data_pipeline.records.prepare import prepare
from data_pipeline.records.schema import BadClip
from tests.data_pipeline.raw_data import SIZE, clips_of, got10k_sequence
from tests.errors import refused

NAME = "GOT-10k_Train_000001"
BOXES = [(8.5, 10, 20, 24), (12.25, 10, 20, 24), (0, 0, 0, 0)]


def in_pixels(clip) -> np.ndarray:
    return clip.boxes[:, 0] * np.tile(SIZE, 2)


def test_boxes_mask_label_and_caption_are_those_of_the_files(tmp_path):
    frames = got10k_sequence(tmp_path / "raw" / "train" / NAME, BOXES, absence=[0, 0, 1])
    clip = clips_of("got10k", tmp_path / "raw", tmp_path / "out")[NAME]
    assert clip.frames == tuple(frames)
    assert (clip.width, clip.height) == SIZE
    assert clip.labels == ("hawksbill turtle",)
    assert clip.caption == "A hawksbill turtle that is swimming. "
    assert clip.mask.tolist() == [[True], [True], [False]]
    # boxes are stored in 0..1 as float32
    np.testing.assert_allclose(in_pixels(clip), [[8.5, 10, 28.5, 34], [12.25, 10, 32.25, 34], [0] * 4], atol=1e-5)


def test_a_box_over_the_border_is_clipped_and_reported(tmp_path):
    boxes = [(-5, -6, 20, 24), (50, 40, 30, 30)]
    got10k_sequence(tmp_path / "raw" / "train" / NAME, boxes)
    clip = clips_of("got10k", tmp_path / "raw", tmp_path / "out")[NAME]
    np.testing.assert_allclose(in_pixels(clip), [[0, 0, 15, 18], [50, 40, 64, 48]], atol=1e-5)
    report = prepare("got10k", tmp_path / "raw", tmp_path / "out")
    assert report.splits["train"].notes == {CLIPPED: 1}


def test_a_box_without_area_or_outside_the_picture_is_absent_and_reported(tmp_path):
    got10k_sequence(tmp_path / "raw" / "train" / NAME, [(5, 5, 0, 7), (70, 5, 8, 8), (5, 5, 8, 8)])
    clip = clips_of("got10k", tmp_path / "raw", tmp_path / "out")[NAME]
    assert clip.mask.tolist() == [[False], [False], [True]]
    report = prepare("got10k", tmp_path / "raw", tmp_path / "out")
    assert report.splits["train"].notes == {EMPTY: 1}


def test_a_clip_may_have_one_frame_and_labels_need_not_be_ascii(tmp_path):
    meta = "[METAINFO]\nobject_class: Schildkröte 亀\nmotion_class: плавает\nresolution: (64, 48)\n"
    got10k_sequence(tmp_path / "raw" / "train" / NAME, BOXES[:1], meta_info_ini=meta)
    clip = clips_of("got10k", tmp_path / "raw", tmp_path / "out")[NAME]
    assert clip.num_frames == 1
    assert clip.labels == ("Schildkröte 亀",)
    assert clip.caption == "A Schildkröte 亀 that is плавает. "


def test_boxes_follow_a_stated_size_of_the_same_aspect(tmp_path):
    meta = "[METAINFO]\nobject_class: cat\nmotion_class: running\nresolution: (128, 96)\n"
    got10k_sequence(tmp_path / "raw" / "train" / NAME, [(64, 48, 64, 48)], meta_info_ini=meta)
    clip = clips_of("got10k", tmp_path / "raw", tmp_path / "out")[NAME]
    np.testing.assert_array_equal(clip.boxes[0, 0], [0.5, 0.5, 1, 1])
    assert prepare("got10k", tmp_path / "raw", tmp_path / "out").splits["train"].notes == {SCALED: 1}


def test_a_test_sequence_has_the_box_of_its_first_frame_only(tmp_path):
    folder = tmp_path / "raw" / "test"
    got10k_sequence(folder / "GOT-10k_Test_000001", BOXES, groundtruth_txt="8,10,20,24\n", absence_label=None)
    bare = dict.fromkeys(("absence_label", "cover_label", "cut_by_image_label", "meta_info_ini"))
    got10k_sequence(folder / "GOT-10k_Test_000002", BOXES, groundtruth_txt="8,10,20,24\n", **bare)
    clips = clips_of("got10k", tmp_path / "raw", tmp_path / "out", "test")
    first = clips["GOT-10k_Test_000001"]
    assert first.num_frames == 3
    assert first.mask.tolist() == [[True], [False], [False]]
    # Without meta_info.ini the object's class is unknown, so that it gets no label.
    second = clips["GOT-10k_Test_000002"]
    assert (second.caption, second.labels, second.num_frames) == ("", (), 3)


def test_all_three_splits_are_prepared(tmp_path):
    for split, name in (("train", "Train"), ("val", "Val"), ("test", "Test")):
        got10k_sequence(tmp_path / "raw" / split / f"GOT-10k_{name}_000001", BOXES[:2])
        (tmp_path / "raw" / split / "list.txt").write_text(f"GOT-10k_{name}_000001\n")
    report = prepare("got10k", tmp_path / "raw", tmp_path / "out")
    assert {split: counts.clips for split, counts in report.splits.items()} == {"train": 1, "val": 1, "test": 1}


def test_excluded_ids_are_matched_as_ids(tmp_path):
    # The reference's list has a 35th entry, "txt", which excludes list.txt.
    assert len(EXCLUDED_IDS) == 34
    names = ["GOT-10k_Train_001898", "GOT-10k_Train_101898", "GOT-10k_Train_001899"]
    for name in names:
        got10k_sequence(tmp_path / "001898 txt" / "train" / name, BOXES[:1])
    (tmp_path / "001898 txt" / "train" / "list.txt").write_text("\n".join(names))
    source = make_source("got10k", tmp_path / "001898 txt")  # all paths contain an excluded id and "txt"
    assert source.clip_ids("train") == ("GOT-10k_Train_001899", "GOT-10k_Train_101898")
    [note] = source.validate().notes
    assert note.startswith("train: 1 sequences")


def test_the_excluded_ids_are_those_of_training_alone(tmp_path):
    got10k_sequence(tmp_path / "val" / "GOT-10k_Val_001898", BOXES[:1])
    assert make_source("got10k", tmp_path).clip_ids("val") == ("GOT-10k_Val_001898",)


SHORT = "8,10,20,24\n12,10,20,24\n"


@pytest.mark.parametrize(
    ("files", "kind", "where"),
    [
        ({"groundtruth_txt": SHORT}, "short groundtruth.txt", "groundtruth.txt"),
        ({"groundtruth_txt": None}, "bad groundtruth.txt or labels", "groundtruth.txt"),
        ({"groundtruth_txt": SHORT + "1,2,3\n"}, "bad groundtruth.txt or labels", "line 3"),
        ({"groundtruth_txt": SHORT + "8,10,-20,24\n"}, "negative box size", "frame 2"),
        ({"groundtruth_txt": SHORT + "8,10,nan,24\n"}, "bad groundtruth.txt or labels", "line 3"),
        ({"absence_label": None}, "absent labels", "absence.label"),
        ({"absence_label": "0\n0\n"}, "bad groundtruth.txt or labels", "absence.label"),
        ({"absence_label": "0\n0\n2\n"}, "bad groundtruth.txt or labels", "absence.label"),
        ({"cover_label": "8\n8\n9\n"}, "bad cover.label", "cover.label"),
        ({"cut_by_image_label": "0\n0\n"}, "bad cut_by_image.label", "cut_by_image.label"),
        ({"meta_info_ini": None}, "no caption", "meta_info.ini"),
        ({"meta_info_ini": "[METAINFO]\nobject_class: cat\n"}, "no caption", "meta_info.ini"),
        ({"meta_info_ini": "not an ini file"}, "bad groundtruth.txt or labels", "meta_info.ini"),
        (
            {"meta_info_ini": "[METAINFO]\nobject_class: cat\nmotion_class: runs\nresolution: (64, 96)\n"},
            "another aspect",
            "64 x 96",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path, files, kind, where):
    got10k_sequence(tmp_path / "train" / NAME, [(8, 10, 20, 24)] * 3, **files)
    with pytest.raises(BadClip) as bad:
        make_source("got10k", tmp_path).clip("train", 0)
    assert bad.value.kind == kind
    assert where in bad.value.reason


@pytest.mark.parametrize("damage", ["missing in the middle", "cut short", "not a picture", "of another size", "none"])
def test_damaged_frames_are_named(tmp_path, damage):
    folder = tmp_path / "train" / NAME
    frames = got10k_sequence(folder, [(8, 10, 20, 24)] * 3)
    second = folder / "00000002.jpg"
    if damage == "missing in the middle":
        second.unlink()
        kind = "missing frame"
    elif damage == "none":
        for frame in folder.glob("*.jpg"):
            frame.unlink()
        kind = "missing frame"
    elif damage == "of another size":
        got10k_sequence(tmp_path / "other", [(8, 10, 20, 24)], size=(32, 24))
        second.write_bytes((tmp_path / "other" / "00000001.jpg").read_bytes())
        kind = "frames of different sizes"
    else:
        second.write_bytes(frames[1][:-100] if damage == "cut short" else b"<html>not found</html>")
        kind = "unreadable frame"
    with pytest.raises(BadClip) as bad:
        make_source("got10k", tmp_path).clip("train", 0)
    assert bad.value.kind == kind
    if damage != "none":
        assert any(place in bad.value.reason for place in ("00000002.jpg", "frame 1 "))


def test_a_missing_sequence_of_the_list_is_counted(tmp_path):
    got10k_sequence(tmp_path / "raw" / "train" / NAME, BOXES[:2])
    got10k_sequence(tmp_path / "raw" / "train" / "GOT-10k_Train_000009", BOXES[:2])
    (tmp_path / "raw" / "train" / "list.txt").write_text(f"{NAME}\nGOT-10k_Train_000002\n")
    report = prepare("got10k", tmp_path / "raw", tmp_path / "out", max_bad_share=0.5)
    assert report.splits["train"].clips == 1
    assert report.splits["train"].skipped["missing sequence"].clips == 1
    [note] = report.raw_notes
    assert note.startswith("train: 1 folders")
    assert note.endswith("GOT-10k_Train_000009")


def test_a_folder_that_is_not_got10k_is_refused(tmp_path):
    with refused("source", path=tmp_path, value=None):
        make_source("got10k", tmp_path)
    with refused("source", path=tmp_path / "nowhere"):
        make_source("got10k", tmp_path / "nowhere")
    (tmp_path / "train").mkdir()
    with refused("source", path=tmp_path, value=("train",)):
        make_source("got10k", tmp_path).validate()
