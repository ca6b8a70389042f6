"""Tests of `smcd prepare` and `smcd inspect`: identical files after interruptions, skipped clips, and refusals."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import builders
from data_pipeline.features import cache
from data_pipeline.records import shards
from data_pipeline.records.contact_sheets import sheet, spread_positions
from data_pipeline.records.frames import StoredFrames, check_frame, decode_frame
from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.report import Report
from data_pipeline.records.runners import Beam, Processes
from data_pipeline.records.schema import BadClip
from smcd_jax.cli import inspect as inspect_command
from smcd_jax.cli import prepare as prepare_command
from smcd_jax.cli.parser import CommandParser
from smcd_jax.errors import SMCDError
from smcd_jax.media import resize_picture
from tests.data_pipeline.raw_data import got10k_sequence, jpeg
from tests.errors import refused

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def misbehaving(monkeypatch):
    monkeypatch.setitem(builders.SOURCES, "misbehaving", "tests.data_pipeline.raw_data:Misbehaving")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_command(command, *arguments) -> int:
    parser = CommandParser(prog="smcd")
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


# --- identical files -------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from data_pipeline import builders
from data_pipeline.records.prepare import prepare
from data_pipeline.records.runners import Processes

if __name__ == "__main__":
    builders.SOURCES["misbehaving"] = "tests.data_pipeline.raw_data:Misbehaving"
    runner = Processes(workers=2)
    settings = {"options": {"clips": 60, "bad": [7]}, "clips_per_shard": 1, "max_bad_share": 0.1}
    prepare("misbehaving", None, Path(sys.argv[1]), runner=runner, **settings)
"""


@contextlib.contextmanager
def preparing(program: Path, output: Path):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, str(program), str(output)], env=environment, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the process and its workers, which share a session
        process.communicate()


def wait_until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


def wait_for_shards(output: Path, count: int) -> None:
    wait_until(lambda: len(list(output.glob("*.tfrecord-*"))) >= count)


def session_members(session: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                if os.getsid(int(entry.name)) == session and "State:\tZ" not in (entry / "status").read_text():
                    members.append(int(entry.name))
    return members


def test_a_killed_prepare_resumes_to_the_same_bytes_and_leaves_no_process(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    prepare(
        "misbehaving",
        None,
        tmp_path / "whole",
        options={"clips": 60, "bad": [7]},
        clips_per_shard=1,
        max_bad_share=0.1,
    )
    output, rng = tmp_path / "killed", random.Random(5)
    already = 0
    for _ in range(3):
        with preparing(program, output) as process:
            wait_for_shards(output, already + rng.randint(1, 15))
            time.sleep(rng.random() * 0.01)
            os.kill(process.pid, signal.SIGKILL)  # kills only the parent; its workers must notice and end
            process.wait()
            wait_until(lambda: not session_members(process.pid), 20)
        already = len(list(output.glob("*.tfrecord-*")))
        assert not (output / "records.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*.tfrecord-*")}
    assert len(kept) == already >= 3
    with preparing(program, output) as process:
        assert process.wait(120) == 0
    assert contents(output) == contents(tmp_path / "whole")
    again = [path.name for path in kept if path.stat().st_mtime_ns != kept[path]]
    assert set(again) <= {"misbehaving-train.tfrecord-00007-of-00060"}  # a resumed run reads the bad clip in it again


def test_workers_do_not_change_the_bytes(tmp_path):
    for workers in (1, 3):
        prepare("misbehaving", None, tmp_path / str(workers), runner=Processes(workers), clips_per_shard=2)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="needs Apache Beam (extra beam)")
@pytest.mark.filterwarnings("default")
def test_beam_writes_the_same_bytes(tmp_path):
    options = {"clips": 6}
    prepare("misbehaving", None, tmp_path / "here", options=options, clips_per_shard=2)
    prepare("misbehaving", None, tmp_path / "beam", options=options, clips_per_shard=2, runner=Beam("direct"))
    assert contents(tmp_path / "here") == contents(tmp_path / "beam")


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is installed")
def test_a_beam_runner_without_apache_beam_is_refused(tmp_path):
    with refused("runner", value="direct"):
        prepare("misbehaving", None, tmp_path / "out", runner=Beam("direct"))


def test_a_shard_without_its_side_file_or_of_another_length_is_written_again(tmp_path, monkeypatch):
    output = tmp_path / "out"
    with refused("max_bad_share", value=1):
        prepare("misbehaving", None, output, options={"bad": [7]}, clips_per_shard=1, max_bad_share=0)
    written = sorted(output.glob("*.tfrecord-*"))
    os.truncate(written[2], 10)
    (output / ".prepare" / f"{written[4].name}.json").unlink()
    (output / ".prepare" / f"{written[5].name}.json").write_text("")
    prepare("misbehaving", None, output, options={"bad": [7]}, clips_per_shard=1, max_bad_share=0.1)
    prepare("misbehaving", None, tmp_path / "whole", options={"bad": [7]}, clips_per_shard=1, max_bad_share=0.1)
    assert contents(output) == contents(tmp_path / "whole")


def test_a_complete_folder_is_only_reported(tmp_path):
    first = prepare("misbehaving", None, tmp_path / "out", options={"bad": [1]}, max_bad_share=0.5)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = prepare("misbehaving", None, tmp_path / "out", options={"bad": [1]}, max_bad_share=0)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_folder_started_with_other_settings_is_refused(tmp_path):
    prepare("misbehaving", None, tmp_path / "out")
    for changes, key in (
        ({"options": {"clips": 9}}, "options"),
        ({"stored": StoredFrames(short_side=32)}, "short_side"),
        ({"stored": StoredFrames(size=(32, 32))}, "frame_size"),
        ({"splits": ["train"]}, "splits"),
        ({"clips_per_shard": 7}, "clips_per_shard"),
    ):
        with refused(key, path=tmp_path / "out"):
            prepare("misbehaving", None, tmp_path / "out", **changes)


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with refused("output", path=tmp_path):
        prepare("misbehaving", None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / ".prepare").mkdir()
    with (tmp_path / ".prepare" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with refused(path=tmp_path / ".prepare" / "lock"):
            prepare("misbehaving", None, tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_clips_beyond_the_allowed_share_are_one_error_that_names_the_first(tmp_path, workers):
    options, runner = {"bad": [2, 5]}, Processes(workers)
    with refused("max_bad_share", value=2) as record:
        prepare("misbehaving", None, tmp_path / "out", options=options, max_bad_share=0.1, runner=runner)
    assert "2 of 10 clips are bad" in str(record.value)
    assert any(clip in str(record.value) for clip in ("train-000002", "train-000005"))


def test_bad_clips_within_the_stated_share_are_counted_and_skipped(tmp_path):
    report = prepare("misbehaving", None, tmp_path / "out", options={"bad": [2, 5]}, max_bad_share=0.2)
    assert report.clips == 8
    assert report.splits["train"].skipped["made bad"].clips == 2
    assert report.splits["train"].skipped["made bad"].examples == ["train-000002: is bad", "train-000005: is bad"]
    assert report.splits["val"].skipped_clips == 0
    assert "train-000002" not in RecordFolder(tmp_path / "out", "train").clip_ids


def test_a_data_set_of_bad_clips_only_is_refused_at_any_share(tmp_path):
    with refused("source", value=2):
        prepare(
            "misbehaving",
            None,
            tmp_path / "out",
            splits=["train"],
            options={"clips": 2, "bad": [0, 1]},
            max_bad_share=1,
        )


def test_empty_shards_are_allowed(tmp_path):
    import tensorflow_datasets as tfds

    output = tmp_path / "out"
    prepare("misbehaving", None, output, options={"bad": [2, 3]}, clips_per_shard=2, max_bad_share=0.5)
    assert [shard.clips for shard in RecordFolder(output, "train").shards] == [2, 0, 2, 2]
    dataset = tfds.builder_from_directory(output).as_dataset(split="train")
    assert len(list(dataset)) == 6


def test_a_clip_that_no_record_can_hold_is_skipped(tmp_path, monkeypatch):
    lengths = [sum(len(jpeg(index * 10 + frame, (160, 120))) for frame in range(1 + index % 3)) for index in range(8)]
    monkeypatch.setattr(shards, "MAX_CLIP_BYTES", lengths[5] - 1)
    report = prepare("misbehaving", None, tmp_path / "out", splits=["train"], max_bad_share=0.5)
    too_long = [index for index in range(8) if lengths[index] >= lengths[5]]
    assert report.splits["train"].skipped["too long"].clips == len(too_long)
    assert report.splits["train"].skipped["too long"].examples[0].startswith(f"train-{too_long[0]:06d}: ")


def test_a_worker_that_dies_is_one_error_and_not_a_hang(tmp_path):
    with refused("workers", value=2):
        prepare("misbehaving", None, tmp_path / "out", options={"deadly": 3}, runner=Processes(2), clips_per_shard=1)


def test_a_full_disk_is_one_error(tmp_path):
    program = tmp_path / "program.py"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    program.write_text(
        limited + PROGRAM.replace("workers=2", "workers=1").replace('"clips_per_shard": 1', '"clips_per_shard": 30')
    )
    with preparing(program, tmp_path / "out") as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"SMCDError: " in error.splitlines()[-1]
    assert b"free disk space" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "argument", "value"),
    [
        ({"splits": ["test"]}, "splits", "test"),
        ({"clips_per_shard": -3}, "clips_per_shard", -3),
        ({"options": {"colour": "red"}}, "options", "colour"),
    ],
)
def test_invalid_settings_are_refused(tmp_path, arguments, argument, value):
    with refused(argument, value=value):
        prepare("misbehaving", None, tmp_path / "out", **arguments)


def test_invalid_frame_sizes_and_numbers_of_workers_are_refused():
    with refused("workers", value=0):
        Processes(workers=0)
    with refused("short_side", value=0):
        StoredFrames(short_side=0)
    with refused("frame_size", value=(32, 0)):
        StoredFrames(size=(32, 0))
    with refused("frame_size", value=None):
        StoredFrames(short_side=32, size=(32, 32))


def test_an_unknown_data_set_or_one_without_its_folder_is_refused(tmp_path):
    with refused("name", value="kinetics"):
        prepare("kinetics", None, tmp_path / "out")
    for name in ("got10k", "youtube_vis", "grounding", "tracks_folder"):
        with refused("source"):
            prepare(name, None, tmp_path / "out")


# --- frames ----------------------------------------------------------------------------------------------------------


def test_frames_are_shrunk_to_the_short_side_and_boxes_stay(tmp_path):
    prepare("misbehaving", None, tmp_path / "whole")
    prepare("misbehaving", None, tmp_path / "small", stored=StoredFrames(short_side=60))
    whole, small = (RecordFolder(tmp_path / name, "train").clip(4) for name in ("whole", "small"))
    assert (small.width, small.height) == (80, 60)
    np.testing.assert_array_equal(small.boxes, whole.boxes)
    picture = decode_frame(small.frames[0])
    assert picture.shape == (60, 80, 3)
    wanted = np.asarray(Image.fromarray(decode_frame(whole.frames[0])).resize((80, 60), Image.Resampling.BILINEAR))
    # the tolerance covers the loss of jpeg at quality 95
    assert np.abs(picture.astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("size", [(64, 64), (320, 200)], ids=["shrunk", "enlarged"])
def test_frames_are_resized_to_exactly_the_frame_size_and_boxes_stay(tmp_path, size):
    prepare("misbehaving", None, tmp_path / "whole")
    stored = StoredFrames(size=size)
    prepare("misbehaving", None, tmp_path / "sized", stored=stored, runner=Processes(2), clips_per_shard=2)
    whole, sized = (RecordFolder(tmp_path / name, "train").clip(4) for name in ("whole", "sized"))
    assert (sized.width, sized.height) == size
    np.testing.assert_array_equal(sized.boxes, whole.boxes)
    wanted = resize_picture(decode_frame(whole.frames[0]), width=size[0], height=size[1])
    # The complete picture is resized without cropping, then stored as jpeg of quality 95.
    assert np.abs(decode_frame(sized.frames[0]).astype(int) - wanted).mean() < 2
    described = json.loads((tmp_path / "sized" / "records.json").read_text())["plan"]
    assert (described["frame_size"], described["jpeg_quality"]) == (list(size), 95)


def test_frames_that_have_the_frame_size_keep_their_bytes(tmp_path):
    prepare("misbehaving", None, tmp_path / "whole")
    prepare("misbehaving", None, tmp_path / "sized", stored=StoredFrames(size=(160, 120)))
    whole, sized = (RecordFolder(tmp_path / name, "train").clip(4) for name in ("whole", "sized"))
    assert sized.frames == whole.frames


def encoded(image: Image.Image, **options) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


PICTURE = Image.fromarray(decode_frame(jpeg(3)))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # Orientation: displayed rotated by 90 degrees


@pytest.mark.parametrize(
    "data",
    [
        jpeg(3),
        encoded(PICTURE, format="PNG"),
        encoded(PICTURE.convert("L"), format="JPEG"),
        encoded(PICTURE.quantize(8), format="PNG"),
    ],
    ids=["jpeg", "png", "grey jpeg", "palette png"],
)
def test_frames_that_all_decoders_read_equally_keep_their_bytes(data):
    import tensorflow as tf

    frame = check_frame(data, "x")
    assert (frame.data, frame.size, frame.recoded) == (data, (64, 48), False)
    ours, theirs = decode_frame(data).astype(int), tf.io.decode_image(data, channels=3).numpy()
    # TensorFlow's fast jpeg decoder does not round colors as Pillow's does, and it does not smooth chroma.
    assert np.abs(ours - theirs).mean() < 2


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (encoded(PICTURE, format="JPEG", exif=TURNED), (48, 64)),
        (encoded(PICTURE.convert("CMYK"), format="JPEG"), (64, 48)),
        (encoded(PICTURE.convert("RGBA"), format="PNG"), (64, 48)),
        (encoded(PICTURE, format="BMP"), (64, 48)),
        (encoded(PICTURE, format="WEBP"), (64, 48)),
    ],
    ids=["turned", "cmyk", "transparent", "bmp", "webp"],
)
def test_other_frames_are_stored_as_png_as_displayed(data, size):
    frame = check_frame(data, "x")
    assert (frame.size, frame.recoded) == (size, True)
    np.testing.assert_array_equal(decode_frame(frame.data), decode_frame(data))


@pytest.mark.parametrize(
    "data", [b"", b"no picture", jpeg(3)[:300], jpeg(3)[:-200], encoded(PICTURE, format="PNG")[:-40]]
)
def test_a_damaged_frame_is_a_bad_clip(data):
    with pytest.raises(BadClip) as bad:
        check_frame(data, "frame 7")
    assert bad.value.kind == "unreadable frame"
    assert bad.value.reason.startswith("frame 7")


# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_prepare_and_draw_a_sheet(tmp_path, capsys):
    boxes = [(8 + 4 * frame, 10, 20, 24) for frame in range(5)]
    got10k_sequence(tmp_path / "raw" / "train" / "GOT-10k_Train_000001", boxes)
    got10k_sequence(tmp_path / "raw" / "train" / "GOT-10k_Train_000002", boxes[:3], cover_label="8\n")
    records = tmp_path / "records"
    arguments = ("got10k", "--source", tmp_path / "raw", "--output", records, "--workers", 1, "--max_bad_share", 0.5)
    assert run_command(prepare_command, *arguments, "--report", tmp_path / "report.json") == 0
    output = capsys.readouterr()
    assert "list.txt" in output.err
    assert "got10k train: 1 clips, 5 frames, 1 objects, 5 boxes" in output.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["splits"]["train"]["skipped"]["bad cover.label"]["clips"] == 1
    assert Report.from_json(report).to_json() == report == json.loads((records / "report.json").read_text())

    path = tmp_path / "sheet.png"
    assert run_command(inspect_command, records, "--output", path, "--height", 96) == 0
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.width >= 5 * 128
        assert picture.height > 96
    assert run_command(inspect_command, records, "--check") == 0
    assert "1 records read, 0 damaged" in capsys.readouterr().out


def test_features_are_made_of_new_and_of_existing_records(tmp_path, capsys):
    records = tmp_path / "records"
    size = ("--height", 32, "--width", 32)
    options = ("--output", records, "--splits", "val", "--features", "tiny", *size, "--workers", 1)
    assert run_command(prepare_command, "misbehaving", *options) == 0
    assert json.loads((records / "report.json").read_text())["splits"]["val"]["frames"] == 3
    assert (records / "features" / "val" / cache.MANIFEST).is_file()
    capsys.readouterr()
    assert run_command(prepare_command, *options) == 0
    assert capsys.readouterr().out == "features: 2 clips, 3 frames, 0 frames unusable\n"
    with refused("name"):
        run_command(prepare_command, "--output", records)


def test_a_sheet_shows_frames_with_boxes_and_omits_unreadable_clips(tmp_path):
    prepare("misbehaving", None, tmp_path / "out", clips_per_shard=1)
    records = RecordFolder(tmp_path / "out", "train")
    os.truncate(records.shards[3].path, 20)
    picture, faults = sheet(records, [2, 3, 5], height=120)
    assert len(faults) == 1
    assert str(records.shards[3].path) in faults[0]
    alone, _ = sheet(records, [2], height=120)
    plain = decode_frame(records.clip(2).frames[0])
    top = alone.shape[0] - 120 - 2
    drawn = alone[top : top + 120, 2 : 2 + 160].astype(int)
    assert np.abs(drawn - plain).max() > 50  # the box is drawn
    assert np.abs(drawn - plain)[60:].max() < 10  # below the box, only the frame
    assert picture.shape[0] > alone.shape[0]
    with refused(path=records.folder, value=1):
        sheet(records, [3])


def test_clips_for_the_sheet_are_spread_over_the_split(tmp_path):
    prepare("misbehaving", None, tmp_path / "out", options={"clips": 9}, splits=["train"])
    records = RecordFolder(tmp_path / "out", "train")
    assert spread_positions(records, 3) == [0, 3, 6]
    assert spread_positions(records, 100) == list(range(9))


@pytest.mark.parametrize(
    ("arguments", "argument", "value"),
    [
        (("--clips", 0), "clips", 0),
        (("--split", "test"), "split", "test"),
        (("--clip", "other"), "clip_id", "other"),
        (("--output", "sheet.gif"), "output", ".gif"),
    ],
)
def test_inspect_refuses_invalid_arguments(tmp_path, arguments, argument, value):
    prepare("misbehaving", None, tmp_path / "out")
    with refused(argument, value=value):
        run_command(inspect_command, tmp_path / "out", *arguments)


def test_prepare_refuses_invalid_arguments(tmp_path):
    command = ("misbehaving", "--output", tmp_path / "out")
    with refused("max_bad_share", value=2):
        run_command(prepare_command, *command, "--max_bad_share", 2)
    with refused("option", value="clips"):
        run_command(prepare_command, *command, "--option", "clips")


@pytest.mark.parametrize("arguments", [["256"], ["0x256"], ["64x64", "--short_side", 64]])
def test_prepare_refuses_invalid_frame_sizes_by_flag(tmp_path, arguments):
    with pytest.raises(SMCDError, match="--frame_size"):
        run_command(prepare_command, "misbehaving", "--output", tmp_path / "out", "--frame_size", *arguments)
