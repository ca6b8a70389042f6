"""The command line `smcd`: runs a subcommand and turns errors into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from smcd_jax.cli.huge_pages import restart_with_huge_pages
from smcd_jax.errors import SMCDError

# Each command is the module of that name in this package, with `add_arguments(parser)` and `run(args) -> int | None`.
# Only the selected module is imported, so that help does not wait for JAX.
COMMANDS = {
    "animate": "turn a picture, a prompt and box tracks into a video",
    "tracks": "validate, convert, draw and preview box tracks",
    "studio": "open a local page to draw boxes, preview their motion and make videos",
    "convert": "convert PyTorch weights to a model folder and back",
    "prepare": "convert raw data sets to training records, and records to cached features",
    "inspect": "draw a contact sheet of the clips in a folder of records",
    "plan": "estimate what a training run needs, even for devices that are not present",
    "train": "train a model from a config; resumes after an interruption",
    "distill": "train a model that samples in few steps, from a model folder to a model folder",
    "export": "export a training run to a model folder",
    "evaluate": "sample and evaluate a fixed list of clips, or evaluate existing videos",
    "compare": "compare two evaluations of the same list, clip by clip",
    "bench": "measure speed and memory on this machine",
    "verify": "check a model folder: weights, schedule, networks, and a sampled clip",
    "doctor": "check the installation",
}

OK, BUG, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
examples:
  smcd animate --image sprite --tracks sprite

`smcd COMMAND --help` shows the common options of a command, `smcd COMMAND --help all` every option.
Exit status: 0 success, 1 internal error (doctor: broken installation), 2 wrong input, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `smcd` and returns its exit status; an error is printed as one line on stderr.

    Args:
        argv: Arguments without the program name; by default those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        restart_with_huge_pages(next((word for word in arguments if not word.startswith("-")), ""))
    debug = "--debug" in arguments
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as in `smcd --help | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BUG
    except KeyboardInterrupt:
        _report("interrupted", debug, prefix="")
        return INTERRUPTED
    except SMCDError as error:
        _report(str(error), debug)
        return WRONG_INPUT
    except OSError as error:  # for example, missing permissions, a full disk, or too long a name
        where = "" if error.filename is None else f"{error.filename}: "
        _report(f"{where}{(error.strerror or str(error)).lower()}", debug)
        return WRONG_INPUT
    except MemoryError:
        _report("out of memory on this machine; request fewer or smaller frames", debug)
        return WRONG_INPUT
    except Exception as error:
        if os.environ.get("JAX_PLATFORMS") and (fault := _missing_devices()):
            _report(fault, debug)
            return WRONG_INPUT
        advice = "" if debug else "; run again with --debug to see the traceback, and report it"
        _report(f"internal error ({_summary(error)}){advice}", debug)
        return BUG


def _run(arguments: list[str]) -> int:
    first = next((index for index, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    top = _top_parser()
    try:
        top.parse_args(arguments[:first])
        if first == len(arguments):
            top.print_help()
            return WRONG_INPUT
        return _run_command(arguments[first], arguments[first + 1 :], verbose="--verbose" in arguments)
    except SystemExit as finished:  # argparse has printed the help or the version
        return finished.code or OK


def _run_command(name: str, arguments: list[str], *, verbose: bool) -> int:
    from smcd_jax.cli.console import libraries_quiet
    from smcd_jax.cli.parser import CommandParser, did_you_mean

    if name not in COMMANDS:
        raise SMCDError(
            f"unknown command {name!r}{did_you_mean(name, COMMANDS)} (see smcd --help)", argument="command", value=name
        )
    with libraries_quiet(verbose=verbose):
        command = importlib.import_module(f"smcd_jax.cli.{name}")
        parser = CommandParser(prog=f"smcd {name}", description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.")
        command.add_arguments(parser)
        return command.run(parser.parse_args(arguments)) or OK


def _top_parser() -> Any:
    from smcd_jax import __version__
    from smcd_jax.cli.parser import CommandParser

    lines = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    parser = CommandParser(
        prog="smcd",
        usage="smcd [--debug] [--verbose] COMMAND ...",
        description=f"Animates a still picture along tracks of labelled boxes. Commands:\n{lines}",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"smcd_jax {__version__}")
    return parser


def _report(message: str, debug: bool, prefix: str = "error: ") -> None:
    from smcd_jax.cli.console import progress_line

    if debug:
        traceback.print_exc()
    progress_line(f"{prefix}{message}")


def _missing_devices() -> str | None:
    """Returns the reason why JAX cannot start on the platform that the user selected, or None if it can."""
    from smcd_jax.runtime.devices import require_devices

    try:
        require_devices()
    except SMCDError as error:
        return str(error)
    return None


def _summary(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
