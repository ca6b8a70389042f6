"""What all commands share: dispatch, help that does not import JAX, exit statuses, and one-line errors."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import types

import pytest

import smcd_jax
from smcd_jax import cli
from smcd_jax.cli import clip_options, console
from smcd_jax.cli.parser import CommandParser, did_you_mean
from smcd_jax.errors import SMCDError
from smcd_jax.tracks import FORMATS as TRACK_FORMATS
from smcd_jax.tracks import READ_FORMATS
from tests.errors import refused

HELP = [["--help"], *([name, "--help"] for name in cli.COMMANDS), ["tracks", "validate", "--help"]]


@pytest.fixture
def command(monkeypatch):
    """Returns a function that makes the command `smcd probe` call a given function."""

    def make(act):
        module = types.ModuleType("smcd_jax.cli.probe")
        module.add_arguments = lambda parser: None
        module.run = lambda args: act()
        monkeypatch.setitem(sys.modules, "smcd_jax.cli.probe", module)
        monkeypatch.setitem(cli.COMMANDS, "probe", "a probe")

    return make


def raising(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_imports_neither_jax_nor_flax(arguments):
    code = (
        "import sys; from smcd_jax.cli import main; status = main(sys.argv[1:]);"
        "print(sorted({'jax', 'flax', 'orbax', 'PIL', 'av'} & set(sys.modules)), file=sys.stderr);"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("usage: smcd")


def test_help_answers_within_two_seconds():
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "smcd_jax", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    # Help takes 0.25 s; the minimum of three runs excludes interference by other programs.
    assert min(seconds() for _ in range(3)) < 2


def test_help_names_every_command_and_smcd_alone_shows_it(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in cli.COMMANDS)
    assert cli.main([]) == 2
    assert capsys.readouterr().out == shown


def test_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"smcd_jax {smcd_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "argument", "value", "suggestion"),
    [
        (["animte"], "command", "animte", "animate"),
        (["animate", "--imgae", "x"], "imgae", "--imgae", "--image"),
        (
            ["animate", "--num-inference-steps=3"],
            "num-inference-steps",
            "--num-inference-steps=3",
            "--num_inference_steps",
        ),
        (["animate", "--image", "x", "stray"], None, "stray", None),
        (["tracks", "draw", "--colums", "3"], "colums", "--colums", "--columns"),  # reported before missing options
        (["animate", "--imag", "x"], "imag", "--imag", "--image"),  # no abbreviations
        (["evaluate", "--measures", "fvd"], "measures", "--measures", "--metrics"),  # a synonym, not a misspelling
        (["animate", "--cfg-scale=3"], "cfg-scale", "--cfg-scale=3", "--guidance_scale"),
        (["animate", "--prompt"], "prompt", None, None),
        (["animate", "--seed", "x"], "seed", None, None),
        (["--nonsense"], "nonsense", "--nonsense", None),
    ],
)
def test_a_wrong_argument_is_refused_with_the_most_similar_one(arguments, argument, value, suggestion, capsys):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with refused(value=value) as record:
        cli._run(arguments)
    assert record.value.argument == argument
    assert ("did you mean" in str(record.value)) == (suggestion is not None)
    assert suggestion is None or f"did you mean {suggestion}?" in str(record.value)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (SMCDError("the box\n is empty"), 2, "smcd: error: the box is empty\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 2, "smcd: error: /x/y: permission denied\n"),
        (MemoryError(), 2, "smcd: error: out of memory"),
        (KeyboardInterrupt(), 130, "smcd: interrupted\n"),
        (
            KeyError("k"),
            1,
            "smcd: error: internal error (KeyError: 'k'); run again with --debug",
        ),
    ],
)
def test_every_failure_is_one_line_and_a_status(error, status, line, command, capsys):
    command(raising(error))
    assert cli.main(["probe"]) == status
    shown = capsys.readouterr().err
    assert shown.startswith(line)
    assert shown.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--debug", "probe"], ["probe", "--debug"]])
def test_debug_shows_the_traceback_before_the_line(arguments, command, capsys):
    command(raising(SMCDError("too many boxes")))
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith("\nsmcd: error: too many boxes\n")


CHATTER = """
import logging, sys, types, warnings
from smcd_jax import cli

def chatter(args):
    warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    logging.getLogger("jax._src.xla_bridge").warning("no GPU")
    logging.getLogger("somebody").warning("hello")
    logging.getLogger("smcd_jax.media").warning("its colours are taken as sRGB")
    logging.getLogger("data_pipeline.bad_clips").warning("a clip is skipped")

probe = types.ModuleType("probe")
probe.add_arguments, probe.run = lambda parser: None, chatter
sys.modules["smcd_jax.cli.probe"], cli.COMMANDS["probe"] = probe, "a probe"
sys.exit(cli.main(sys.argv[1:]))
"""


def test_libraries_are_silent_and_our_warnings_are_notes_unless_verbose():
    def said(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", CHATTER, "probe", *arguments], capture_output=True, text=True, check=True
        )
        return done.stderr

    assert said() == "smcd: note: its colours are taken as sRGB\nsmcd: note: a clip is skipped\n"
    everything = said("--verbose")
    assert "DeprecationWarning: deprecated" in everything
    for line in ("jax._src.xla_bridge: no GPU", "somebody: hello", "smcd_jax.media: its colours are taken as sRGB"):
        assert f"WARNING {line}\n" in everything


def test_notes_that_were_printed_are_not_printed_again(capsys):
    logger = logging.getLogger("smcd_jax.probe")
    with console.libraries_quiet(verbose=False):
        with console.without_notes(("the prompt is long",)):
            logger.warning("the %s is long", "prompt")
            logger.warning("the picture is cropped")
        logger.warning("the prompt is long")
    notes = ["smcd: note: the picture is cropped", "smcd: note: the prompt is long"]
    assert capsys.readouterr().err.splitlines() == notes


def test_logging_is_restored_after_a_command(command):
    command(lambda: None)
    before = [
        (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in ("", "jax", "smcd_jax")
    ]
    cli.main(["probe"])
    cli.main(["probe", "--verbose"])
    after = [
        (logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in ("", "jax", "smcd_jax")
    ]
    assert after == before


def test_a_closed_pipe_is_not_an_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "smcd_jax", "animate", "--help"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert done.stderr == b""


def test_the_package_offers_its_main_names_without_importing_jax():
    code = "import sys, smcd_jax; print('jax' in sys.modules, 'numpy' in sys.modules, dir(smcd_jax))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False")
    assert all(name in done.stdout for name in smcd_jax.__all__)
    assert smcd_jax.VideoPipeline.__name__ == "VideoPipeline"
    assert smcd_jax.BoxTracks.__name__ == "BoxTracks"
    assert smcd_jax.load_tracks.__name__ == "load_tracks"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = smcd_jax.nothing


def test_choices_are_those_of_the_modules_that_use_them():
    assert clip_options.TRACK_FORMATS == READ_FORMATS
    assert clip_options.WRITTEN_TRACK_FORMATS == TRACK_FORMATS


def test_a_value_with_spaces_may_start_like_an_option():
    parser = CommandParser(prog="smcd probe")
    parser.add_argument("--prompt")
    assert parser.parse_args(["--prompt", "--a dash, and more"]).prompt == "--a dash, and more"


def test_no_suggestion_without_a_similar_word():
    assert did_you_mean("--zzz", ["--image", "--seed"]) == ""
