"""The command line `smcd`: finds the command, runs it, and turns what goes wrong into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from smcd_jax.errors import SMCDError

# Each is the module of that name in this folder, with `add_arguments(parser)` and `run(args) -> int | None`. Only the
# chosen one is imported: JAX takes a second, and help should not.
COMMANDS = {
    "animate": "turn a picture, a prompt and box tracks into a video",
    "tracks": "check, convert and draw tracks of boxes",
    "convert": "PyTorch weights to a model folder and back",
    "prepare": "raw data sets to training records, and records to cached features",
    "inspect": "draw a sheet of the clips in a folder of records",
    "plan": "what a training run would need, for devices that need not be here",
    "train": "train a model from a config, and go on after an interruption",
    "export": "a training run to a model folder",
    "evaluate": "sample and measure a fixed list of clips, or measure videos made already",
    "compare": "show how two evaluations of one list differ, clip by clip",
    "bench": "measure speed and memory on this machine",
    "doctor": "show what is installed here and whether it works",
}

OK, BUG, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
`smcd COMMAND --help` shows the flags of a command.
Exit status: 0 done, 1 a fault of the program (or of the installation, for doctor), 2 wrong input, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `smcd` with the given arguments, by default those of the process.

    Returns:
        The exit status; what is wrong has been said on stderr, in one line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # as in `smcd --help | head -1`: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BUG
    except KeyboardInterrupt:
        _tell("interrupted", debug, prefix="")
        return INTERRUPTED
    except SMCDError as error:
        _tell(str(error), debug)
        return WRONG_INPUT
    except OSError as error:  # of the machine rather than ours: permissions, a full disk, a name too long
        where = "" if error.filename is None else f"{error.filename}: "
        _tell(f"{where}{(error.strerror or str(error)).lower()}", debug)
        return WRONG_INPUT
    except MemoryError:
        _tell("the memory of this machine does not suffice; ask for less at once", debug)
        return WRONG_INPUT
    except Exception as error:
        how = "" if debug else "; run it again with --debug to see where, and report it"
        _tell(f"this is a fault of the program, not of your input ({_in_short(error)}){how}", debug)
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
    except SystemExit as finished:  # argparse has shown help or the version
        return finished.code or OK


def _run_command(name: str, arguments: list[str], *, verbose: bool) -> int:
    from smcd_jax.cli.console import libraries_quiet
    from smcd_jax.cli.parser import CommandParser, did_you_mean

    if name not in COMMANDS:
        raise SMCDError(f"unknown command {name!r}{did_you_mean(name, COMMANDS)} (see smcd --help)")
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
        description=f"Animates a still picture along tracks of labelled boxes.\n\ncommands:\n{lines}",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"smcd_jax {__version__}")
    return parser


def _tell(message: str, debug: bool, prefix: str = "error: ") -> None:
    from smcd_jax.cli.console import progress_line

    if debug:
        traceback.print_exc()
    progress_line(f"{prefix}{message}")


def _in_short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
