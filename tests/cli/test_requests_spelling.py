"""Request files in the variants that spreadsheets and Windows write."""

from __future__ import annotations

from pathlib import Path

import pytest

from smcd_jax.cli.batch_requests import read_requests
from tests.errors import refused

TEXT = 'image,prompt,track,output\na.png,"a red, square",x: 1 2,o\n'


def given(path: Path, content: bytes) -> dict:
    path.write_bytes(content)
    (row,) = read_requests(path, {})
    return dict(row.values)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace(",", ";").replace("red;", "red,").encode(),
        TEXT.replace(",", "\t").replace("red\t", "red,").encode("utf-16"),
        TEXT.replace(",", "\t").replace("red\t", "red,").encode("utf-16-be").join([b"\xfe\xff", b""]),
    ],
)
def test_separators_and_encodings_of_spreadsheets(tmp_path, content):
    row = given(tmp_path / "r.csv", content)
    assert (row["image"], row["prompt"], row["track"], row["output"]) == ("a.png", "a red, square", ["x: 1 2"], "o")


def test_case_27_files_of_excel(shared):
    folder = shared / "field_cases" / "27_csv_excel"
    assert read_requests(folder / "semi.csv", {})[0].values["prompt"] == "un carré rouge"
    assert read_requests(folder / "u16.csv", {})[0].values["prompt"] == "un carré"
    with refused(path=folder / "cp1252.csv", value=40):
        read_requests(folder / "cp1252.csv", {})


def test_backslashes_of_windows_are_noted(shared, capsys):
    (row,) = read_requests(shared / "field_cases" / "27_csv_excel" / "win.csv", {})
    assert (row.values["image"], row.values["output"]) == ("./a.png", "out/o5")
    assert "\\" in capsys.readouterr().err


def test_jsonl_may_be_utf_16(tmp_path):
    (tmp_path / "r.jsonl").write_bytes('{"image": "é.png"}'.encode("utf-16"))
    assert read_requests(tmp_path / "r.jsonl", {})[0].values["image"] == "é.png"
