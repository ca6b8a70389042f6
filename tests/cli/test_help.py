"""Help texts: each fits on one screen and has examples that run unchanged."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from unittest import mock

import pytest

from smcd_jax import cli
from smcd_jax.cli import main
from smcd_jax.files.examples import example_file
from tests.snapshots.adapters import command_parsers

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "smcd_jax" / "assets" / "examples" / "rocket"
SCREEN = 30  # lines of 100 columns


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns every parser by its command, such as "tracks draw", or "" for `smcd` itself."""
    found = {"": cli._top_parser()}
    for name, parser in command_parsers().items():
        found[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found |= {f"{name} {child}": child_parser for child, child_parser in action.choices.items()}
    return found


PARSERS = parsers()


def examples(text: str) -> list[list[str]]:
    """Returns the commands under "examples:", as argument lists for `main`."""
    lines = text.partition("examples:\n")[2].split("\n\n")[0].replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_on_one_screen_and_has_examples(name):
    with mock.patch.dict(os.environ, {"COLUMNS": "100"}):
        text = PARSERS[name].format_help()
    assert len(text.splitlines()) <= SCREEN
    assert examples(text)


def test_one_word_shows_all_options(capsys):
    assert main(["animate", "--help"]) == 0
    assert "--timestep_spacing" not in capsys.readouterr().out
    assert main(["animate", "--help", "all"]) == 0
    assert "--timestep_spacing" in capsys.readouterr().out


@pytest.mark.parametrize("name", PARSERS)
def test_examples_are_valid_command_lines(name):
    for command, *arguments in examples(PARSERS[name].epilog):
        parser = PARSERS[command]
        parser.parse_args(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_examples_run_as_they_stand(name, tmp_path, monkeypatch):
    """The examples run in a folder that, like a clone of the project, contains its configs."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for arguments in examples(PARSERS[name].epilog):
        assert main(arguments) == 0, shlex.join(arguments)


def test_an_example_is_found_by_name_unless_such_a_file_exists(tmp_path):
    assert example_file(tmp_path / "rocket", "tracks.json") == EXAMPLE / "tracks.json"
    (tmp_path / "rocket").mkdir()
    assert example_file(tmp_path / "rocket", "tracks.json") == tmp_path / "rocket"
    assert example_file(tmp_path / "dog", "img.png") == tmp_path / "dog"
