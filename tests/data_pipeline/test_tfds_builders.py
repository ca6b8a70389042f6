"""Tests of the TensorFlow Datasets builders: `tfds.load` returns the clips that `smcd prepare` writes."""

from __future__ import annotations

from data_pipeline.builders import SOURCES
from data_pipeline.records.schema import example_to_clip
from tests.data_pipeline.raw_data import clips_of, got10k_sequence
from tests.data_pipeline.test_records import assert_same
from tests.errors import refused

BOXES = [(8.5, 10, 20, 24), (12.25, 10, 20, 24), (-3, 4, 20, 24)]


def load(name: str, tmp_path, raw, **builder):
    import tensorflow_datasets as tfds

    import data_pipeline.builders.tfds_builders  # noqa: F401 -- registers the builders

    config = tfds.download.DownloadConfig(manual_dir=raw)
    dataset = tfds.load(
        name,
        split="train",
        data_dir=tmp_path / "tfds",
        builder_kwargs=builder,
        download_and_prepare_kwargs={"download_config": config},
        decoders={"frames": tfds.decode.SkipDecoding()},
    )
    return {clip.clip_id: clip for clip in map(example_to_clip, tfds.as_numpy(dataset))}


def raw_got10k(tmp_path):
    for number in (1, 2, 3):
        got10k_sequence(tmp_path / "raw" / "train" / f"GOT-10k_Train_{number:06d}", BOXES[:number], seed=number)
    return tmp_path / "raw"


def test_every_source_has_a_builder_of_its_name():
    import tensorflow_datasets as tfds

    import data_pipeline.builders.tfds_builders  # noqa: F401 -- registers the builders

    for name in SOURCES:
        assert tfds.builder_cls(name).name == name


def test_load_gives_the_clips_that_prepare_writes(tmp_path):
    raw = raw_got10k(tmp_path)
    loaded, prepared = load("got10k", tmp_path, raw), clips_of("got10k", raw, tmp_path / "out")
    assert loaded.keys() == prepared.keys()
    for clip_id, clip in loaded.items():
        assert_same(clip, prepared[clip_id])


def test_load_skips_bad_clips_up_to_the_stated_share(tmp_path):
    raw = raw_got10k(tmp_path)
    (raw / "train" / "GOT-10k_Train_000002" / "00000001.jpg").unlink()
    assert len(load("got10k", tmp_path, raw, max_bad_share=0.5)) == 2
    with refused("max_bad_share", value=1):
        load("got10k", tmp_path / "other", raw)
