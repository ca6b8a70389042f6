"""Packing of a run of the small model: size limits, order, and what is left out."""

from __future__ import annotations

import subprocess
import tarfile

import numpy as np
import pytest

from launch.gpu import pack as module
from launch.gpu.pack import MOST, PART, pack
from launch.train_small import FEW_STEPS

KIB = 1024


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a folder like that of a run, of 60 KiB; packed files have 16 KiB."""
    monkeypatch.setattr(module, "PART", 16 * KIB)
    rng = np.random.default_rng(0)
    files = {
        "progress.json": 100,
        "evaluation/few_steps/report.json": 200,
        "evaluation/few_steps/clips/a.mp4": 10 * KIB,
        f"{FEW_STEPS}/params/{'a' * 120}": 20 * KIB,
        "model/params/a": 20 * KIB,
        "scene/metrics.jsonl": 300,
        "scene/checkpoints/1": 5000,
        "records/a": 5000,
    }
    for name, size in files.items():
        path = tmp_path / "small" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(size))
    return tmp_path / "small"


def unpacked(files, folder):
    """Returns the contents of packed files by name, as `cat | tar x` writes them."""
    (folder / "all.tar").write_bytes(b"".join(file.read_bytes() for file in files))
    subprocess.run(["tar", "xf", "all.tar"], cwd=folder, check=True)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_but_records_and_checkpoints_is_packed_into_small_files(run, tmp_path):
    files, left_out = pack(run, tmp_path / "packed")
    assert not left_out
    sizes = [file.stat().st_size for file in files]
    assert len(sizes) > 3
    assert set(sizes[:-1]) == {16 * KIB}
    assert sizes[-1] <= 16 * KIB
    (tmp_path / "new").mkdir()
    found = unpacked(files, tmp_path / "new")
    assert found.pop("all.tar")
    wanted = {str(path.relative_to(run.parent)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    del wanted["small/records/a"], wanted["small/scene/checkpoints/1"]
    assert found == wanted


def test_a_model_beyond_the_limit_is_left_out_as_a_whole(run, tmp_path):
    most = 66 * KIB
    files, left_out = pack(run, tmp_path / "packed", most=most)
    assert left_out == [run / "model"]
    assert sum(file.stat().st_size for file in files) <= most
    (tmp_path / "packed" / "all.tar").write_bytes(b"".join(file.read_bytes() for file in files))
    with tarfile.open(tmp_path / "packed" / "all.tar") as archive:
        names = archive.getnames()
    assert names[0] == "small/progress.json"
    assert f"small/{FEW_STEPS}/params/{'a' * 120}" in names
    assert not any(name.startswith("small/model/") for name in names)


def test_an_earlier_call_leaves_no_file_behind(run, tmp_path):
    before, _ = pack(run, tmp_path / "packed")
    after, _ = pack(run, tmp_path / "packed", most=40 * KIB)
    assert len(after) < len(before)
    assert sorted((tmp_path / "packed").iterdir()) == after


def test_files_are_small_enough_to_be_sent():
    assert PART < 16 * 1024**2
    assert MOST <= 64 * 1024**2
    assert MOST // PART <= 6  # beside log.txt, at most seven
