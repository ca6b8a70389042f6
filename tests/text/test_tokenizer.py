"""The tokenizer: the same ids as OpenCLIP, the files in a model folder, and wrong input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from smcd_jax.tokenizer import END_ID, START_ID, VOCAB_SIZE, Tokenizer, clean
from tests.errors import refused


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.published()


@pytest.fixture(scope="module")
def golden(shared) -> dict:
    """Texts with ids, cleaned forms and end positions from open_clip 2.24.0."""
    names = ("tokenize", "tokenize_internal", "eot_index")
    return {
        name: json.loads((shared / "golden" / "text" / f"{name}.json").read_text(encoding="utf-8")) for name in names
    }


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tokenizer"
    tokenizer.save(path)
    return path


def words(ids: np.ndarray) -> list[int]:
    """Returns a row's ids between its start marker and its first end marker."""
    return ids[1 : list(ids).index(END_ID)].tolist()


def test_ids_equal_open_clip(tokenizer, golden):
    texts = list(golden["tokenize"])
    assert dict(zip(texts, tokenizer.encode(texts).tolist(), strict=True)) == golden["tokenize"]


def test_clean_text_equals_open_clip(golden):
    cleaned = golden["tokenize_internal"]["clean"]
    assert {text: clean(text) for text in cleaned} == cleaned


def test_count_is_open_clips_words_and_two_markers(tokenizer, golden):
    counts = {text: len(ids) + 2 for text, ids in golden["tokenize_internal"]["encode_no_special"].items()}
    assert {text: tokenizer.count(text) for text in counts} == counts


def test_end_position_is_the_first_one_of_open_clip(tokenizer, golden):
    texts = list(golden["eot_index"])
    first = [golden["eot_index"][text]["eot_positions"][0] for text in texts]
    assert tokenizer.eot_index(tokenizer.encode(texts)).tolist() == first


def test_known_texts(tokenizer):
    ids = tokenizer.encode(["A  Dog", "", " "])
    assert ids.dtype == np.int32
    assert ids.shape == (3, 77)
    assert ids[0].tolist() == [START_ID, 320, 1929, END_ID] + [0] * 73
    assert ids[1].tolist() == ids[2].tolist() == [START_ID, END_ID] + [0] * 75


def test_exclamation_mark_is_a_word_though_its_symbol_has_the_padding_id(tokenizer):
    assert words(tokenizer.encode(["!"])[0]) == [256]


def test_no_texts_give_no_rows(tokenizer):
    assert tokenizer.encode([]).shape == (0, 77)


def test_too_long_text_keeps_its_beginning_and_ends_with_the_marker(tokenizer):
    text = "dog " * 500
    ids = tokenizer.encode([text])[0]
    assert ids.tolist() == [START_ID] + [1929] * 75 + [END_ID]
    assert tokenizer.count(text) == 502
    assert tokenizer.count("dog " * 75) == 77
    assert tokenizer.encode(["dog " * 75])[0].tolist() == ids.tolist()


def test_length_sets_the_width_of_a_row(tokenizer):
    assert tokenizer.encode(["a dog"], length=6).tolist() == [[START_ID, 320, 1929, END_ID, 0, 0]]
    assert tokenizer.encode(["a dog"], length=3).tolist() == [[START_ID, 320, END_ID]]


def test_marker_written_in_a_text_ends_the_label_there(tokenizer):
    ids = tokenizer.encode(["dog<END_OF_TEXT>cat", "dog"])
    assert ids[0, :5].tolist() == [START_ID, 1929, END_ID, 2368, END_ID]
    assert tokenizer.eot_index(ids).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        pytest.param(
            "!<end_of_text>", [0, 283, 806, 318, 539, 318, 4160, 285], id="a marker after punctuation is no marker"
        ),
        pytest.param("it'\u017f", [585, 6, 129, 379], id="an apostrophe and a long s are one word"),
        pytest.param(
            "< &#x1100;&#x1161;", [283, 157, 226, 222, 157, 227, 350], id="jamo from entities are not composed"
        ),
        pytest.param("< &amp;lt;", [283, 283], id="entities are resolved twice"),
    ],
)
def test_corners_equal_open_clip(tokenizer, text, ids):
    # The expected ids are from open_clip 2.24.0.
    assert words(tokenizer.encode([text])[0]) == ids


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_has_one_start_and_ends_in_padding(text):
    ids = Tokenizer.published().encode([text])[0]
    end = int(np.flatnonzero(ids == END_ID)[-1])
    assert ids[0] == START_ID
    assert not ids[end + 1 :].any()
    assert ((ids >= 0) & (ids < VOCAB_SIZE)).all()


def test_folder_gives_the_same_ids(tokenizer, folder):
    texts = ["a rocket lifting off", "caf\u00e9 \U0001f436 <end_of_text>", "x" * 300]
    np.testing.assert_array_equal(Tokenizer.from_folder(folder).encode(texts), tokenizer.encode(texts))


def test_files_are_the_same_bytes_each_time(folder, tmp_path):
    Tokenizer.from_folder(folder).save(tmp_path)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_tokenizers_reads_the_file_alone(folder):
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert theirs.encode("A Dog's  life").ids == [START_ID, 320, 1929, 568, 970, END_ID]


def test_transformers_reads_the_folder_and_agrees(tokenizer, folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    texts = [
        "A rocket!! lifting off, it's 10:45",
        "caf\u00e9 \u4e00\u53ea\u72d7 \U0001f3c3\u200d\u2642\ufe0f",
        "giant_panda",
        " ",
    ]
    texts += ["hello <end_of_text> there", "word " * 200]
    for text, ours in zip(texts, tokenizer.encode(texts), strict=True):
        used = min(tokenizer.count(text), 77)
        ids = theirs(clean(text), truncation=True, max_length=77, padding="max_length")["input_ids"]
        assert ids == ours[:used].tolist() + [END_ID] * (77 - used), text


def test_encoding_imports_no_framework():
    code = (
        "import sys; from smcd_jax.tokenizer import Tokenizer; Tokenizer.published().encode(['a dog']);"
        "print([name for name in ('torch', 'tensorflow', 'transformers', 'jax') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("texts", "length", "argument", "value"),
    [
        ("a dog", 77, "texts", "a dog"),
        (["a dog", None], 77, "texts", None),
        (["a dog"], 1, "length", 1),
    ],
)
def test_wrong_input_is_refused_by_name(tokenizer, texts, length, argument, value):
    with refused(argument, value=value):
        tokenizer.encode(texts, length=length)


def test_ids_without_end_marker_are_refused_by_index(tokenizer):
    ids = tokenizer.encode(["a dog", "a cat"])
    ids[1, 3] = 0
    with refused("ids", value=1):
        tokenizer.eot_index(ids)


def test_folder_without_tokeniser_is_refused(tmp_path):
    with refused(path=tmp_path / "tokenizer.json"):
        Tokenizer.from_folder(tmp_path)


def test_broken_file_is_refused(folder, tmp_path):
    whole = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(whole[:1000], encoding="utf-8")
    with refused(path=tmp_path / "tokenizer.json", value=None):
        Tokenizer.from_folder(tmp_path)


def test_other_vocabulary_is_refused(folder, tmp_path):
    whole = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(whole.replace("<end_of_text>", "<|endoftext|>"), encoding="utf-8")
    with refused(path=tmp_path / "tokenizer.json", value=(VOCAB_SIZE, START_ID, None)):
        Tokenizer.from_folder(tmp_path)
