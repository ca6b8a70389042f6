"""Tests of decoded batches: contents, damaged clips, crops, objects, devices, and evaluation lists."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from PIL import Image

from data_pipeline.batches import Batches, HostBatch, host_rows
from data_pipeline.evaluation_lists import make_evaluation_list, read_evaluation_list
from data_pipeline.examples import ExampleSize
from data_pipeline.order.permutation import OrderState, fold
from data_pipeline.prefetch import batch_sharding, local_rows, prefetch_to_device
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from data_pipeline.sources import VideoSource
from data_pipeline.transforms import MIN_VISIBLE, Crop, choose_objects, crop_boxes, decode_frame, random_crop
from smcd_jax.media import resize_picture
from smcd_jax.tokenizer import Tokenizer
from tests.data_pipeline import moving_squares as squares
from tests.errors import refused

REPOSITORY = Path(__file__).parents[2]
TOKENIZER = Tokenizer.published()
SIZE = ExampleSize(frames=4, height=squares.SIDE, width=squares.SIDE, objects=2)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> RecordFolder:
    return squares.square_records(tmp_path_factory.mktemp("squares") / "records")


def video_source(records: RecordFolder, size: ExampleSize = SIZE, **options) -> VideoSource:
    return VideoSource(records, size, tokenizer=TOKENIZER, **options)


def take(batches: Batches, state: OrderState, count: int) -> list[HostBatch]:
    stream = batches.iterate(state)
    taken = list(islice(stream, count))
    stream.close()
    return taken


def assert_equal(one: HostBatch, other: HostBatch) -> None:
    assert one.clip_ids == other.clip_ids
    assert one.state == other.state
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)


def joined(parts: list[HostBatch]) -> HostBatch:
    """Joins the rows of several hosts' batches into one batch."""
    return HostBatch(
        {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays},
        tuple(clip_id for part in parts for clip_id in part.clip_ids),
        np.concatenate([part.starts for part in parts]),
        parts[0].state,
    )


def test_rows_hold_the_frames_boxes_and_texts_of_their_clip_and_window(records):
    batches = Batches([video_source(records)], 6, threads=2)
    for batch in take(batches, OrderState(1), 4):
        assert batch.arrays["video"].dtype == np.uint8
        assert batch.arrays["token_ids"].dtype == batch.arrays["label_ids"].dtype == np.int32
        assert batch.arrays["boxes"].dtype == batch.arrays["mask"].dtype == np.float32
        for row, (clip_id, start) in enumerate(zip(batch.clip_ids, batch.starts.tolist(), strict=True)):
            index = int(clip_id.removeprefix("squares (train): clip-"))
            check_row({name: array[row] for name, array in batch.arrays.items()}, index, start)
    assert batches.counts["examples"] >= 24


def check_row(row: dict[str, np.ndarray], index: int, start: int) -> None:
    window = range(start, start + 4)
    for frame, picture in zip(window, row["video"], strict=True):
        assert (picture == squares.pixel(index, frame)).all()
    np.testing.assert_array_equal(row["token_ids"], TOKENIZER.encode([f"clip number {index}"])[0])
    count = squares.objects(index)
    # Number 1 is absent from half of the frames, the others from none; later objects are larger.
    kept = {0: [], 1: [0], 2: [0, 1], 3: [0, 2]}[count]
    for place, number in enumerate(kept):
        np.testing.assert_array_equal(row["label_ids"][place], TOKENIZER.encode([f"thing {number}"])[0])
        for offset, frame in enumerate(window):
            present = number != 1 or frame % 2 == 0
            assert row["mask"][offset, place] == present
            wanted = squares.box(index, frame, number) if present else np.zeros(4)
            np.testing.assert_array_equal(row["boxes"][offset, place], wanted)
    for name in ("mask", "boxes"):
        assert not row[name][:, len(kept) :].any()
    assert not row["label_ids"][len(kept) :].any()


@pytest.mark.parametrize("hosts", [2, 4])
def test_all_hosts_together_load_the_batch_of_one_host(records, hosts):
    state = OrderState(3, 0, 5)
    alone = take(Batches([video_source(records, crop_keep=0.9)], 8), state, 4)
    parts = [
        take(Batches([video_source(records, crop_keep=0.9)], 8, rows=host_rows(8, host=host, hosts=hosts)), state, 4)
        for host in range(hosts)
    ]
    for step, whole in enumerate(alone):
        assert_equal(joined([part[step] for part in parts]), whole)


def test_a_batch_holds_the_state_of_the_next_batch(records):
    batches = Batches([video_source(records, crop_keep=0.9)], 5)
    whole = take(batches, OrderState(4), 6)
    for step in (1, 4):
        resumed = take(Batches([video_source(records, crop_keep=0.9)], 5), whole[step - 1].state, 2)
        for one, other in zip(resumed, whole[step : step + 2], strict=True):
            assert_equal(one, other)


def test_the_number_of_threads_changes_nothing(records):
    for one, other in zip(
        take(Batches([video_source(records)], 4, threads=1), OrderState(0), 5),
        take(Batches([video_source(records)], 4, threads=5), OrderState(0), 5),
        strict=True,
    ):
        assert_equal(one, other)


BACKENDS = ("tensorflow", "threads")


def test_a_thread_pool_loads_the_bytes_of_tensorflow_in_the_same_order_and_resumes_where_it_stopped(records):
    tensorflow, threads = (
        take(Batches([video_source(records, crop_keep=0.9)], 5, threads=3, backend=backend), OrderState(4), 12)
        for backend in BACKENDS
    )
    for one, other in zip(tensorflow, threads, strict=True):
        assert_equal(one, other)
        assert {name: array.tobytes() for name, array in one.arrays.items()} == {
            name: array.tobytes() for name, array in other.arrays.items()
        }
    [resumed] = take(Batches([video_source(records, crop_keep=0.9)], 5, backend="threads"), tensorflow[6].state, 1)
    assert_equal(resumed, tensorflow[7])


def test_without_tensorflow_a_thread_pool_loads_records(records, monkeypatch):
    [wanted] = take(Batches([video_source(records)], 4), OrderState(2), 1)
    for package in ("tensorflow", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    [batch] = take(Batches([video_source(records)], 4), OrderState(2), 1)
    assert_equal(batch, wanted)


def test_a_stream_of_a_thread_pool_that_is_closed_leaves_no_thread(records):
    before = threading.active_count()
    take(Batches([video_source(records)], 4, threads=3, backend="threads"), OrderState(0), 2)
    assert threading.active_count() == before


def test_a_held_clip_repeats_its_last_frame_with_its_boxes(records):
    size = ExampleSize(frames=6, height=16, width=16, objects=2)
    batches = Batches([video_source(records, size)], 12, short_clips="hold")
    [batch] = take(batches, OrderState(0), 1)
    row = next(row for row, clip_id in enumerate(batch.clip_ids) if clip_id.endswith("clip-010"))  # 4 frames, 2 objects
    assert batch.starts[row] == 0
    for offset, frame in enumerate([0, 1, 2, 3, 3, 3]):
        assert (batch.arrays["video"][row, offset] == squares.pixel(10, frame)).all()
        np.testing.assert_array_equal(batch.arrays["boxes"][row, offset, 0], squares.box(10, frame, 0))
    assert not batch.arrays["mask"][row, 3:, 1].any()


def test_clips_left_out_are_reported(records, caplog):
    Batches([video_source(records, ExampleSize(frames=10, height=16, width=16))], 1)
    assert "squares (train): 6 of 12 clips are shorter than 10 frames and are left out" in caplog.text


def test_objects_over_the_limit_are_counted(records):
    examples = Batches([video_source(records)], 1).sequence.at(OrderState(0), range(12))
    batches = Batches([video_source(records)], 12)
    batches.load(examples)
    too_many = sum(squares.objects(int(clip)) == 3 for clip in examples.clips)
    assert too_many > 0
    assert batches.counts["objects dropped"] == too_many


def test_objects_present_most_then_largest_are_kept_in_their_order():
    mask = np.array([[1, 1, 1, 0, 1], [0, 1, 1, 0, 1]], bool)
    sides = np.array([0.9, 0.2, 0.1, 0.9, 0.3], np.float32)
    boxes = np.zeros((2, 5, 4), np.float32)
    boxes[..., 2:] = sides[:, None]
    assert choose_objects(boxes, mask, 2)[0].tolist() == [1, 4]  # 0 is large, but present in only one frame
    assert choose_objects(boxes, mask, 3) == (pytest.approx([1, 2, 4]), 1)
    assert choose_objects(boxes, mask, 5)[0].tolist() == [0, 1, 2, 4]  # 3 is never present
    assert choose_objects(boxes[:, :0], mask[:, :0], 2)[0].size == 0


def test_objects_of_equal_rank_are_kept_in_the_order_of_the_record():
    boxes, mask = np.tile(np.array([0, 0, 0.5, 0.5], np.float32), (3, 6, 1)), np.ones((3, 6), bool)
    assert choose_objects(boxes, mask, 4)[0].tolist() == [0, 1, 2, 3]


def damaged_copy(records: RecordFolder, folder, damage: list[tuple[int, int]]) -> RecordFolder:
    shutil.copytree(records.folder, folder)
    copy = RecordFolder(folder, "train")
    for clip, frame in damage:
        squares.damage_frame(copy, clip, frame)
    return RecordFolder(folder, "train")


def test_a_damaged_clip_is_replaced_alike_on_any_number_of_hosts_and_no_other_row_changes(records, tmp_path, caplog):
    copy = damaged_copy(records, tmp_path / "copy", [(5, frame) for frame in range(squares.length(5))])
    state = OrderState(0)
    whole = take(Batches([video_source(records)], 8), state, 3)
    batches = Batches([video_source(copy)], 8, max_bad_share=0.1)
    alone = take(batches, state, 3)
    parts = [
        take(Batches([video_source(copy)], 8, rows=host_rows(8, host=host, hosts=2), max_bad_share=0.1), state, 3)
        for host in range(2)
    ]
    replaced = 0
    for step in range(3):
        assert_equal(joined([part[step] for part in parts]), alone[step])
        for row, clip_id in enumerate(whole[step].clip_ids):
            if clip_id.endswith("clip-005"):
                replaced += 1
                assert not alone[step].clip_ids[row].endswith("clip-005")
                index = int(alone[step].clip_ids[row][-3:])
                check_row({name: a[row] for name, a in alone[step].arrays.items()}, index, alone[step].starts[row])
            else:
                assert alone[step].clip_ids[row] == clip_id
                for name, array in whole[step].arrays.items():
                    np.testing.assert_array_equal(alone[step].arrays[name][row], array[row])
    assert replaced >= 2
    assert batches.counts["examples substituted"] >= replaced
    assert [list(reasons) for reasons in batches.bad_clips.reasons] == [["clip-005"]]
    assert "clip-005" in caplog.text


def test_only_windows_over_a_damaged_frame_are_replaced(records, tmp_path):
    copy = damaged_copy(records, tmp_path / "copy", [(4, 15)])  # the last of 16 frames
    source = video_source(copy)
    row = {name: np.zeros(spec.shape, spec.dtype) for name, spec in source.specs().items()}
    source.fill(row, clip=4, start=11, key=np.uint64(0))
    check_row(row, 4, 11)
    with pytest.raises(BadClip) as bad:
        source.fill(row, clip=4, start=12, key=np.uint64(0))
    assert bad.value.kind == "wrong checksum"


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_damage_than_allowed_ends_the_run_with_one_line(records, tmp_path, backend):
    copy = damaged_copy(records, tmp_path / "copy", [(clip, 3) for clip in range(0, 12, 5)])
    with refused("max_bad_share") as record:
        take(Batches([video_source(copy)], 4, max_bad_share=0.1, backend=backend), OrderState(0), 20)
    assert record.value.value in (2, 3)


class LateDamage(VideoSource):
    """Raises an error for clip 5, but only after its whole row has been written."""

    def fill(self, row, *, clip, start, key):
        dropped = super().fill(row, clip=clip, start=start, key=key)
        if clip == 5:
            for array in row.values():
                array[...] = 9
            raise BadClip("clip-005: is damaged")
        return dropped


def test_a_substituted_row_keeps_nothing_of_the_damaged_clip(records):
    source = LateDamage(records, SIZE, tokenizer=TOKENIZER)
    for batch in take(Batches([source], 12, max_bad_share=0.1), OrderState(0), 8):
        for row, clip_id in enumerate(batch.clip_ids):
            arrays = {name: array[row] for name, array in batch.arrays.items()}
            check_row(arrays, int(clip_id[-3:]), batch.starts[row])


def test_only_damaged_clips_end_the_run_in_one_error_without_a_traceback(records, tmp_path, capfd):
    every_frame = [(clip, frame) for clip in range(12) for frame in range(squares.length(clip))]
    copy = damaged_copy(records, tmp_path / "copy", every_frame)
    with refused("sources", value=16):
        take(Batches([video_source(copy)], 4, max_bad_share=1.0), OrderState(0), 1)
    assert "Traceback" not in capfd.readouterr().err


def natural_picture(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def test_frames_are_resized_as_pictures_are():
    picture = natural_picture(48, 80)
    frame = squares.jpeg(picture)
    wanted = resize_picture(np.array(Image.open(io.BytesIO(frame))), height=32, width=32)
    np.testing.assert_array_equal(decode_frame(frame, height=32, width=32), wanted)


def test_a_large_jpeg_decoded_at_reduced_size_is_close_to_a_resized_one():
    """Half-size decoding averages in the frequency domain; 40 dB is a root mean square error of 2.55 out of 255."""
    frame = squares.jpeg(natural_picture(360, 640))
    exact = resize_picture(np.array(Image.open(io.BytesIO(frame))), height=128, width=128)
    error = decode_frame(frame, height=128, width=128).astype(float) - exact
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 40


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.floats(0.5, 1))
def test_a_crop_keeps_its_share_and_aspect_and_lies_within_the_picture(key, keep):
    crop = random_crop(np.uint64(key), keep)
    width, height = crop.x2 - crop.x1, crop.y2 - crop.y1
    assert 0 <= crop.x1 < crop.x2 <= 1
    assert 0 <= crop.y1 < crop.y2 <= 1
    assert width == pytest.approx(height)
    assert keep - 1e-9 <= width * height <= 1 + 1e-9


def test_crops_vary_and_are_pure():
    crops = [random_crop(fold(number), 0.9) for number in range(1000)]
    assert crops == [random_crop(fold(number), 0.9) for number in range(1000)]
    areas = np.array([(crop.x2 - crop.x1) ** 2 for crop in crops])
    # Areas are uniform in 0.9..1; their mean has a standard deviation of 0.001.
    assert areas.mean() == pytest.approx(0.95, abs=0.005)
    assert areas.min() < 0.905
    assert areas.max() > 0.995


@pytest.mark.parametrize("key", range(5))
def test_boxes_follow_the_crop(key):
    """The box matches the position of a white rectangle to within a pixel, because resizing blurs its edges."""
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[50:150, 120:280] = 255
    box = np.array([[[120 / 400, 50 / 200, 280 / 400, 150 / 200]]], np.float32)
    crop = random_crop(fold(key), 0.6)
    moved, mask = crop_boxes(box, np.ones((1, 1), bool), crop)
    seen = decode_frame(squares.jpeg(picture), height=100, width=100, crop=crop)[..., 0] > 127
    columns, rows = np.flatnonzero(seen.any(0)), np.flatnonzero(seen.any(1))
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert mask.all()
    np.testing.assert_allclose(moved[0, 0] * 100, found, atol=1.0)


def test_an_object_mostly_out_of_the_crop_is_absent():
    boxes = np.array([[[0, 0, 0.4, 1], [0.45, 0, 0.9, 1], [0, 0, 0.6, 1]]], np.float32)
    moved, mask = crop_boxes(boxes, np.ones((1, 3), bool), Crop(0.5, 0.0, 1.0, 0.5))
    # Visible: nothing; 0.4/0.45 of the width and half of the height; a sixth of the width and half of the height.
    assert MIN_VISIBLE == 0.25
    assert mask.tolist() == [[False, True, False]]
    np.testing.assert_allclose(moved[0, 1], [0, 0, 0.8, 1], rtol=1e-6)
    assert not moved[0, [0, 2]].any()


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: b"\xff\xd8\xff" + bytes(40)])
def test_a_picture_that_cannot_be_decoded_is_a_bad_clip(spoil):
    with pytest.raises(BadClip) as bad:
        decode_frame(spoil(squares.jpeg(natural_picture(64, 64))), height=16, width=16, where="clip x, frame 3")
    assert bad.value.kind == "unreadable frame"
    assert bad.value.reason.startswith("clip x, frame 3: ")


def test_data_sets_mix_by_weight(records, tmp_path):
    other = squares.square_records(tmp_path / "other", clips=7, prefix="other")
    batches = Batches([video_source(records), video_source(other)], 10, weights=[1, 4], epoch_length=50)
    taken = take(batches, OrderState(0), 5)
    names = [clip_id.removeprefix("squares (train): ")[:4] for batch in taken for clip_id in batch.clip_ids]
    assert (names.count("clip"), names.count("othe")) == (10, 40)
    assert taken[-1].state == OrderState(0, 1, 0)


def mesh(*shape: int) -> jax.sharding.Mesh:
    names = ("data", "fsdp", "tensor")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))


@pytest.mark.parametrize("shape", [(8,), (2, 4), (2, 2, 2), (1, 1, 8)])
def test_batches_reach_the_devices_in_order_whole_and_split_over_the_mesh(records, shape):
    batches = Batches([video_source(records)], 8)
    wanted = take(batches, OrderState(2), 4)
    devices = mesh(*shape)
    assert local_rows(devices, 8) == range(8)
    placed = list(prefetch_to_device(iter(wanted), devices, 8))
    assert len(placed) == 4
    for one, other in zip(placed, wanted, strict=True):
        for array in one.arrays.values():
            assert array.sharding == batch_sharding(devices)
            assert array.addressable_shards[0].data.shape[0] == 8 // int(np.prod(shape[:2]))
        assert_equal(one, other)


def test_prefetching_is_ahead_by_the_requested_number_of_batches(records):
    pulled = []

    def counted():
        for batch in Batches([video_source(records)], 8).iterate(OrderState(0)):
            pulled.append(batch.state)
            yield batch

    stream = counted()
    ahead = prefetch_to_device(stream, mesh(8), 8, ahead=3)
    assert next(ahead).state == pulled[0]
    assert len(pulled) == 4
    ahead.close()
    stream.close()


_PROCESS = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
port, process, folder, backend = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(process))
from itertools import islice
import numpy as np
from data_pipeline.order.permutation import OrderState
from data_pipeline.prefetch import local_rows, prefetch_to_device
from data_pipeline.records.reader import RecordFolder
from tests.data_pipeline.test_batches import Batches, mesh, video_source
devices = mesh(4)
rows = local_rows(devices, 8)
assert (rows.start, rows.stop) == (4 * int(process), 4 * int(process) + 4), rows
# More threads than cores and an open stream: the program must end although threads are still running.
sources = [video_source(RecordFolder(folder, "train"))]
batches = Batches(sources, 8, rows=rows, threads=8, backend=backend).iterate(OrderState(6))
for step, batch in enumerate(islice(prefetch_to_device(batches, devices, 8), 2)):
    for name, array in batch.arrays.items():
        assert array.shape[0] == 8
        for shard in array.addressable_shards:
            np.save(f"{folder}/{step}-{name}-{shard.index[0].start}.npy", np.asarray(shard.data))
"""


def test_two_processes_hold_the_batch_of_one_process(records, tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(records.folder, folder)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, port, str(process), str(folder), backend], cwd=REPOSITORY)
        for process, backend in enumerate(("tensorflow", "threads"))
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    for step, batch in enumerate(take(Batches([video_source(records)], 8), OrderState(6), 2)):
        for name, array in batch.arrays.items():
            parts = [np.load(folder / f"{step}-{name}-{start}.npy") for start in range(0, 8, 2)]
            np.testing.assert_array_equal(np.concatenate(parts), array)


def test_an_evaluation_list_depends_on_its_seed_and_contains_its_hash(records, tmp_path):
    made = make_evaluation_list(records, frames=4, count=6, seed=1)
    assert made == make_evaluation_list(records, frames=4, count=6, seed=1)
    assert made.sha256 != make_evaluation_list(records, frames=4, count=6, seed=2).sha256
    assert len({entry.clip_id for entry in made.entries}) == 6
    assert made.entries[:3] == make_evaluation_list(records, frames=4, count=3, seed=1).entries
    read = read_evaluation_list(made.write(tmp_path / "list.json"))
    assert read == made
    assert json.loads((tmp_path / "list.json").read_text())["sha256"] == made.sha256


def test_a_changed_evaluation_list_is_refused(records, tmp_path):
    path = make_evaluation_list(records, frames=4).write(tmp_path / "list.json")
    content = json.loads(path.read_text())
    content["entries"][3]["start"] += 1
    path.write_text(json.dumps(content))
    with refused("sha256", path=path):
        read_evaluation_list(path)
    path.write_text("[]")
    with refused("format", path=path):
        read_evaluation_list(path)


def test_an_evaluation_list_of_more_clips_than_there_are_is_refused(records):
    with refused("count", path=records.folder, value=13):
        make_evaluation_list(records, frames=4, count=13)


def test_invalid_arguments_are_refused(records):
    source = video_source(records)
    for argument, value, call in (
        ("crop_keep", 1.5, lambda: video_source(records, crop_keep=1.5)),
        ("sources", 0, lambda: Batches([], 4)),
        ("global_batch", 0, lambda: Batches([source], 0)),
        ("rows", range(2, 6), lambda: Batches([source], 4, rows=range(2, 6))),
        ("max_bad_share", 2, lambda: Batches([source], 4, max_bad_share=2)),
        ("objects", 0, lambda: ExampleSize(objects=0)),
        ("position", 99, lambda: next(Batches([source], 4).iterate(OrderState(0, 0, 99)))),
        ("global_batch", 12, lambda: local_rows(mesh(8), 12)),
    ):
        with refused(argument, value=value):
            call()
    with refused("sources", value=("video",)):
        Batches([source, video_source(records, ExampleSize(4, 8, 8, 2))], 4)
