"""With damaged input, track importers and the record reader return a valid result or raise an `SMCDError`."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError
from smcd_jax.tracks import READ_FORMATS
from tests.fuzz.inputs import SEEDS, one, run_import, run_table, run_text
from tests.fuzz.run import main

QUICK = hypothesis.settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@QUICK
@hypothesis.given(seed=st.integers(0, 2**32))
def test_changed_files_of_every_format_are_read_or_refused(tmp_path, seed):
    one(random.Random(seed), tmp_path)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "box", "frame"]), inner),
    max_leaves=8,
)


def paths_in(value: object, prefix: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, part in items for path in paths_in(part, (*prefix, key)))]


def replaced(value: object, path: tuple, new: object) -> object:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


JSON_SEEDS = {name: json.loads(text) for name, text in SEEDS.items() if name.endswith(".json")}


@QUICK
@hypothesis.given(name=st.sampled_from(sorted(JSON_SEEDS)), data=st.data(), new=values)
def test_json_with_any_value_in_any_place_is_read_or_refused(tmp_path, name, data, new):
    content = JSON_SEEDS[name]
    path = data.draw(st.sampled_from(paths_in(content)))
    text = json.dumps(replaced(content, path, new)).encode()
    run_import(name, text, tmp_path, format=None, label="car")


numbers = st.integers(-3, 12).map(str) | st.floats(width=32).map(str) | st.sampled_from(["", "nan", "-1", "car"])


@QUICK
@hypothesis.given(
    rows=st.lists(st.lists(numbers, min_size=1, max_size=18), max_size=5),
    separator=st.sampled_from([",", ";", "\t", " ", ", "]),
    format=st.sampled_from([None, *READ_FORMATS]),
)
def test_tables_of_any_numbers_are_read_or_refused(tmp_path, rows, separator, format):
    data = "\n".join(separator.join(row) for row in rows).encode()
    run_import("gt.txt", data, tmp_path, format=format, label="car")
    run_table(data, tmp_path)


@QUICK
@hypothesis.given(data=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="replace")))
def test_files_of_any_bytes_are_read_or_refused(tmp_path, data):
    run_text(data)
    run_table(data, tmp_path)
    for name in ("a.json", "a.xml", "a.txt"):
        run_import(name, data, tmp_path, format=None, label=None)


def test_the_command_counts_and_reports(capsys):
    assert main(["--count", "20"]) == 0
    assert "20 inputs" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_million_inputs():
    assert main(["--count", "1000000", "--seed", "7"]) == 0


# --- records ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "records"
    prepare("sprites", None, folder, splits=["test"], options={"test_clips": 3, "frames": 2, "width": 64, "height": 64})
    return folder


def read_all(folder: Path) -> int:
    """Tries to read every clip; returns the number of clips that could be read."""
    read = 0
    try:
        opened = RecordFolder(folder, "test", max_bad_share=1)
    except SMCDError:
        return 0
    for position in range(len(opened)):
        try:
            clip = opened.clip(position)
        except BadClip:
            continue
        assert len(clip.frames) == len(clip.boxes)
        read += 1
    opened.close()
    return read


@pytest.mark.parametrize("file", ["records.json", "index-test.npz", "shard"])
def test_damaged_records_are_bad_clips_or_refused(records, tmp_path, file):
    folder = Path(shutil.copytree(records, tmp_path / "records"))
    path = next(folder.glob("*.tfrecord-*")) if file == "shard" else folder / file
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    assert read_all(folder) == 3
    for number in range(150):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        if number % 3 == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif number % 3 == 1:
            del data[at:]
        else:
            data[at : at + int(rng.integers(1, 40))] = rng.bytes(int(rng.integers(0, 40)))
        path.write_bytes(data)
        read_all(folder)
