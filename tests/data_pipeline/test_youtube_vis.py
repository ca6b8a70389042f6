"""Tests of YouTube-VIS: several objects, null where absent, captions by video, and a hold-out chosen by hash."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data_pipeline.builders import make_source
from data_pipeline.builders.youtube_vis import HOLD_OUT, held_out
from data_pipeline.records.prepare import prepare
from data_pipeline.records.schema import BadClip
from tests.data_pipeline.raw_data import SIZE, clips_of, youtube_vis
from tests.errors import refused

BOX = [8, 10, 20, 24]
# Held-out names among the hexadecimal names 0000000000 to 0000000063.
HELD_OUT = ["000000001e", "0000000022", "000000002b", "0000000035", "000000004d"]
VIDEO = {"objects": [("dog", [BOX, None, [50, 40, 30, 30]]), ("giant_panda", [None, None, BOX])], "length": 3}


def test_objects_boxes_and_captions_are_those_of_the_files(tmp_path):
    frames = youtube_vis(tmp_path / "raw", {"0043f083b5": VIDEO}, captions={"0043f083b5": "собака и 熊猫"})
    clip = clips_of("youtube_vis", tmp_path / "raw", tmp_path / "out")["0043f083b5"]
    assert clip.frames == tuple(frames["0043f083b5"])
    assert clip.labels == ("dog", "giant_panda")
    assert clip.caption == "собака и 熊猫"
    assert clip.mask.tolist() == [[True, False], [False, False], [True, True]]
    boxes = clip.boxes * np.tile(SIZE, 2)
    # boxes are stored in 0..1 as float32
    np.testing.assert_allclose(boxes[0, 0], [8, 10, 28, 34], atol=1e-5)
    np.testing.assert_allclose(boxes[2], [[50, 40, 64, 48], [8, 10, 28, 34]], atol=1e-5)
    np.testing.assert_array_equal(boxes[1], 0)


def test_every_object_is_kept_however_many_there_are(tmp_path):
    objects = [("fish", [[index, index, 5, 5]]) for index in range(25)]
    youtube_vis(tmp_path / "raw", {"0043f083b5": {"objects": objects, "length": 1}})
    clip = clips_of("youtube_vis", tmp_path / "raw", tmp_path / "out")["0043f083b5"]
    assert clip.boxes.shape == (1, 25, 4)
    np.testing.assert_allclose(clip.boxes[0, :, 0] * SIZE[0], np.arange(25), atol=1e-5)


def test_the_hold_out_is_fixed_by_the_names_alone(tmp_path):
    names = [f"{number:010x}" for number in range(4000)]
    share = sum(map(held_out, names)) / len(names)
    assert abs(share - HOLD_OUT) < 0.015  # four standard deviations for 4000 names
    # Must never change: otherwise training videos would move into the evaluation split.
    assert [name for name in names[:100] if held_out(name)] == HELD_OUT
    chosen = dict.fromkeys(names[:100], VIDEO)
    youtube_vis(tmp_path, dict(sorted(chosen.items(), reverse=True)))
    source = make_source("youtube_vis", tmp_path)
    assert source.clip_ids("holdout") == tuple(HELD_OUT)
    assert sorted(source.clip_ids("train") + source.clip_ids("holdout")) == names[:100]
    assert source.validate().clips == {
        "train": 100 - len(HELD_OUT),
        "holdout": len(HELD_OUT),
    }


def test_a_video_without_annotation_is_left_out_and_reported(tmp_path):
    youtube_vis(tmp_path, {"a": VIDEO, "b": {"objects": [], "length": 2}})
    source = make_source("youtube_vis", tmp_path)
    assert source.clip_ids("train") == ("a",)
    [note] = source.validate().notes
    assert note.startswith("1 videos")


def change(folder, edit) -> None:
    path = folder / "train" / "instances.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def annotation(**changes):
    return lambda content: content["annotations"][0].update(changes)


def video(**changes):
    return lambda content: content["videos"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "kind", "where"),
    [
        (annotation(bboxes=[BOX, None]), "bad entry in instances.json", "bboxes"),
        (annotation(bboxes=[BOX, None, "none"]), "bad entry in instances.json", "'none'"),
        (annotation(bboxes=[BOX, None, [1, 2, "3", 4]]), "bad entry in instances.json", "'3'"),
        (annotation(bboxes={"0": BOX}), "bad entry in instances.json", "bboxes"),
        (annotation(bboxes=[BOX, None, [8, 10, -5, 24]]), "negative box size", "-5 x 24"),
        (annotation(category_id=77), "bad entry in instances.json", "77"),
        (video(length=2), "bad entry in instances.json", "file_names"),
        (video(width="wide"), "bad entry in instances.json", "width"),
        (video(width=480), "another aspect", "480 x 48"),
        (video(file_names=[1, 2, 3], name="a"), "bad entry in instances.json", "file_names"),
    ],
)
def test_a_damaged_entry_affects_only_its_video(tmp_path, edit, kind, where):
    youtube_vis(tmp_path, {"a": VIDEO, "b": VIDEO})
    change(tmp_path, edit)
    source = make_source("youtube_vis", tmp_path)
    with pytest.raises(BadClip) as bad:
        source.clip("train", 0)
    assert bad.value.kind == kind
    assert where in bad.value.reason
    assert source.clip("train", 1).clip_id == "b"


@pytest.mark.parametrize(
    ("captions", "kind"), [({"b": "x"}, "no caption"), ({"a": 7}, "wrong JSON type"), ({"a": ["x"]}, "wrong JSON type")]
)
def test_a_caption_that_is_missing_or_not_a_string_is_named(tmp_path, captions, kind):
    youtube_vis(tmp_path, {"a": VIDEO}, captions=captions)
    with pytest.raises(BadClip) as bad:
        make_source("youtube_vis", tmp_path).clip("train", 0)
    assert bad.value.kind == kind
    assert bad.value.reason.startswith("a: ")


def test_damaged_frames_are_counted_and_the_rest_is_prepared(tmp_path):
    frames = youtube_vis(tmp_path / "raw", {"a": VIDEO, "b": VIDEO, "c": VIDEO})
    pictures = tmp_path / "raw" / "train" / "JPEGImages"
    (pictures / "a" / "00005.jpg").unlink()
    (pictures / "c" / "00010.jpg").write_bytes(frames["c"][2][:-150])
    report = prepare("youtube_vis", tmp_path / "raw", tmp_path / "out", max_bad_share=0.7)
    assert report.splits["train"].clips == 1
    assert {kind: entry.clips for kind, entry in report.splits["train"].skipped.items()} == {
        "missing frame": 1,
        "unreadable frame": 1,
    }


@pytest.mark.parametrize(
    ("break_it", "file"),
    [
        (lambda raw: (raw / "caption.json").unlink(), "caption.json"),
        (lambda raw: (raw / "caption.json").write_text("[]"), "caption.json"),
        (lambda raw: (raw / "train" / "instances.json").unlink(), "train/instances.json"),
        (lambda raw: (raw / "train" / "instances.json").write_text("[]"), "train/instances.json"),
        (lambda raw: (raw / "train" / "instances.json").write_text('{"videos": ['), "train/instances.json"),
        (lambda raw: change(raw, lambda content: content.pop("annotations")), "train/instances.json"),
        (lambda raw: change(raw, lambda content: content["annotations"].clear()), "train/instances.json"),
        (lambda raw: (raw / "train" / "JPEGImages").rename(raw / "train" / "JPEG"), "train/JPEGImages"),
        (lambda raw: change(raw, lambda content: content["videos"][0].update(name="b")), "train/instances.json"),
    ],
)
def test_a_folder_that_cannot_be_prepared_is_one_error_that_names_the_file(tmp_path, break_it, file):
    youtube_vis(tmp_path / "raw", {"a": VIDEO, "b": VIDEO})
    break_it(tmp_path / "raw")
    with refused() as record:
        prepare("youtube_vis", tmp_path / "raw", tmp_path / "out")
    assert str(record.value).startswith(f"{tmp_path / 'raw' / file}: ")
    assert not (tmp_path / "out").exists()
