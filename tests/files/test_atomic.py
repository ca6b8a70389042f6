"""Atomic writes: a file or folder is either complete or absent."""

from __future__ import annotations

import json
import os

import pytest

from smcd_jax import files
from tests.errors import refused


def test_a_file_appears_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "a.txt"
    with files.write_atomically(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "new"

    def write_half():
        with files.write_atomically(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_about_other_files_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), files.write_atomically(tmp_path / "a.txt"):
        (tmp_path / "elsewhere").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="needs Unix file permissions")
def test_a_file_gets_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_longest_name_of_the_file_system_is_written(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    files.write_json(path, [1])
    assert json.loads(path.read_text()) == [1]
    with refused() as error:
        files.write_json(tmp_path / ("n" * 300 + ".json"), [1])
    assert "n" * 300 in str(error.value)


def test_json_is_readable_and_complete_or_absent(tmp_path):
    data = {"prompt": "une fusée", "seed": 3, "box": [0.1, 0.2]}
    path = files.write_json(tmp_path / "a.json", data)
    assert "fusée" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == data
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == data
    with refused() as error:
        files.write_json(tmp_path, data)
    assert str(tmp_path) in str(error.value)
