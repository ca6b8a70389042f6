"""Tests of the feature cache: contents, resuming, refusals, and cached training examples."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.batches import Batches
from data_pipeline.benchmark import InputBenchmark, measure_input, table
from data_pipeline.examples import ExampleSize
from data_pipeline.features import writer
from data_pipeline.features.cache import FeatureCache
from data_pipeline.features.encoder_identity import encoder_identity
from data_pipeline.features.source import FeatureSource
from data_pipeline.features.writer import FeatureEncoders, split_parts, write_features
from data_pipeline.order.permutation import OrderState
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from data_pipeline.sources import VideoSource
from smcd_jax.cli.features import model_encoders, prepare_features
from smcd_jax.media import to_model_range
from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.networks import network
from smcd_jax.tokenizer import Tokenizer
from tests.data_pipeline import moving_squares as squares
from tests.errors import refused

ENCODERS = ("autoencoder", "text_encoder")
IDENTITY = {"autoencoder": "a" * 64, "text_encoder": "b" * 64, "tokenizer": "c" * 64}
SIZE = ExampleSize(frames=4, height=squares.SIDE, width=squares.SIDE, objects=2)
REPOSITORY = Path(__file__).parents[2]


def numbers_of(texts: list[str], width: int) -> np.ndarray:
    """Returns a row of random numbers for each text, with the text as their seed."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
    return np.stack([np.random.default_rng(seed).standard_normal(width, np.float32) for seed in seeds])


def made_encoders(**changes) -> FeatureEncoders:
    """Returns encoders with the frame at 1/8 size as mean and -2 as log-variance; embeddings depend on the text."""

    def moments(frames: np.ndarray) -> np.ndarray:
        small = frames[:, ::8, ::8].astype(np.float32)
        mean = np.concatenate([small, np.ones((*small.shape[:3], 1), np.float32)], axis=-1)
        return np.stack([mean, np.full_like(mean, -2)], axis=1)

    values = {
        "identity": IDENTITY,
        "precision": "float32",
        "height": squares.SIDE,
        "width": squares.SIDE,
        "scaling_factor": 0.5,
        "frame_batch": 7,
        "text_batch": 3,
        "moments": moments,
        "texts": lambda texts: numbers_of(texts, 5 * 6).reshape(-1, 5, 6),
        "labels": lambda texts: numbers_of(texts, 6),
    }
    return FeatureEncoders(**values | changes)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> RecordFolder:
    return squares.square_records(tmp_path_factory.mktemp("squares") / "records")


@pytest.fixture(scope="module")
def cache_folder(records, tmp_path_factory) -> Path:
    """The folder of a cache that has three parts."""
    folder = tmp_path_factory.mktemp("features") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_CLIPS", 5)
        report = write_features(records, folder, made_encoders(), progress=False)
    assert (report.clips, report.frames, report.unusable) == (12, sum(squares.length(clip) for clip in range(12)), 0)
    return folder


def open_cache(folder: Path) -> FeatureCache:
    return FeatureCache(folder, encoders=IDENTITY)


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != ".lock"}


def take(batches: Batches, state: OrderState, count: int) -> list:
    stream = batches.iterate(state)
    taken = list(islice(stream, count))
    stream.close()
    return taken


def half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def test_every_window_of_the_cache_equals_the_encoded_records(records, cache_folder):
    cache = open_cache(cache_folder)
    assert len(list(cache_folder.glob("part-*.data"))) == 3
    assert cache.clip_ids == records.clip_ids
    assert cache.num_frames.tolist() == [squares.length(index) for index in range(12)]
    np.testing.assert_array_equal(cache.null_text, numbers_of([" "], 30).reshape(5, 6).astype(np.float16))
    for index in range(12):
        for start in (0, squares.length(index) - 2):
            moments, text = np.zeros((2, 2, 2, 2, 4), np.float16), np.zeros((5, 6), np.float16)
            window = cache.read(index, start, moments=moments, text=text)
            clip = records.window(index, start, 2)
            for offset in range(2):
                assert (moments[offset, 0, ..., :3] == squares.pixel(index, start + offset)).all()
                assert (moments[offset, 1] == -2).all()
            np.testing.assert_array_equal(text, numbers_of([clip.caption], 30).reshape(5, 6).astype(np.float16))
            np.testing.assert_array_equal(window.boxes, clip.boxes)
            np.testing.assert_array_equal(window.mask, clip.mask)
            assert window.labels.shape == (squares.objects(index), 6)
            if clip.labels:
                np.testing.assert_array_equal(window.labels, numbers_of(list(clip.labels), 6).astype(np.float16))


def test_the_cached_path_gives_the_clips_windows_and_boxes_of_the_decoded_path(records, cache_folder):
    tokenizer, state = Tokenizer.published(), OrderState(8, 0, 3)
    decoded = take(Batches([VideoSource(records, SIZE, tokenizer=tokenizer)], 5), state, 6)
    cached = take(Batches([FeatureSource(open_cache(cache_folder), SIZE)], 5), state, 6)
    for one, other in zip(decoded, cached, strict=True):
        assert one.clip_ids == other.clip_ids
        assert one.state == other.state
        np.testing.assert_array_equal(one.starts, other.starts)
        for name in ("boxes", "mask"):
            np.testing.assert_array_equal(one.arrays[name], other.arrays[name])
        assert {name: (array.shape, array.dtype.name) for name, array in other.arrays.items()} == {
            "latents": ((5, 4, 2, 2, 4), "float32"),
            "text": ((5, 5, 6), "float32"),
            "boxes": ((5, 4, 2, 4), "float32"),
            "mask": ((5, 4, 2), "float32"),
            "labels": ((5, 2, 6), "float32"),
        }
        for row, clip_id in enumerate(other.clip_ids):
            caption = f"clip number {int(clip_id[-3:])}"
            np.testing.assert_array_equal(other.arrays["text"][row], half(numbers_of([caption], 30)).reshape(5, 6))


def test_latents_are_scaled_samples_from_the_posterior(cache_folder):
    """The noise in n latents, divided by its deviation exp(-1), has mean 0 within 5 / sqrt(n) and variance 1."""
    source = FeatureSource(open_cache(cache_folder), SIZE)
    noise = []
    for batch in take(Batches([source], 12), OrderState(0), 40):
        for row, (clip_id, start) in enumerate(zip(batch.clip_ids, batch.starts.tolist(), strict=True)):
            for offset in range(4):
                mean = np.array([*squares.pixel(int(clip_id[-3:]), start + offset), 1], np.float32)
                noise.append((batch.arrays["latents"][row, offset] / 0.5 - mean) / np.exp(-1))
    noise = np.concatenate(noise).ravel()
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs((noise**2).mean() - 1) < 5 * np.sqrt(2 / noise.size)
    assert len(np.unique(noise)) > 0.9 * noise.size


def test_the_sample_depends_on_the_position_alone(cache_folder):
    source = FeatureSource(open_cache(cache_folder), SIZE)
    [first, second] = take(Batches([source], 12), OrderState(0), 2)
    [again] = take(Batches([source], 12, threads=1), first.state, 1)
    np.testing.assert_array_equal(again.arrays["latents"], second.arrays["latents"])
    halves = [take(Batches([source], 12, rows=rows), OrderState(0), 1)[0] for rows in (range(6), range(6, 12))]
    whole = np.concatenate([part.arrays["latents"] for part in halves])
    np.testing.assert_array_equal(whole, first.arrays["latents"])


def interrupted(records: RecordFolder, folder: Path, at: int) -> None:
    """Interrupts the writer inside the encoder, like Ctrl-C."""
    calls = 0

    def moments(frames: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return made_encoders().moments(frames)

    with pytest.raises(KeyboardInterrupt):
        write_features(records, folder, made_encoders(moments=moments), progress=False)


@pytest.mark.parametrize("at", [2, 12, 18])
def test_an_interrupted_cache_is_refused_and_resumes_to_the_same_bytes(
    records, cache_folder, tmp_path, at, monkeypatch
):
    monkeypatch.setattr(writer, "PART_CLIPS", 5)
    folder = tmp_path / "cache"
    interrupted(records, folder, at)
    with refused("complete", path=folder, value=False):
        open_cache(folder)
    encoded = []

    def moments(frames: np.ndarray) -> np.ndarray:
        encoded.append(len(frames))
        return made_encoders().moments(frames)

    write_features(records, folder, made_encoders(moments=moments), progress=False)
    assert contents(folder) == contents(cache_folder)
    # Complete parts are not encoded again; one more picture, a blank one, is encoded to determine the shapes.
    frames = [squares.length(clip) for clip in range(12)]
    done = {2: 0, 12: sum(frames[:5]), 18: sum(frames[:10])}[at]
    assert sum(encoded) == sum(frames) - done + 1


def test_a_killed_writer_leaves_a_cache_that_resumes_to_the_same_bytes(records, cache_folder, tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom data_pipeline.features import writer\n"
        "from data_pipeline.records.reader import RecordFolder\n"
        "from tests.data_pipeline.test_features import made_encoders\n"
        "writer.PART_CLIPS = 5\n"
        "def moments(frames, count=[0]):\n"
        "    count[0] += 1\n"
        "    return os._exit(9) if count[0] == 12 else made_encoders().moments(frames)\n"
        "records = RecordFolder(sys.argv[1], 'train')\n"
        "writer.write_features(records, Path(sys.argv[2]), made_encoders(moments=moments), progress=False)\n"
    )
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", script, str(records.folder), str(folder)]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 9
    assert list(folder.glob(".smcd-*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PART_CLIPS", 5)
        write_features(records, folder, made_encoders(), progress=False)
    assert contents(folder) == contents(cache_folder)


def test_a_finished_cache_is_only_reported(records, cache_folder, monkeypatch):
    monkeypatch.setattr(writer, "PART_CLIPS", 5)
    before = contents(cache_folder)
    encoded = []
    encoders = made_encoders(texts=lambda texts: encoded.extend(texts) or made_encoders().texts(texts))
    report = write_features(records, cache_folder, encoders, progress=False)
    assert (report.clips, report.unusable) == (12, 0)
    assert encoded == [" "]
    assert contents(cache_folder) == before


def test_a_cache_of_other_encoders_is_refused_by_name(records, cache_folder):
    other = IDENTITY | {"text_encoder": "d" * 64}
    hashes = "text_encoder bbbbbbbbbbbb, not dddddddddddd"
    with refused("encoders", path=cache_folder, value=hashes):
        FeatureCache(cache_folder, encoders=other)
    with refused("encoders", path=cache_folder, value=hashes):
        write_features(records, cache_folder, made_encoders(identity=other), progress=False)


def test_a_cache_is_not_continued_with_other_settings(records, cache_folder, tmp_path):
    with refused("precision", path=cache_folder, value="bfloat16"):
        write_features(records, cache_folder, made_encoders(precision="bfloat16"), progress=False)
    other = squares.square_records(tmp_path / "records", clips=3)
    with refused("records", path=cache_folder):
        write_features(other, cache_folder, made_encoders(), progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with refused("output", path=tmp_path / "full"):
        write_features(records, tmp_path / "full", made_encoders(), progress=False)


def test_a_cache_of_another_size_or_a_missing_cache_is_refused(cache_folder, tmp_path):
    with refused("size", path=cache_folder, value=(32, 16)):
        FeatureSource(open_cache(cache_folder), dataclasses.replace(SIZE, width=32))
    with refused(path=tmp_path / "feature_cache.json"):
        open_cache(tmp_path)
    copy = copy_of(cache_folder, tmp_path / "copy")
    manifest = json.loads((copy / "feature_cache.json").read_text())
    (copy / "feature_cache.json").write_text(json.dumps(manifest | {"version": 2}))
    with refused("version", path=copy / "feature_cache.json", value=2):
        open_cache(copy)


@pytest.mark.parametrize("name", ["part-00001.data", "part-00001.npz", "null_text.npy"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_cache_that_lacks_bytes_is_refused(cache_folder, tmp_path, name, cut):
    file = copy_of(cache_folder, tmp_path / "copy") / name
    file.write_bytes(file.read_bytes()[:-100]) if cut else file.unlink()
    with refused(path=file):
        open_cache(tmp_path / "copy")


def test_changed_features_are_noticed_and_replaced(cache_folder, tmp_path):
    copy = copy_of(cache_folder, tmp_path / "copy")
    content = bytearray((copy / "part-00000.data").read_bytes())
    content[-1] ^= 1  # in the last caption of the first part, which belongs to clip 4
    (copy / "part-00000.data").write_bytes(bytes(content))
    batches = Batches([FeatureSource(open_cache(copy), SIZE)], 12, max_bad_share=0.1)
    [batch] = take(batches, OrderState(0), 1)
    assert not any(clip_id.endswith("clip-004") for clip_id in batch.clip_ids)
    assert list(batches.bad_clips.reasons[0]) == ["clip-004"]


def test_an_unreadable_frame_affects_only_its_windows(records, tmp_path):
    shutil.copytree(records.folder, tmp_path / "records")
    copy = RecordFolder(tmp_path / "records", "train")
    squares.damage_frame(copy, 4, 15)
    folder = tmp_path / "cache"
    with refused("max_bad_share", value=1):
        write_features(copy, folder, made_encoders(), max_bad_share=0.001, progress=False)
    report = write_features(copy, folder, made_encoders(), max_bad_share=0.01, progress=False)
    assert report.unusable == 1
    assert list(report.reasons) == ["clip-004"]
    cache, text = open_cache(folder), np.zeros((5, 6), np.float16)
    cache.read(4, 11, moments=np.zeros((4, 2, 2, 2, 4), np.float16), text=text)
    with pytest.raises(BadClip) as bad:
        cache.read(4, 12, moments=np.zeros((4, 2, 2, 2, 4), np.float16), text=text)
    assert bad.value.kind == "no features"


def test_an_encoder_that_gives_nan_writes_nothing(records, tmp_path):
    encoders = made_encoders(moments=lambda frames: made_encoders().moments(frames) * np.nan)
    with refused("moments"):
        write_features(records, tmp_path / "cache", encoders, progress=False)
    assert not list((tmp_path / "cache").glob("part-*"))


def test_two_writers_do_not_share_a_folder(records, tmp_path):
    def second(frames: np.ndarray) -> np.ndarray:
        with refused(path=tmp_path / "cache" / ".lock"):
            write_features(records, tmp_path / "cache", made_encoders(), progress=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(records, tmp_path / "cache", made_encoders(moments=second), progress=False)


def test_a_part_holds_as_many_clips_as_fit(monkeypatch):
    monkeypatch.setattr(writer, "PART_FRAMES", 10)
    monkeypatch.setattr(writer, "PART_CLIPS", 3)
    lengths = np.array([4, 6, 1, 25, 2, 2, 2, 2], np.int32)
    assert split_parts(lengths) == [range(0, 2), range(2, 3), range(3, 4), range(4, 7), range(7, 8)]
    assert split_parts(np.array([], np.int32)) == []


def test_features_of_a_model_are_the_outputs_of_its_networks(records, tmp_path):
    """The tolerance covers float16's relative rounding error of 2^-11 and another summation order on 8 devices."""
    folder = ModelFolder("tiny")
    [report] = prepare_features(records.folder, "tiny", output=tmp_path, height=32, width=32, progress=False)
    assert report.unusable == 0
    cache = FeatureCache(tmp_path / "train", encoders=encoder_identity(folder.path, ENCODERS))
    assert cache.manifest["scaling_factor"] == folder.config.autoencoder.scaling_factor
    moments, text = np.zeros((3, 2, 8, 8, 4), np.float16), np.zeros((77, 64), np.float16)
    window = cache.read(7, 2, moments=moments, text=text)

    frames = np.empty((3, 32, 32, 3), np.uint8)
    for offset in range(3):
        frames[offset] = squares.pixel(7, 2 + offset)
    autoencoder, params = network(folder.config.autoencoder), folder.params("autoencoder", dtype=np.float32)
    posterior = jax.jit(lambda pictures: autoencoder.apply({"params": params}, pictures, method="posterior"))(
        to_model_range(frames)
    )
    tolerance = {"rtol": 2e-3, "atol": 2e-3}
    np.testing.assert_allclose(moments[:, 0], posterior.mean, **tolerance)
    np.testing.assert_allclose(moments[:, 1], posterior.log_variance, **tolerance)

    text_encoder, text_params = network(folder.config.text_encoder), folder.params("text_encoder", dtype=np.float32)
    tokens = jnp.asarray(folder.tokenizer().encode(["clip number 7", " "]))
    encoded = text_encoder.apply({"params": text_params}, tokens)
    np.testing.assert_allclose(text, encoded[0], **tolerance)
    np.testing.assert_allclose(cache.null_text, encoded[1], **tolerance)
    labels = jnp.asarray(folder.tokenizer().encode([f"thing {number}" for number in range(3)]))
    embedded = text_encoder.apply({"params": text_params}, labels, method="label_embedding")
    np.testing.assert_allclose(window.labels, embedded, **tolerance)


def test_encoders_take_any_number_up_to_a_batch_and_use_all_devices():
    encoders = model_encoders(ModelFolder("tiny"), height=16, width=16)
    assert encoders.frame_batch == 8 * jax.local_device_count()
    frames = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8)
    whole = encoders.moments(frames)
    assert whole.shape == (11, 2, 4, 4, 4)
    np.testing.assert_allclose(encoders.moments(frames[3:4]), whole[3:4], rtol=1e-5, atol=1e-5)


def test_training_the_unet_keeps_the_identity_of_an_encoder_and_training_it_does_not(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(ModelFolder("tiny").path, model)
    before = encoder_identity(model, ENCODERS)
    assert set(before) == {"autoencoder", "text_encoder", "tokenizer"}
    sums = json.loads((model / "checksums.json").read_text())
    for component, changed in (("unet", set()), ("autoencoder", {"autoencoder"})):
        name = next(name for name in sums if name.startswith(component))
        (model / "checksums.json").write_text(json.dumps(sums | {name: "0" * 64}))
        after = encoder_identity(model, ENCODERS)
        assert {name for name in before if after[name] != before[name]} == changed
    with refused(path=tmp_path / "model.json"):
        encoder_identity(tmp_path, ENCODERS)


def test_every_path_of_the_benchmark_delivers_clips(tmp_path):
    settings = InputBenchmark(
        ExampleSize(frames=2, height=32, width=32, objects=2),
        batch=2,
        clips=2,
        length=3,
        raw_width=96,
        raw_height=64,
        rounds=2,
        seconds=0.05,
    )
    speeds = measure_input(settings, tmp_path)
    assert [speed.name for speed in speeds] == [
        "plain loop",
        "decoded",
        "decoded, short side",
        "decoded, original size",
        "cached",
    ]
    for speed in speeds:
        assert speed.clips > 0
        assert speed.seconds >= 0.1
        assert speed.core_seconds > 0
    assert table(speeds)[1].endswith(" 1.0")


@pytest.mark.slow
def test_the_pipeline_is_faster_than_the_plain_loop_by_the_documented_factor(tmp_path):
    speeds = {speed.name: speed for speed in measure_input(InputBenchmark(), tmp_path)}
    plain = speeds["plain loop"].clips_per_core_second
    assert speeds["decoded"].clips_per_core_second >= 5 * plain
    assert speeds["cached"].clips_per_core_second >= 50 * plain
