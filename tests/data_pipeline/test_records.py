"""Tests of training records: serialization, reading by position, and records that are damaged or of another kind."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.records.contact_sheets import check_records
from data_pipeline.records.index import index_path
from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RECORDS, RecordFolder
from data_pipeline.records.schema import (
    BadClip,
    Clip,
    clip_to_example,
    deserialize,
    example_to_clip,
    features,
    parse,
    serialize,
)
from data_pipeline.records.tfrecord import crc32c, frame_record
from tests.data_pipeline.raw_data import jpeg
from tests.errors import refused

REPOSITORY = Path(__file__).parents[2]
FRAME = jpeg(0)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12)
LABEL = TEXT.filter(lambda text: text.strip() and len(text.splitlines()) == 1)


def assert_same(one: Clip, other: Clip) -> None:
    for field in dataclasses.fields(Clip):
        if field.name == "notes":  # notes belong to the report and are not stored in the record
            continue
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, field.name


@st.composite
def clips(draw):
    frames = draw(st.integers(1, 4))
    labels = draw(st.lists(LABEL, max_size=3))
    shape = (frames, len(labels))
    mask = np.array(draw(st.lists(st.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])), bool)
    corners = np.random.default_rng(draw(st.integers(0, 99))).random((*shape, 2, 2), np.float32)
    boxes = np.concatenate([corners.min(-2) * 0.5, 0.5 + corners.max(-2) * 0.5], axis=-1)
    width = draw(st.integers(0, 3))
    embeddings = None if width == 0 else np.arange(len(labels) * width, dtype=np.float32).reshape(len(labels), width)
    return Clip(
        clip_id=draw(LABEL),
        caption=draw(TEXT),
        width=64,
        height=48,
        frames=tuple(FRAME + bytes([frame]) for frame in range(frames)),
        boxes=boxes,
        mask=mask.reshape(shape),
        labels=tuple(labels),
        label_embeddings=embeddings,
    )


def a_clip(**changes) -> Clip:
    """Returns a clip of two frames and two objects, the second of which is absent from the first frame."""
    values = {
        "clip_id": "clip",
        "caption": "двое",
        "width": 64,
        "height": 48,
        "frames": (FRAME, jpeg(1)),
        "boxes": np.array([[[0, 0, 0.5, 1], [9, 9, 9, 9]], [[0, 0, 0.5, 1], [0.25, 0.5, 1, 0.75]]]),
        "mask": np.array([[1, 0], [1, 1]]),
        "labels": ("a dog", "猫"),
    }
    return Clip(**{**values, **changes})


# --- a clip and its bytes --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(clips())
def test_a_clip_survives_serialization(clip):
    assert_same(deserialize(b"".join(serialize(clip))), clip)


@settings(deadline=None, max_examples=20)
@given(clips())
def test_the_first_part_of_a_record_is_a_record_without_frames(clip):
    head, _ = serialize(clip)
    example = parse(head)
    assert example["frames"] == []
    assert_same(example_to_clip({**example, "frames": clip.frames}), clip)


def test_tfds_serializes_to_an_equal_record_and_reads_ours():
    import tensorflow as tf

    clip = a_clip(label_embeddings=np.ones((2, 3)))
    assert_same(deserialize(features().serialize_example(clip_to_example(clip))), clip)
    decoded = features().deserialize_example(tf.constant(b"".join(serialize(clip))))
    assert decoded["frames"].shape == (2, 48, 64, 3)
    np.testing.assert_array_equal(decoded["boxes"], clip.boxes)
    np.testing.assert_array_equal(decoded["mask"], clip.mask)
    assert [label.decode() for label in decoded["labels"].numpy()] == list(clip.labels)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_embeddings": np.ones((2, 3))},
        {"boxes": np.zeros((2, 0, 4)), "mask": np.zeros((2, 0)), "labels": (), "caption": ""},
    ],
)
def test_records_are_the_bytes_that_tfds_writes(changes):
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    clip = a_clip(**changes)
    whole = ExampleSerializer(features().get_serialized_info()).get_tf_example(
        features().encode_example(clip_to_example(clip))
    )
    frames = type(whole)()
    frames.features.feature["frames"].CopyFrom(whole.features.feature["frames"])
    del whole.features.feature["frames"]
    assert serialize(clip) == tuple(part.SerializeToString(deterministic=True) for part in (whole, frames))


def test_records_are_the_same_bytes_in_every_process():
    # By default, hashes of strings and thus the order of entries in a protocol buffer's map differ between processes.
    code = (
        "import hashlib; from data_pipeline.records.schema import serialize; "
        "from tests.data_pipeline.test_records import a_clip; "
        "print(hashlib.sha256(b''.join(serialize(a_clip()))).hexdigest())"
    )
    digests = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
        )
        digests.add(run.stdout)
    assert len(digests) == 1


def test_absent_boxes_are_zeros_and_arrays_cannot_be_changed():
    clip = a_clip()
    np.testing.assert_array_equal(clip.boxes[0, 1], 0)
    with pytest.raises(ValueError, match="read-only"):
        clip.boxes[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"frames": ()}, "no frame"),
        ({"frames": (FRAME, b"GIF89a")}, "unreadable frame"),
        ({"frames": (FRAME,)}, "shapes do not fit"),
        ({"mask": np.ones((2, 1))}, "shapes do not fit"),
        ({"labels": ("a dog",)}, "shapes do not fit"),
        ({"labels": ("a dog", " ")}, "label is not text"),
        ({"labels": ("a dog", 7)}, "label is not text"),
        ({"caption": None}, "caption is not text"),
        ({"clip_id": ""}, "no clip id"),
        ({"clip_id": "two\nlines"}, "no clip id"),
        ({"width": -64}, "size is not positive"),
        ({"boxes": np.full((2, 2, 4), np.nan)}, "bad box"),
        ({"boxes": np.tile([0.5, 0.5, 0.25, 0.75], (2, 2, 1))}, "bad box"),
        ({"boxes": np.tile([0.5, 0.5, 0.75, 1.5], (2, 2, 1))}, "bad box"),
        ({"label_embeddings": np.ones((3, 4))}, "bad label embeddings"),
        ({"label_embeddings": np.full((2, 4), np.inf)}, "bad label embeddings"),
    ],
)
def test_a_clip_that_cannot_be_trained_on_is_refused(changes, kind):
    with pytest.raises(BadClip) as bad:
        a_clip(**changes)
    assert bad.value.kind == kind


def test_a_record_of_another_schema_version_is_named():
    example = {**clip_to_example(a_clip()), "schema_version": 7}
    with pytest.raises(BadClip) as bad:
        deserialize(features().serialize_example(example))
    assert bad.value.kind == "another schema version"
    assert "clip" in bad.value.reason


@pytest.mark.parametrize("record", [b"", b"\xff\xff\xff", b"".join(serialize(a_clip()))[:-40], serialize(a_clip())[1]])
def test_bytes_other_than_a_record_are_refused(record):
    with pytest.raises(BadClip) as bad:
        deserialize(record)
    assert bad.value.kind == "not a record"


def test_a_bad_clip_keeps_its_kind_between_processes():
    error = pickle.loads(pickle.dumps(BadClip("what and where", kind="sort")))
    assert (error.reason, error.kind) == ("what and where", "sort")


@pytest.mark.parametrize(
    ("data", "checksum"),
    [  # from RFC 3720, appendix B.4; the last is the usual check value of CRC-32C
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_the_checksum_of_tfrecord_is_the_published_one(data, checksum):
    assert crc32c(data) == checksum


def test_tensorflow_accepts_the_framing_of_records_of_any_length(tmp_path):
    import tensorflow as tf

    # Sizes close to the chunk size of 512 bytes, and sizes whose number of chunks is not a power of two.
    sizes = [0, 1, 511, 512, 513, 1023, 1024, 1536, 2560, 100_001]
    records = [np.random.default_rng(size).bytes(size) for size in sizes]
    (tmp_path / "file").write_bytes(b"".join(map(frame_record, records)))
    assert list(tf.data.TFRecordDataset(str(tmp_path / "file")).as_numpy_iterator()) == records


# --- a folder of records ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of twelve `train` clips in four shards and two `val` clips, with one to three frames each."""
    output = tmp_path_factory.mktemp("records") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            __import__("data_pipeline.builders").builders.SOURCES,
            "misbehaving",
            "tests.data_pipeline.raw_data:Misbehaving",
        )
        prepare("misbehaving", None, output, options={"clips": 12}, clips_per_shard=3)
    return output


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of `folder` that a test may damage."""
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_any_clip_is_read_by_position_and_by_id(folder):
    records = RecordFolder(folder, "train")
    assert len(records) == 12
    assert records.index["frames"].tolist() == [1, 2, 3] * 4
    for position in (11, 0, 7):
        clip = records.clip(position)
        assert clip.clip_id == f"train-{position:06d}" == records.clip_ids[position]
        assert records.position(clip.clip_id) == position
        assert clip.frames == tuple(jpeg(position * 10 + frame, (160, 120)) for frame in range(1 + position % 3))
    with refused("clip_id", path=folder, value="elsewhere"):
        records.position("elsewhere")


def test_a_window_is_the_slice_of_its_clip(folder):
    records = RecordFolder(folder, "train")
    whole, window = records.clip(5), records.window(5, 1, 2)
    assert window.frames == whole.frames[1:]
    np.testing.assert_array_equal(window.boxes, whole.boxes[1:])
    assert window.labels == whole.labels
    for start, count in ((0, 4), (-1, 2), (2, 0)):
        with pytest.raises(IndexError):
            records.window(5, start, count)


def test_threads_and_other_processes_may_share_a_folder(folder):
    records = pickle.loads(pickle.dumps(RecordFolder(folder, "train")))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(records.clip, list(range(12)) * 4))
    assert [clip.clip_id for clip in read] == list(records.clip_ids) * 4


def test_tfds_reads_the_folder(folder):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 12, "val": 2}
    records = RecordFolder(folder, "train")
    dataset = builder.as_dataset(split="train", decoders={"frames": tfds.decode.SkipDecoding()})
    read = {clip.clip_id: clip for clip in map(example_to_clip, tfds.as_numpy(dataset))}
    assert set(read) == set(records.clip_ids)
    for position in range(12):
        assert_same(read[records.clip_ids[position]], records.clip(position))


def test_tfrecord_checksums_hold_and_the_index_points_at_the_data(folder):
    import tensorflow as tf

    records = RecordFolder(folder, "train")
    data = [
        record for shard in records.shards for record in tf.data.TFRecordDataset(str(shard.path)).as_numpy_iterator()
    ]
    assert [len(record) for record in data] == records.index["length"].tolist()
    content = records.shards[1].path.read_bytes()
    offset, length = records.index["offset"][4], records.index["length"][4]
    assert content[offset : offset + length] == data[4]


def test_a_truncated_shard_loses_records_up_to_the_allowed_share(copy):
    shard = RecordFolder(copy, "train").shards[2]
    end_of_first = RecordFolder(copy, "train").index["offset"][7] - 12
    os.truncate(shard.path, end_of_first + 5)
    with refused("max_bad_share", path=shard.path, value=2):
        RecordFolder(copy, "train")
    records = RecordFolder(copy, "train", max_bad_share=0.2)
    assert (records.lost, len(records)) == (2, 10)
    assert [records.clip(position).clip_id for position in range(10)] == [
        f"train-{number:06d}" for number in (0, 1, 2, 3, 4, 5, 6, 9, 10, 11)
    ]


def test_a_missing_shard_is_counted_like_a_truncated_one(copy):
    shard = RecordFolder(copy, "train").shards[0]
    shard.path.unlink()
    with refused("max_bad_share", path=shard.path, value=3):
        RecordFolder(copy, "train", max_bad_share=0.2)
    assert RecordFolder(copy, "train", max_bad_share=0.25).clip_ids[0] == "train-000003"


def test_a_file_truncated_while_it_is_read_is_a_bad_clip(copy):
    records = RecordFolder(copy, "train")
    os.truncate(records.shards[0].path, 40)
    with pytest.raises(BadClip) as bad:
        records.clip(0)
    assert bad.value.kind == "truncated record file"


@pytest.mark.parametrize("where", ["frame", "head"])
def test_a_flipped_bit_is_noticed_where_it_is_read(copy, where):
    records = RecordFolder(copy, "train")
    place = (
        records.index["frame_offset"][records.first_frame[5] + 2] if where == "frame" else records.index["offset"][5]
    )
    with records.shards[1].path.open("rb+") as file:
        file.seek(int(place) + 30)
        byte = file.read(1)[0]
        file.seek(int(place) + 30)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BadClip) as bad:
        records.window(5, 2, 1)
    assert bad.value.kind == "wrong checksum"
    assert bad.value.reason.startswith(f"{records.shards[1].path}: train-000005: ")
    assert records.clip(4).clip_id == "train-000004"
    with refused(path=records.shards[1].path):
        records.verify()
    with refused("max_bad_share", path=copy, value=1):
        check_records(records)
    assert check_records(records, max_bad_share=0.1) == {"wrong checksum": 1}


def test_a_file_longer_than_written_is_refused(copy):
    shard = RecordFolder(copy, "train").shards[0]
    with shard.path.open("ab") as file:
        file.write(b"more")
    with refused(path=shard.path, value=shard.size + 4):
        RecordFolder(copy, "train", max_bad_share=1.0)


def change_manifest(folder: Path, **changes) -> None:
    content = json.loads((folder / RECORDS).read_text())
    (folder / RECORDS).write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "argument", "value"),
    [
        ({"format": "other"}, "format", "other"),
        ({"version": 2}, "version", 2),
        ({"schema_version": 9}, "schema_version", 9),
        ({"splits": ["train"]}, "splits", ["train"]),
        ({"splits": {"train": [1]}}, "shards", None),
        ({"splits": {"train": {"shards": [{"file": 7}]}}}, "shards", None),
        ({"name": None}, "name", None),
    ],
)
def test_a_folder_of_another_kind_is_refused(copy, changes, argument, value):
    change_manifest(copy, **changes)
    with refused(argument, path=copy / RECORDS, value=value):
        RecordFolder(copy, "train")


def test_a_split_that_the_folder_lacks_is_refused(folder):
    with refused("split", path=folder, value="test"):
        RecordFolder(folder, "test")


def test_a_folder_without_records_or_with_incomplete_ones_is_refused(copy, tmp_path):
    with refused(path=tmp_path / RECORDS):
        RecordFolder(tmp_path, "train")
    (copy / RECORDS).unlink()
    (copy / ".prepare").mkdir()
    with refused(path=copy / ".prepare"):
        RecordFolder(copy, "train")
    (copy / RECORDS).write_text("[1, 2")
    with refused() as record:
        RecordFolder(copy, "train")
    assert str(copy / RECORDS) in str(record.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "of another split"])
def test_a_damaged_index_is_refused(copy, damage):
    path = index_path(copy, "train")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:200] if damage == "truncated" else index_path(copy, "val").read_bytes())
    with refused(path=path):
        RecordFolder(copy, "train")
