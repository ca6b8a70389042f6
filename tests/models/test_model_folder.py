"""The model folder: what is written is read bit for bit, appears only when whole, and damage of any kind is named."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.smcd.config import TINY
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.weights.parameter_store import save_leaves

CONFIG = dataclasses.replace(TINY, unet=None, autoencoder=None, text_encoder=None)  # two components make a folder
PART, LEAF = "position_net", "dense_0/kernel"
ORIGIN = Origin("trained", note="for a test", license="CC0-1.0", sources=({"component": PART, "sha256": "0" * 64},))


def arrays(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    draw = lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32)  # noqa: E731
    parts = {name: flatten(abstract_params(part)) for name, part in CONFIG.components().items()}
    return {name: {path: draw(leaf) for path, leaf in leaves.items()} for name, leaves in parts.items()}


ARRAYS = arrays()


def write(path: Path, content: dict | None = None, **options) -> ModelFolder:
    content = ARRAYS if content is None else content
    return write_model_folder(path, CONFIG, content.items(), **{"origin": ORIGIN, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("whole") / "model").path


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def read_all(path: Path) -> dict[str, dict[str, np.ndarray]]:
    opened = ModelFolder(path)
    return {name: opened.leaves(name) for name in opened.config.components()}


def assert_refused(path: Path, words: str) -> None:
    with pytest.raises(SMCDError) as refusal:
        read_all(path)
    message = str(refusal.value)
    assert words in message
    assert str(path) in message
    assert "\n" not in message


def test_what_is_written_is_read_bit_for_bit(whole):
    opened, read = ModelFolder(whole), read_all(whole)
    assert opened.config == CONFIG
    assert opened.origin == ORIGIN
    assert read.keys() == ARRAYS.keys()
    for name, leaves in ARRAYS.items():
        assert read[name].keys() == leaves.keys()
        for path, leaf in leaves.items():
            assert read[name][path].dtype == leaf.dtype
            np.testing.assert_array_equal(read[name][path], leaf)
    assert opened.tokenizer().encode(["a red kite"], length=8).shape == (1, 8)


def test_parameters_are_cast_on_the_way_to_the_device(whole):
    params = flatten(ModelFolder(whole).params(PART, dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("bfloat16")}
    np.testing.assert_array_equal(params[LEAF], ARRAYS[PART][LEAF].astype(jnp.bfloat16))


def test_a_component_that_the_model_has_not_is_refused_with_those_it_has(whole):
    with pytest.raises(SMCDError, match=r"has no unet; it has position_net, image_encoder"):
        ModelFolder(whole).leaves("unet")


@pytest.mark.parametrize(
    ("file", "words"), [("model.json", "it has no model.json"), ("checksums.json", "checksums.json is missing")]
)
def test_a_missing_description_is_named(folder, file, words):
    (folder / file).unlink()
    assert_refused(folder, words)


@pytest.mark.parametrize("file", ["model.json", "checksums.json"])
def test_a_cut_description_is_named(folder, file):
    text = (folder / file).read_text()
    (folder / file).write_text(text[: len(text) // 2])
    assert_refused(folder, f"{file} cannot be read")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 3}, "format version 3; this release reads version 2"),
        ({"format": "other"}, "model.json is not of a model folder (format 'other')"),
        ({"components": []}, "components must be an object"),
        ({"sampling": {"framez": 8}}, "unknown key 'framez'"),
        ({"components": {PART: {"label_width": "64"}}}, "label_width must be int, got '64'"),
        ({"components": {PART: {"label_width": -1}}}, f"describes no possible {PART}"),
    ],
)
def test_a_description_that_this_release_cannot_follow_is_refused(folder, changes, words):
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | changes))
    assert_refused(folder, words)


def without_an_array(leaves):
    return {path: leaf for path, leaf in leaves.items() if path != LEAF}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_an_array, f"{PART}: 1 arrays missing ({LEAF})"),
        (lambda leaves: leaves | {"surplus": np.zeros(3, np.float32)}, f"{PART}: 1 arrays extra (surplus)"),
        (lambda leaves: leaves | {LEAF: leaves[LEAF].T.copy()}, f"{PART}: 1 arrays of another shape ({LEAF})"),
        (lambda leaves: leaves | {LEAF: -leaves[LEAF]}, f"1 arrays differ from checksums.json ({PART}/{LEAF})"),
        (lambda leaves: leaves | {LEAF: leaves[LEAF].astype(np.float16)}, f"checksums.json ({PART}/{LEAF})"),
    ],
    ids=["missing", "extra", "misshapen", "other values", "other dtype"],
)
def test_arrays_that_are_not_those_described_are_named(folder, change, words):
    shutil.rmtree(folder / "params" / PART)
    save_leaves(folder / "params" / PART, change(ARRAYS[PART]))
    assert_refused(folder, words)


def test_a_missing_component_folder_is_named(folder):
    shutil.rmtree(folder / "params" / PART)
    assert_refused(folder, f"params/{PART} is missing")


def data_file(folder: Path) -> tuple[Path, int]:
    """The file that holds a known array, and where in it the array begins."""
    start = ARRAYS[PART][LEAF].tobytes()[:64]
    found = [file for file in (folder / "params" / PART).rglob("*") if file.is_file() and start in file.read_bytes()]
    return found[0], found[0].read_bytes().index(start)


def test_a_flipped_bit_is_found_and_its_array_named(folder):
    file, start = data_file(folder)
    content = bytearray(file.read_bytes())
    content[start + 21] ^= 1
    file.write_bytes(content)
    assert_refused(folder, f"1 arrays differ from checksums.json ({PART}/{LEAF})")
    changed = ModelFolder(folder).leaves(PART, verify=False)[LEAF]  # who asks for no check gets the array as it is
    assert (changed != ARRAYS[PART][LEAF]).sum() == 1


def test_a_truncated_data_file_is_named(folder):
    file, start = data_file(folder)
    file.write_bytes(file.read_bytes()[: start + 100])
    assert_refused(folder, f"params/{PART} cannot be restored")


def test_a_checksum_that_is_lost_is_found(folder):
    sums = json.loads((folder / "checksums.json").read_text())
    del sums[f"{PART}/{LEAF}"]
    (folder / "checksums.json").write_text(json.dumps(sums))
    assert_refused(folder, f"1 arrays differ from checksums.json ({PART}/{LEAF})")


def failing_midway(target: Path):
    before = target.exists()
    yield PART, ARRAYS[PART]
    assert target.exists() == before  # nothing stands under the name while it is being written
    raise RuntimeError("the source has failed")


def test_nothing_is_left_of_a_folder_whose_source_fails(tmp_path):
    with pytest.raises(RuntimeError, match="the source has failed"):
        write_model_folder(tmp_path / "model", CONFIG, failing_midway(tmp_path / "model"), origin=ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_outlives_a_source_that_fails(folder):
    with pytest.raises(RuntimeError, match="the source has failed"):
        write_model_folder(folder, CONFIG, failing_midway(folder), origin=ORIGIN, overwrite=True)
    assert list(folder.parent.iterdir()) == [folder]
    np.testing.assert_array_equal(read_all(folder)[PART][LEAF], ARRAYS[PART][LEAF])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({PART: ARRAYS[PART]}, "no arrays for image_encoder"),
        (ARRAYS | {PART: without_an_array(ARRAYS[PART])}, f"1 arrays missing ({LEAF})"),
    ],
    ids=["component", "array"],
)
def test_a_folder_that_would_lack_something_is_not_written(tmp_path, content, words):
    with pytest.raises(SMCDError) as refusal:
        write(tmp_path / "model", content)
    assert words in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_replaced_only_when_told(folder):
    other = arrays(seed=1)
    with pytest.raises(SMCDError, match="exists already"):
        write(folder, other)
    np.testing.assert_array_equal(read_all(folder)[PART][LEAF], ARRAYS[PART][LEAF])
    write(folder, other, overwrite=True)
    np.testing.assert_array_equal(read_all(folder)[PART][LEAF], other[PART][LEAF])
    assert list(folder.parent.iterdir()) == [folder]


def test_what_is_no_model_folder_is_never_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(SMCDError, match="not a model folder, so it is not overwritten"):
        write(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_the_digest_changes_if_and_only_if_an_array_does(whole, tmp_path):
    digest = ModelFolder(whole).digest
    reordered = {name: dict(reversed(leaves.items())) for name, leaves in reversed(ARRAYS.items())}
    assert write(tmp_path / "same", reordered, origin=Origin("converted", note="of another origin")).digest == digest
    changed = ARRAYS[PART][LEAF].copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(9))
    assert write(tmp_path / "other", ARRAYS | {PART: ARRAYS[PART] | {LEAF: changed}}).digest != digest
