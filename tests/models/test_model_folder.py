"""Model folders: arrays are read as written, a folder appears only once complete, and errors name what is damaged."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.smcd.config import TINY
from smcd_jax.nn.networks import abstract_params, flatten
from smcd_jax.weights.parameter_store import save_leaves
from tests.errors import refused

CONFIG = dataclasses.replace(TINY, unet=None, autoencoder=None, text_encoder=None)  # two components
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


def test_an_unknown_component_is_refused(whole):
    with refused("component", path=whole, value="unet"):
        ModelFolder(whole).leaves("unet")


@pytest.mark.parametrize(("file", "at_fault"), [("model.json", ""), ("checksums.json", "checksums.json")])
def test_a_missing_description_is_named(folder, file, at_fault):
    (folder / file).unlink()
    with refused(path=folder / at_fault):
        read_all(folder)


@pytest.mark.parametrize("file", ["model.json", "checksums.json"])
def test_a_cut_description_is_named(folder, file):
    text = (folder / file).read_text()
    (folder / file).write_text(text[: len(text) // 2])
    with refused(path=folder / file):
        read_all(folder)


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"version": 1}, "version"),
        ({"format": "other"}, "format"),
        ({"components": []}, "components"),
        ({"sampling": {"framez": 8}}, "framez"),
        ({"components": {PART: {"label_width": "64"}}}, f"{PART}.label_width"),
        ({"components": {PART: {"label_width": -1}}}, PART),
    ],
)
def test_a_description_that_this_release_cannot_read_is_refused(folder, changes, argument):
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | changes))
    with refused(argument, path=folder / "model.json"):
        read_all(folder)


def without_an_array(leaves):
    return {path: leaf for path, leaf in leaves.items() if path != LEAF}


@pytest.mark.parametrize(
    ("change", "argument", "problems"),
    [
        (without_an_array, PART, {"missing": [LEAF]}),
        (lambda leaves: leaves | {"surplus": np.zeros(3, np.float32)}, PART, {"unexpected": ["surplus"]}),
        (lambda leaves: leaves | {LEAF: leaves[LEAF].T.copy()}, PART, {"of another shape": [LEAF]}),
        (lambda leaves: leaves | {LEAF: -leaves[LEAF]}, "checksums", [f"{PART}/{LEAF}"]),
        (lambda leaves: leaves | {LEAF: leaves[LEAF].astype(np.float16)}, "checksums", [f"{PART}/{LEAF}"]),
    ],
    ids=["missing", "unexpected", "misshapen", "other values", "other dtype"],
)
def test_arrays_that_differ_from_the_description_are_named(folder, change, argument, problems):
    shutil.rmtree(folder / "params" / PART)
    save_leaves(folder / "params" / PART, change(ARRAYS[PART]))
    with refused(argument, path=folder, value=problems) as record:
        read_all(folder)
    assert LEAF in str(record.value) or "surplus" in str(record.value)


def test_a_missing_component_folder_is_named(folder):
    shutil.rmtree(folder / "params" / PART)
    with refused(path=folder / "params" / PART):
        read_all(folder)


def data_file(folder: Path) -> tuple[Path, int]:
    """Returns the file that holds a known array, and the offset of the array in it."""
    start = ARRAYS[PART][LEAF].tobytes()[:64]
    found = [file for file in (folder / "params" / PART).rglob("*") if file.is_file() and start in file.read_bytes()]
    return found[0], found[0].read_bytes().index(start)


def test_a_flipped_bit_is_found_and_its_array_named(folder):
    file, start = data_file(folder)
    content = bytearray(file.read_bytes())
    content[start + 21] ^= 1
    file.write_bytes(content)
    with refused("checksums", path=folder, value=[f"{PART}/{LEAF}"]):
        read_all(folder)
    changed = ModelFolder(folder).leaves(PART, verify=False)[LEAF]  # without comparing checksums
    assert (changed != ARRAYS[PART][LEAF]).sum() == 1


def test_a_truncated_data_file_is_named(folder):
    file, start = data_file(folder)
    file.write_bytes(file.read_bytes()[: start + 100])
    with refused(path=folder / "params" / PART):
        read_all(folder)


def test_a_missing_checksum_is_detected(folder):
    sums = json.loads((folder / "checksums.json").read_text())
    del sums[f"{PART}/{LEAF}"]
    (folder / "checksums.json").write_text(json.dumps(sums))
    with refused("checksums", path=folder, value=[f"{PART}/{LEAF}"]):
        read_all(folder)


def failing_midway(target: Path):
    before = target.exists()
    yield PART, ARRAYS[PART]
    assert target.exists() == before  # the folder gets its final name only once it is complete
    raise RuntimeError("the source has failed")


def test_a_failing_source_leaves_no_folder(tmp_path):
    with pytest.raises(RuntimeError, match="the source has failed"):
        write_model_folder(tmp_path / "model", CONFIG, failing_midway(tmp_path / "model"), origin=ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_source_keeps_the_existing_folder(folder):
    with pytest.raises(RuntimeError, match="the source has failed"):
        write_model_folder(folder, CONFIG, failing_midway(folder), origin=ORIGIN, overwrite=True)
    assert list(folder.parent.iterdir()) == [folder]
    np.testing.assert_array_equal(read_all(folder)[PART][LEAF], ARRAYS[PART][LEAF])


@pytest.mark.parametrize(
    ("content", "argument", "missing"),
    [
        ({PART: ARRAYS[PART]}, "components", ["image_encoder"]),
        (ARRAYS | {PART: without_an_array(ARRAYS[PART])}, PART, {"missing": [LEAF]}),
    ],
    ids=["component", "array"],
)
def test_an_incomplete_folder_is_not_written(tmp_path, content, argument, missing):
    with refused(argument, path=tmp_path / "model", value=missing):
        write(tmp_path / "model", content)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_replaced_only_with_overwrite(folder):
    other = arrays(seed=1)
    with refused("output", path=folder):
        write(folder, other)
    np.testing.assert_array_equal(read_all(folder)[PART][LEAF], ARRAYS[PART][LEAF])
    write(folder, other, overwrite=True)
    np.testing.assert_array_equal(read_all(folder)[PART][LEAF], other[PART][LEAF])
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_of_other_files_is_never_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with refused("output", path=tmp_path / "thesis"):
        write(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_the_digest_changes_if_and_only_if_an_array_changes(whole, tmp_path):
    digest = ModelFolder(whole).digest
    reordered = {name: dict(reversed(leaves.items())) for name, leaves in reversed(ARRAYS.items())}
    assert write(tmp_path / "same", reordered, origin=Origin("converted", note="of another origin")).digest == digest
    changed = ARRAYS[PART][LEAF].copy()
    changed[-1, -1] = np.nextafter(changed[-1, -1], np.float32(9))
    assert write(tmp_path / "other", ARRAYS | {PART: ARRAYS[PART] | {LEAF: changed}}).digest != digest
