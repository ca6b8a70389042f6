"""Tests of GLIGEN's TSV files: boxes, labels from the caption, embeddings, the line index, and damaged lines."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from data_pipeline.builders import make_source
from data_pipeline.records.prepare import prepare
from data_pipeline.records.schema import BadClip
from tests.data_pipeline.raw_data import SIZE, clips_of, grounding_item, grounding_shard, jpeg
from tests.errors import refused

CAPTION = "Eine Frau mit grünem Hut führt 犬 aus"
OBJECTS = [("Eine Frau", [8.5, 10, 20, 24]), ("犬", [50, 40, 30, 30])]


def items(count: int) -> list[dict]:
    return [grounding_item(number, CAPTION, OBJECTS) for number in range(count)]


def test_image_boxes_labels_embeddings_and_caption_are_those_of_the_line(tmp_path):
    embeddings = np.random.default_rng(0).standard_normal((2, 768)).astype(np.float32)
    grounding_shard(
        tmp_path / "raw" / "flickr" / "train-00.tsv", [grounding_item(7, CAPTION, OBJECTS, embeddings=embeddings)]
    )
    clip = clips_of("grounding", tmp_path / "raw", tmp_path / "out")["flickr/train-00:000000000"]
    assert clip.frames == (jpeg(7),)
    assert (clip.width, clip.height) == SIZE
    assert clip.caption == CAPTION
    assert clip.labels == ("Eine Frau", "犬")
    assert clip.mask.all()
    np.testing.assert_array_equal(clip.label_embeddings, embeddings)
    # boxes are stored in 0..1 as float32; the second one crosses the border
    np.testing.assert_allclose(clip.boxes[0] * np.tile(SIZE, 2), [[8.5, 10, 28.5, 34], [50, 40, 64, 48]], atol=1e-5)


def test_a_name_in_pieces_is_joined_and_many_objects_are_kept(tmp_path):
    item = grounding_item(0, "two dogs, one brown and one white", [("one brown", [1, 1, 5, 5])] * 40)
    item["annos"][0]["tokens_positive"] = [[4, 8], [28, 33]]
    grounding_shard(tmp_path / "raw" / "train-00.tsv", [item])
    clip = clips_of("grounding", tmp_path / "raw", tmp_path / "out")["train-00:000000000"]
    assert clip.labels == ("dogs white", *["one brown"] * 39)
    assert clip.label_embeddings is None


def test_detection_data_are_named_by_their_categories(tmp_path):
    item = grounding_item(0, "x", [("x", [1, 1, 5, 5]), ("x", [2, 2, 5, 5])], is_det=True)
    del item["caption"]
    for annotation, name in zip(item["annos"], ("lamp", "table"), strict=True):
        annotation["category_name"] = name
    grounding_shard(tmp_path / "raw" / "o365.tsv", [item])
    clip = clips_of("grounding", tmp_path / "raw", tmp_path / "out")["o365:000000000"]
    assert (clip.caption, clip.labels) == ("lamp, table", ("lamp", "table"))


def test_an_image_without_objects_is_a_clip(tmp_path):
    grounding_shard(tmp_path / "raw" / "train-00.tsv", [grounding_item(0, "an empty street", [])])
    clip = clips_of("grounding", tmp_path / "raw", tmp_path / "out")["train-00:000000000"]
    assert (clip.boxes.shape, clip.labels, clip.caption) == ((1, 0, 4), (), "an empty street")


def test_shards_of_all_folders_are_found_and_ids_name_shard_and_line(tmp_path):
    grounding_shard(tmp_path / "sbu" / "train-01.tsv", items(3))
    grounding_shard(tmp_path / "flickr" / "train-00.tsv", items(2))
    source = make_source("grounding", tmp_path)
    assert source.clip_ids("train") == [
        "flickr/train-00:000000000",
        "flickr/train-00:000000001",
        "sbu/train-01:000000000",
        "sbu/train-01:000000001",
        "sbu/train-01:000000002",
    ]
    for index in range(5):
        assert source.clip("train", index).clip_id == source.clip_ids("train")[index]
        assert source.clip("train", index).frames == (jpeg(index if index < 2 else index - 2),)


@pytest.mark.parametrize("index", ["right", None, "", "0\n5\n", "0\nfive\n", "0\n900000000\n", "5\n"])
def test_a_line_index_that_does_not_fit_is_recomputed_and_reported(tmp_path, index):
    grounding_shard(tmp_path / "train-00.tsv", items(3), index=index)
    source = make_source("grounding", tmp_path)
    assert [source.clip("train", number).frames for number in range(3)] == [(jpeg(number),) for number in range(3)]
    assert len(source.clip_ids("train")) == 3
    notes = source.validate().notes
    assert len(notes) == (0 if index == "right" else 1)
    assert all("train-00.lineidx" in note for note in notes)


def test_an_index_with_a_place_within_a_line_is_recomputed(tmp_path):
    grounding_shard(tmp_path / "train-00.tsv", items(3))
    index = tmp_path / "train-00.lineidx"
    first, second, third = map(int, index.read_text().split())
    index.write_text(f"{first}\n{second - 3}\n{third}\n")
    assert make_source("grounding", tmp_path).clip("train", 1).frames == (jpeg(1),)


def test_an_index_of_fewer_lines_than_the_file_is_recomputed(tmp_path):
    grounding_shard(tmp_path / "train-00.tsv", items(3))
    index = tmp_path / "train-00.lineidx"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:2]))
    assert len(make_source("grounding", tmp_path).clip_ids("train")) == 3


def annotation(number: int = 0, **changes) -> dict:
    item = grounding_item(0, CAPTION, OBJECTS)
    item["annos"][number].update(changes)
    return item


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("7", "not two columns"),
        ("7\t{}\textra", "not two columns"),
        ('7\t{"image": ', "not JSON"),
        ("7\t[1, 2]", "wrong JSON type"),
        ({**grounding_item(0, CAPTION, OBJECTS), "caption": None}, "wrong JSON type"),
        (grounding_item(0, CAPTION, OBJECTS, annos={}), "wrong JSON type"),
        (grounding_item(0, CAPTION, OBJECTS, annos=["dog"]), "wrong JSON type"),
        (grounding_item(0, CAPTION, OBJECTS, image=7), "wrong JSON type"),
        (grounding_item(0, CAPTION, OBJECTS, image="@"), "not base64"),
        (grounding_item(0, CAPTION, OBJECTS, image=base64.b64encode(jpeg(0)[:-150]).decode()), "unreadable frame"),
        (annotation(bbox=[1, 2, 3]), "wrong JSON type"),
        (annotation(bbox=[1, 2, "3", 4]), "wrong JSON type"),
        (annotation(bbox=[1, 2, True, 4]), "wrong JSON type"),
        (annotation(bbox=[1, 2, 1e300, 4]), "wrong JSON type"),
        (annotation(bbox=[1, 2, -3, 4]), "negative box size"),
        (annotation(tokens_positive=[[0, 900]]), "label is not in the caption"),
        (annotation(tokens_positive=[]), "label is not text"),
        (annotation(tokens_positive="0,4"), "wrong JSON type"),
        (annotation(text_embedding_before="AAAA"), "bad label embeddings"),
        (annotation(text_embedding_before=base64.b64encode(b"\x00" * 8).decode()), "bad label embeddings"),
    ],
)
def test_a_damaged_line_affects_only_its_clip(tmp_path, line, kind):
    grounding_shard(tmp_path / "train-00.tsv", [line, grounding_item(1, CAPTION, OBJECTS)])
    source = make_source("grounding", tmp_path)
    with pytest.raises(BadClip) as bad:
        source.clip("train", 0)
    assert bad.value.kind == kind
    assert source.clip("train", 1).labels == ("Eine Frau", "犬")


def test_a_truncated_file_loses_only_its_last_line(tmp_path):
    shard = tmp_path / "raw" / "train-00.tsv"
    grounding_shard(shard, items(4))
    shard.write_bytes(shard.read_bytes()[:-300])
    report = prepare("grounding", tmp_path / "raw", tmp_path / "out", max_bad_share=0.25)
    assert report.splits["train"].clips == 3
    assert report.splits["train"].skipped["not JSON"].clips == 1


def test_a_folder_without_shards_is_refused(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps({}))
    with refused("source", path=tmp_path):
        make_source("grounding", tmp_path)
