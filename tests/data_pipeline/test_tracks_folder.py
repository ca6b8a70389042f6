"""Tests of a user's own folder: track formats, frames or videos, splits, and missing files."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data_pipeline.builders import make_source
from data_pipeline.builders.raw_clip import CLIPPED, RECODED
from data_pipeline.builders.tracks_folder import ENDS_EARLY, FROM_VIDEO, NO_TRACKS, NUMBERED
from data_pipeline.records import prepare as prepare_module
from data_pipeline.records.frames import decode_frame
from data_pipeline.records.prepare import prepare
from data_pipeline.records.schema import BadClip
from smcd_jax.media import write_video
from smcd_jax.tracks import BoxTracks, save_tracks
from tests.data_pipeline.raw_data import SIZE, clips_of, jpeg
from tests.errors import refused

# Multiples of 1/64 and 1/48, so that pixel coordinates with 4 decimals are exact.
ONE = BoxTracks(np.array([[[0.25, 0.25, 0.75, 0.5]], [[0.5, 0.25, 1, 0.5]]]), np.ones((2, 1)), ("dog",), "a dog runs")
TWO = BoxTracks(
    np.array([[[0.25, 0.25, 0.75, 0.5], [0, 0, 0, 0]], [[0.5, 0.25, 1, 0.5], [0, 0.5, 0.25, 1]]]),
    np.array([[1, 0], [1, 1]]),
    ("dog", "köttur"),
    "两个动物",
)


def clip_folder(
    folder, tracks: BoxTracks, format: str, *, place: str = "frames", texts: dict | None = None
) -> list[bytes]:
    """Writes a clip: its frames in the subfolder `place` ('' for none), its tracks in a format, and its text files."""
    (folder / place).mkdir(parents=True)
    frames = [jpeg(number) for number in range(tracks.num_frames)]
    for number, frame in enumerate(frames):
        (folder / place / f"frame_{number}.jpg").write_bytes(frame)
    target = {"smcd-tracks": folder / "tracks.json", "youtube-vis": folder / "instances.json"}.get(format, folder)
    save_tracks(tracks, target, format=format, image_size=SIZE)
    for name, text in (texts or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return frames


@pytest.mark.parametrize(
    ("tracks", "format", "texts"),
    [
        (TWO, "smcd-tracks", {}),
        (TWO, "mot", {"caption.txt": "两个动物\n"}),
        (TWO, "youtube-vis", {"caption.txt": "两个动物"}),
        (ONE, "got10k", {"caption.txt": "a dog runs"}),
        (ONE, "reference", {"label.txt": "dog\n"}),
    ],
)
def test_tracks_of_every_format_are_read_unchanged(tmp_path, tracks, format, texts):
    frames = clip_folder(tmp_path / "raw" / "clip", tracks, format, texts=texts)
    clip = clips_of("tracks_folder", tmp_path / "raw", tmp_path / "out")["clip"]
    assert clip.frames == tuple(frames)
    assert (clip.labels, clip.caption) == (tracks.labels, tracks.prompt)
    np.testing.assert_array_equal(clip.mask, tracks.mask)
    np.testing.assert_allclose(clip.boxes, tracks.boxes, atol=1e-7)  # float32 rounding


@pytest.mark.parametrize("place", ["", "frames", "img1", "JPEGImages"])
def test_frames_are_found_where_data_sets_have_them_and_in_the_order_of_their_numbers(tmp_path, place):
    still = BoxTracks(np.tile([0.25, 0.25, 0.75, 0.5], (11, 1, 1)), np.ones((11, 1)), ("dog",), "a dog")
    frames = clip_folder(tmp_path / "clip", still, "smcd-tracks", place=place)
    assert make_source("tracks_folder", tmp_path).clip("train", 0).frames == tuple(frames)  # frame_10 is after frame_9


def test_frames_that_are_neither_jpeg_nor_png_are_stored_without_loss(tmp_path):
    clip_folder(tmp_path / "raw" / "clip", ONE, "smcd-tracks")
    for number in range(2):
        path = tmp_path / "raw" / "clip" / "frames" / f"frame_{number}.jpg"
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    clip = clips_of("tracks_folder", tmp_path / "raw", tmp_path / "out")["clip"]
    for number, frame in enumerate(clip.frames):
        np.testing.assert_array_equal(decode_frame(frame), decode_frame(jpeg(number)))
    assert RECODED in prepare("tracks_folder", tmp_path / "raw", tmp_path / "out").splits["train"].notes


@pytest.mark.parametrize("inside", [True, False])
def test_a_video_has_its_tracks_in_its_folder_or_beside_it(tmp_path, inside):
    raw = tmp_path / "raw"
    (raw / "clip").mkdir(parents=True)
    video = np.stack([decode_frame(jpeg(number)) for number in range(2)])
    if inside:
        write_video(video, raw / "clip" / "video.mp4", fps=8)
        save_tracks(TWO, raw / "clip" / "tracks.json", format="smcd-tracks", image_size=SIZE)
    else:
        (raw / "clip").rmdir()
        write_video(video, raw / "clip.mp4", fps=8)
        save_tracks(TWO, raw / "clip.json", format="smcd-tracks", image_size=SIZE)
    clip = clips_of("tracks_folder", raw, tmp_path / "out")["clip"]
    assert (clip.num_frames, clip.width, clip.height) == (2, *SIZE)
    # The tolerance covers the losses of H.264 and then jpeg.
    assert np.abs(decode_frame(clip.frames[1]).astype(int) - video[1]).mean() < 6
    assert prepare("tracks_folder", raw, tmp_path / "out").splits["train"].notes == {FROM_VIDEO: 1}


def test_a_caption_beside_a_video_is_used_where_the_tracks_have_no_prompt(tmp_path):
    write_video(np.stack([decode_frame(jpeg(number)) for number in range(2)]), tmp_path / "clip.mp4", fps=8)
    save_tracks(BoxTracks(TWO.boxes, TWO.mask, TWO.labels), tmp_path / "clip.json", format="smcd-tracks")
    (tmp_path / "clip.caption.txt").write_text("beside")
    assert make_source("tracks_folder", tmp_path).clip("train", 0).caption == "beside"


def test_clips_without_tracks_have_no_objects_and_are_counted(tmp_path):
    frames = clip_folder(tmp_path / "raw" / "frames", ONE, "smcd-tracks", texts={"caption.txt": "waves"})
    (tmp_path / "raw" / "frames" / "tracks.json").unlink()
    write_video(np.stack([decode_frame(frame) for frame in frames]), tmp_path / "raw" / "video.mp4", fps=8)
    (tmp_path / "raw" / "video.caption.txt").write_text("clouds")
    clips = clips_of("tracks_folder", tmp_path / "raw", tmp_path / "out")
    assert {name: clip.caption for name, clip in clips.items()} == {"frames": "waves", "video": "clouds"}
    assert [clip.boxes.shape for clip in clips.values()] == [(2, 0, 4)] * 2
    assert prepare("tracks_folder", tmp_path / "raw", tmp_path / "out").splits["train"].notes[NO_TRACKS] == 2


def test_folders_named_after_splits_are_splits(tmp_path):
    clip_folder(tmp_path / "raw" / "train" / "one", ONE, "smcd-tracks")
    clip_folder(tmp_path / "raw" / "val" / "two", TWO, "smcd-tracks")
    report = prepare("tracks_folder", tmp_path / "raw", tmp_path / "out")
    assert {split: counts.clips for split, counts in report.splits.items()} == {"train": 1, "val": 1}


def test_boxes_over_the_border_are_clipped_and_reported(tmp_path):
    clip_folder(tmp_path / "raw" / "clip", ONE, "smcd-tracks")
    path = tmp_path / "raw" / "clip" / "tracks.json"
    content = json.loads(path.read_text())
    content["objects"][0]["keyframes"][0]["box"] = [-10, 12, 32, 60]
    path.write_text(json.dumps(content))
    clip = clips_of("tracks_folder", tmp_path / "raw", tmp_path / "out")["clip"]
    np.testing.assert_array_equal(clip.boxes[0, 0], [0, 0.25, 0.5, 1])
    assert CLIPPED in prepare("tracks_folder", tmp_path / "raw", tmp_path / "out").splits["train"].notes


def remove(*names):
    def edit(folder):
        for name in names:
            (folder / name).unlink()

    return edit


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("edit", "kind", "where"),
    [
        (remove("frames/frame_1.jpg"), "frames do not match", "clip"),
        (lambda folder: (folder / "tracks.json").rename(folder / "boxes.json"), "bad tracks", "clip"),
        (remove("frames/frame_0.jpg", "frames/frame_1.jpg"), "no video", "clip"),
        (write("more.jpg", jpeg(5)), "no video", "clip"),
        (write("bbox.txt", "1,2,3,4\n"), "bad tracks", "bbox.txt"),
        (write("tracks.json", "{"), "bad tracks", "tracks.json"),
        (write("tracks.json", "[]"), "bad tracks", "tracks.json"),
        (write("frames/frame_1.jpg", jpeg(1)[:-150]), "unreadable frame", "frame_1.jpg"),
        (write("frames/frame_1.jpg", jpeg(1, (32, 24))), "frames of different sizes", "frame 1"),
        (write("caption.txt", b"\xff\xfe\xff"), "bad caption.txt", "caption.txt"),
    ],
)
def test_a_missing_or_damaged_file_is_named(tmp_path, edit, kind, where):
    without_prompt = BoxTracks(TWO.boxes, TWO.mask, TWO.labels)
    clip_folder(tmp_path / "clip", without_prompt, "smcd-tracks", texts={"caption.txt": "two"})
    edit(tmp_path / "clip")
    with pytest.raises(BadClip) as bad:
        make_source("tracks_folder", tmp_path).clip("train", 0)
    assert bad.value.kind == kind
    assert where in bad.value.reason


@pytest.mark.parametrize(
    ("texts", "kind"), [({"caption.txt": "a dog"}, "bad tracks"), ({"label.txt": "dog"}, "no caption")]
)
def test_a_missing_label_or_caption_is_never_invented(tmp_path, texts, kind):
    clip_folder(tmp_path / "clip", BoxTracks(ONE.boxes, ONE.mask, ONE.labels), "reference", texts=texts)
    with pytest.raises(BadClip) as bad:
        make_source("tracks_folder", tmp_path).clip("train", 0)
    assert bad.value.kind == kind


def test_a_damaged_video_is_a_bad_clip(tmp_path):
    write_video(np.stack([decode_frame(jpeg(number)) for number in range(8)]), tmp_path / "clip.mp4", fps=8)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadClip) as bad:
        make_source("tracks_folder", tmp_path).clip("train", 0)
    assert bad.value.kind == "unreadable frame"


def test_folders_without_clips_or_with_two_of_one_name_are_refused(tmp_path):
    with refused("source", path=tmp_path / "nowhere"):
        make_source("tracks_folder", tmp_path / "nowhere")
    with refused("source", path=tmp_path):
        make_source("tracks_folder", tmp_path).validate()
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip.mp4").write_bytes(b"")
    with refused("source", path=tmp_path / "clip.mp4", value="clip"):
        make_source("tracks_folder", tmp_path)


# --- raw data that change between runs -------------------------------------------------------------------------------


@pytest.fixture
def raw(shared, tmp_path):
    """Three clips of eight frames, copied from case 55, in which one label applies to all objects."""
    for name in ("clip00", "clip01", "clip02"):
        source = shared / "field_cases" / "55_prepare_remembers_old_fault" / "mine" / "train" / "clip00"
        shutil.copytree(source, tmp_path / "mine" / "train" / name)
    return tmp_path / "mine"


def prepared(raw, output, **options):
    return prepare("tracks_folder", raw, output, clips_per_shard=1, **options)


def test_case_56_a_label_file_names_all_objects_of_one_class(raw, tmp_path):
    assert set(clips_of("tracks_folder", raw, tmp_path / "out")["clip00"].labels) == {"person"}


def test_case_55_mended_raw_data_are_read_again_and_all_bad_clips_are_listed_at_once(raw, tmp_path):
    for name in ("clip00", "clip02"):
        (raw / "train" / name / "caption.txt").rename(raw / "train" / name / "kept")
    with refused("max_bad_share", value=2) as record:
        prepared(raw, tmp_path / "out")
    listed = record.value.table.splitlines()
    assert [name in line for line, name in zip(listed, ("clip00", "clip02"), strict=True)] == [True, True]
    for name in ("clip00", "clip02"):
        (raw / "train" / name / "kept").rename(raw / "train" / name / "caption.txt")
    assert prepared(raw, tmp_path / "out").clips == 3


def interrupted(raw, tmp_path, monkeypatch):
    """Interrupts the preparation of records before it is complete."""
    monkeypatch.setattr(prepare_module, "_finish", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepared(raw, tmp_path / "out")
    monkeypatch.undo()


def test_a_good_clip_that_changes_before_the_records_are_complete_is_read_again(raw, tmp_path, monkeypatch):
    interrupted(raw, tmp_path, monkeypatch)
    (raw / "train" / "clip01" / "caption.txt").write_text("people running")
    assert clips_of("tracks_folder", raw, tmp_path / "out", clips_per_shard=1)["clip01"].caption == "people running"


def test_a_clip_added_or_removed_before_the_records_are_complete_is_noticed(raw, tmp_path, monkeypatch, caplog):
    interrupted(raw, tmp_path, monkeypatch)
    shutil.rmtree(raw / "train" / "clip02")
    assert prepared(raw, tmp_path / "out").clips == 2
    assert "have changed" in caplog.text
    assert len(list((tmp_path / "out").glob("*.tfrecord-*"))) == 2


def test_raw_data_that_change_afterwards_are_noted_and_the_records_stay(raw, tmp_path, caplog):
    before = prepared(raw, tmp_path / "out")
    assert prepared(raw, tmp_path / "out") == before
    assert "have changed" not in caplog.text
    (raw / "train" / "clip01" / "label.txt").write_text("dancer")
    assert prepared(raw, tmp_path / "out") == before
    assert "have changed" in caplog.text


def test_a_video_is_noted_once(tmp_path, shared, caplog):
    shutil.copytree(shared / "field_cases" / "16_vfr_video" / "mine", tmp_path / "raw")
    assert prepared(tmp_path / "raw", tmp_path / "out").clips == 1
    assert caplog.text.count("frame rate varies") == 1


# --- tracks with other frame numbers or fewer frames than the clip ---------------------------------------------------


def test_tracks_may_count_frames_as_numbered_pictures_do(raw, tmp_path):
    folder = raw / "train" / "clip00"
    rows = [row.split(",") for row in (folder / "gt" / "gt.txt").read_text().split()]
    (folder / "gt" / "gt.txt").write_text("\n".join(",".join([str(int(row[0]) + 100), *row[1:]]) for row in rows))
    (folder / "seqinfo.ini").unlink()
    with pytest.raises(BadClip, match="first box is in frame 100"):
        make_source("tracks_folder", raw).clip("train", 0)
    for picture in sorted((folder / "img1").iterdir(), reverse=True):
        picture.rename(picture.with_name(f"{int(picture.stem) + 100:06d}.png"))
    clip = make_source("tracks_folder", raw).clip("train", 0)
    assert (clip.num_frames, bool(clip.mask.all())) == (8, True)
    assert NUMBERED in clip.notes


def test_objects_that_leave_before_the_end_are_absent_and_noted(raw):
    folder = raw / "train" / "clip00"
    rows = (folder / "gt" / "gt.txt").read_text().split()
    (folder / "gt" / "gt.txt").write_text("\n".join(row for row in rows if int(row.split(",")[0]) <= 5))
    (folder / "seqinfo.ini").unlink()
    clip = make_source("tracks_folder", raw).clip("train", 0)
    assert clip.mask.any(axis=1).tolist() == [True] * 5 + [False] * 3
    assert ENDS_EARLY in clip.notes


def test_a_file_of_several_videos_is_named_without_a_flag(raw):
    folder = raw / "train" / "clip00"
    shutil.rmtree(folder / "gt")
    video = {"width": 64, "height": 48, "length": 8}
    content = {"videos": [{"id": 1, **video}, {"id": 2, **video}], "categories": [{"id": 1, "name": "a"}]}
    content["annotations"] = [{"video_id": 1, "category_id": 1, "bboxes": [[1, 2, 3, 4]] * 8}]
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(BadClip) as bad:
        make_source("tracks_folder", raw).clip("train", 0)
    assert "several videos" in bad.value.reason
    assert "--" not in bad.value.reason


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda folder: (folder / "label.txt").unlink(), "label.txt"),
        (lambda folder: (folder / "bbox.txt").write_text("1,2,3,4"), "keep one file"),
    ],
)
def test_messages_speak_of_files_where_no_flag_was_given(raw, edit, word):
    folder = raw / "train" / "clip00"
    rows = (folder / "gt" / "gt.txt").read_text().split()
    (folder / "gt" / "gt.txt").write_text("\n".join(",".join(row.split(",")[:7]) for row in rows))
    edit(folder)
    with pytest.raises(BadClip) as bad:
        make_source("tracks_folder", raw).clip("train", 0)
    assert word in bad.value.reason
    assert "--" not in bad.value.reason
