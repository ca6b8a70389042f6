"""Tests of WebVid: rows of CSV files, strided video windows, the center crop, and frame rates in training batches."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from data_pipeline.batches import Batches
from data_pipeline.builders import make_source
from data_pipeline.builders.webvid import center_crop
from data_pipeline.examples import ExampleSize
from data_pipeline.order.permutation import OrderState
from data_pipeline.records.frames import decode_frame
from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from data_pipeline.sources import VideoSource
from smcd_jax.media import write_video
from smcd_jax.models.dynamicrafter.config import TINY
from smcd_jax.models.registry import make_model
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.training.config import DataConfig
from smcd_jax.training.data import open_source, stored_shapes
from tests.data_pipeline.raw_data import clips_of
from tests.data_pipeline.test_records import assert_same
from tests.data_pipeline.test_tfds_builders import load
from tests.errors import refused

HEADER = ("videoid", "contentUrl", "duration", "page_dir", "name")
SMALL = {"frames": 4, "height": 16, "width": 32}
FPS = 12


def video(path, frames: int, *, size=(24, 48)) -> None:
    """Writes a video whose frame k has brightness 4 k."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.arange(frames, dtype=np.uint8) * 4
    write_video(np.broadcast_to(levels[:, None, None, None], (frames, *size, 3)), path, fps=FPS)


def row(videoid: str, caption: str = "waves", page_dir: str = "000001_000050") -> tuple[str, ...]:
    return (videoid, "https://example.org/clip", "PT00H00M18S", page_dir, caption)


def raw(folder, rows, *, name="results_2M_train.csv", header=HEADER):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return folder


def frame_numbers(clip) -> list[int]:
    return [round(decode_frame(frame).mean() / 4) for frame in clip.frames]


def test_clips_are_windows_with_one_stride_and_its_frame_rate(tmp_path):
    raw(tmp_path / "raw", [row("7", 'a dog, "running"\nfast')])
    video(tmp_path / "raw" / "videos" / "000001_000050" / "7.mp4", 40)
    clips = clips_of("webvid", tmp_path / "raw", tmp_path / "out", options={**SMALL, "clips_per_video": 30})
    assert list(clips) == [f"7-{number:02d}" for number in range(30)]
    strides, starts = set(), set()
    for clip in clips.values():
        numbers = frame_numbers(clip)
        [stride] = set(np.diff(numbers))
        strides.add(int(stride))
        starts.add(numbers[0])
        assert (clip.num_frames, clip.width, clip.height, clip.num_objects) == (4, 32, 16, 0)
        assert clip.caption == 'a dog, "running"\nfast'
        assert clip.frame_rate == FPS // stride
    assert strides == {1, 2, 3, 4, 5, 6}
    assert len(starts) > 10


def test_a_short_video_gets_the_largest_stride_that_fits_and_a_shorter_one_is_skipped(tmp_path):
    raw(tmp_path / "raw", [row("a"), row("b")])
    for name, frames in (("a", 9), ("b", 3)):
        video(tmp_path / "raw" / "videos" / "000001_000050" / f"{name}.mp4", frames)
    source = make_source("webvid", tmp_path / "raw", **SMALL, clips_per_video=20)
    strides = {int(np.diff(frame_numbers(source.clip("train", index)))[0]) for index in range(20)}
    assert strides == {1, 2}  # at stride 2, 4 of 9 frames fit; larger strides are reduced to 9 // 4 = 2
    with pytest.raises(BadClip) as bad:
        source.clip("train", 20)
    assert bad.value.kind == "fewer frames than a clip"


def test_draws_depend_on_seed_and_video_alone(tmp_path):
    folder = raw(tmp_path / "raw", [row("a")])
    video(folder / "videos" / "000001_000050" / "a.mp4", 40)
    first = [make_source("webvid", folder, **SMALL, seed=seed).clip("train", 0) for seed in range(8)]
    raw(folder, [row("0"), row("a", "other"), row("z")])
    for name in "0z":
        video(folder / "videos" / "000001_000050" / f"{name}.mp4", 4)
    again = [make_source("webvid", folder, **SMALL, seed=seed).clip("train", 1) for seed in range(8)]
    assert [clip.frames for clip in first] == [clip.frames for clip in again]
    assert len({clip.frames for clip in first}) > 4


def test_rows_left_out_are_counted_by_reason(tmp_path):
    rows = [row("a"), row("b", ""), row("a"), row("c", page_dir=" "), row("gone"), ("d", "u", "", "000001_000050", "x")]
    raw(tmp_path, [*rows, ("e",)])
    for name in "abcd":
        video(tmp_path / "videos" / "000001_000050" / f"{name}.mp4", 4)
    source = make_source("webvid", tmp_path, **SMALL)
    assert source.clip_ids("train") == ("a-00", "d-00")  # empty cells in unused columns do not matter
    report = source.validate()
    assert report.clips == {"train": 2}
    counts = {note.rsplit(": ", 1)[0].split("have ")[1]: note.rsplit(": ", 1)[1] for note in report.notes}
    assert counts == {
        "an empty cell among page_dir, videoid, name": "3 of 7",
        "the videoid of an earlier row": "1 of 7",
        "no file in videos": "1 of 7",
    }


def test_the_last_word_of_a_file_name_is_its_split(tmp_path):
    raw(tmp_path, [row("a")], name="results_2M_train.csv")
    raw(tmp_path, [row("b")], name="results_2M_val.csv")
    raw(tmp_path, [row("c")], name="more.csv")
    for name in "abc":
        video(tmp_path / "videos" / "000001_000050" / f"{name}.mp4", 4)
    source = make_source("webvid", tmp_path, **SMALL)
    assert {split: source.clip_ids(split) for split in source.splits} == {"train": ("a-00", "c-00"), "val": ("b-00",)}


@pytest.mark.parametrize("size", [(24, 48), (48, 48), (20, 61)])
def test_the_crop_is_centered_and_keeps_the_aspect_ratio(size):
    h, w = size
    picture = np.zeros((h, w, 3), np.uint8)
    picture[h // 2 :, :, 0], picture[:, w // 2 :, 1] = 255, 255
    made = center_crop(picture, height=16, width=32)
    assert made.shape == (16, 32, 3)
    # The edge between the halves stays in the middle, up to one pixel of rounding.
    assert abs(made[:, 0, 0].astype(float).mean() / 255 - 0.5) < 1.1 / 16
    assert abs(made[0, :, 1].astype(float).mean() / 255 - 0.5) < 1.1 / 32


@pytest.mark.parametrize(
    ("option", "value"),
    [("frames", 0), ("max_stride", 0), ("height", 1.5), ("width", True), ("clips_per_video", 101), ("seed", -1)],
)
def test_options_out_of_range_are_refused(tmp_path, option, value):
    raw(tmp_path, [row("a")])
    with refused(option, value=value):
        make_source("webvid", tmp_path, **{option: value})


def test_folders_that_cannot_be_prepared_are_one_error(tmp_path):
    with refused("source", path=tmp_path):
        make_source("webvid", tmp_path)
    raw(tmp_path, [("a", "x")], header=("videoid", "name"))
    with refused("page_dir", path=tmp_path / "results_2M_train.csv"):
        make_source("webvid", tmp_path)
    raw(tmp_path, [row("a")])
    with refused("source", path=tmp_path / "videos"):
        prepare("webvid", tmp_path, tmp_path / "out")


def test_load_of_tfds_gives_the_same_clips_without_their_frame_rates(tmp_path):
    raw(tmp_path / "raw", [row("a"), row("b")])
    for name in "ab":
        video(tmp_path / "raw" / "videos" / "000001_000050" / f"{name}.mp4", 20)
    loaded = load("webvid", tmp_path, tmp_path / "raw", options=SMALL)
    prepared = clips_of("webvid", tmp_path / "raw", tmp_path / "out", options=SMALL)
    assert loaded.keys() == prepared.keys()
    for clip_id, clip in loaded.items():
        assert_same(clip, dataclasses.replace(prepared[clip_id], frame_rate=None))


def test_training_reads_the_frame_rate_of_each_clip(tmp_path):
    raw(tmp_path / "raw", [row(str(number)) for number in range(4)])
    for number in range(4):
        video(tmp_path / "raw" / "videos" / "000001_000050" / f"{number}.mp4", 40)
    clips = clips_of("webvid", tmp_path / "raw", tmp_path / "out", options=SMALL)
    config = DataConfig(records=(str(tmp_path / "out"),), inputs="video", frames=4, batch_size=4, frame_rate=True)
    model = make_model(dataclasses.replace(TINY, frames=4, height=16, width=32))
    source = open_source(config, model, None, tmp_path / "out", "train")
    stream = Batches([source], 4).iterate(OrderState(0))
    batch = next(stream)
    stream.close()
    found = batch.arrays["frame_rate"]
    assert stored_shapes(config, model)["frame_rate"].shape == found.shape == (4,)
    assert sorted(found) == sorted(clip.frame_rate for clip in clips.values())
    assert len(set(found)) > 1


def test_frame_rates_need_records_and_a_model_that_have_them(tmp_path):
    prepare("sprites", None, tmp_path, options={"train_clips": 1, "val_clips": 0, "test_clips": 0})
    with refused("frame_rate", path=tmp_path):
        VideoSource(RecordFolder(tmp_path, "train"), ExampleSize(), tokenizer=Tokenizer.published(), frame_rate=True)
    by_stride = make_model(dataclasses.replace(TINY, reads_stride=True))
    for model, inputs in ((by_stride, "video"), (make_model(TINY), "features")):
        with refused("data.frame_rate", value=True):
            open_source(DataConfig(inputs=inputs, frame_rate=True), model, None, tmp_path, "train")
