"""`smcd convert`: which sources are accepted, and what is refused before anything is written."""

import argparse
from pathlib import Path

import pytest

from smcd_jax.cli import WRONG_INPUT, convert, main
from smcd_jax.cli.parser import CommandParser
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.conversion_flags import FLAGS, Flag
from tests.errors import refused


def parsed(*arguments: str) -> argparse.Namespace:
    parser = CommandParser(prog="smcd convert")
    convert.add_arguments(parser)
    return parser.parse_args([*arguments, "--output", "out"])


@pytest.mark.parametrize(
    "arguments", [(), ("--preset", "tiny", "--smcd", "x"), ("--preset", "tiny", "--to_torch", "tiny")]
)
def test_exactly_one_source_is_needed(arguments):
    with refused("source"):
        convert.run(parsed(*arguments))


def test_a_missing_source_folder_is_refused(tmp_path):
    with refused("modelscope", path=tmp_path / "nowhere"):
        convert.run(parsed("--modelscope", str(tmp_path / "nowhere")))
    assert main(["convert", "--smcd", "nowhere", "--output", str(tmp_path / "out")]) == WRONG_INPUT
    assert list(tmp_path.iterdir()) == []


def test_flags_of_another_family_are_refused(monkeypatch):
    monkeypatch.setattr(convert, "FLAGS", {**FLAGS, "other": (Flag("checkpoint", "a file", source=True),)})
    args = parsed("--checkpoint", "x", "--head_width", "64")
    with refused("head_width"):
        convert._family_options(args, "other")
    assert convert._family_options(parsed("--checkpoint", "x"), "other") == {"checkpoint": Path("x")}


def test_a_model_goes_to_safetensors_and_back(tmp_path):
    torch, folder = str(tmp_path / "torch"), str(tmp_path / "folder")
    assert main(["convert", "--to_torch", "tiny", "--output", torch, "--format", "safetensors"]) == 0
    assert main(["convert", "--modelscope", torch, "--smcd", torch, "--output", folder]) == 0
    assert ModelFolder(folder).digest == ModelFolder("tiny").digest
