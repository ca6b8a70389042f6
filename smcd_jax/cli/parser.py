"""The argument parser of every command: errors in one line, unknown flags answered with the nearest known one."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from smcd_jax.errors import SMCDError


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `SMCDError` where argparse would print the usage and exit.

    It knows --debug and --verbose, so that they are understood before and after the command alike. Flags are not
    abbreviated: an abbreviation that works today would break with the next flag.
    """

    takes_config = False

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(allow_abbrev=False, add_help=False, **options)
        self.add_argument("-h", "--help", action="help", help="show this help and exit")
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error too"
        )
        self.add_argument(
            "--verbose", action="store_true", default=argparse.SUPPRESS, help="show warnings and logs of the libraries"
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but an unknown flag is an error by itself, before anything is found missing."""
        overrides = [word for word in args or () if self.takes_config and word.startswith("--config.")]
        rest = [word for word in args or () if word not in overrides] if args is not None else None
        if self._subparsers is None:
            self._refuse_unknown_flags(rest)
        namespace, left = super().parse_known_args(rest, namespace)
        if self.takes_config:
            namespace.overrides = [word.removeprefix("--config.") for word in overrides]
        return namespace, left

    def add_config(self) -> None:
        """The flag that names a config file, and ``--config.KEY=VALUE`` for any of its keys."""
        self.takes_config = True
        self.add_argument(
            "--config",
            metavar="FILE[:PRESET]",
            required=True,
            help="config file and its preset, smcd or tiny; --config.KEY=VALUE overrides a value, as in "
            "--config.run.steps=1000",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; what is left over is an error that names it."""
        parsed, left = self.parse_known_args(args, namespace)
        if left:
            self.error(f"what is {left[0]!r} for? Put quotes around values with blanks")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises SMCDError."""
        raise SMCDError(f"{message} (see {self.prog} --help)")

    def _refuse_unknown_flags(self, args: Iterable[str]) -> None:
        for argument in args:
            name = argument.split("=", 1)[0]
            if argument == "--":
                return
            if name.startswith("--") and " " not in argument and name not in self._option_string_actions:
                self.error(f"unknown flag {name}{did_you_mean(name, self._option_string_actions)}")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` with the known word nearest to the given one, or nothing where none is near."""
    known = list(known)
    near = difflib.get_close_matches(given.replace("-", "_"), [word.replace("-", "_") for word in known], 1, 0.7)
    if not near:
        return ""
    return f"; did you mean {next(word for word in known if word.replace('-', '_') == near[0])}?"


def width_and_height(flag: str, text: str, example: str) -> tuple[int, int]:
    """`WxH` as two numbers of pixels.

    Args:
        flag: that was given, for the message.
        text: its value.
        example: a right one.

    Raises:
        SMCDError: anything else, or a side of 0 or of more than 16384.
    """
    from smcd_jax.media import LARGEST_SIDE

    parts = text.lower().split("x")
    whole = len(parts) == 2 and all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts)
    if not whole or not all(1 <= int(part) <= LARGEST_SIDE for part in parts):
        raise SMCDError(f"{flag} {text}: give width and height, 1 to {LARGEST_SIDE} pixels, as in {example}")
    return int(parts[0]), int(parts[1])


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help in which flags stand in one column wide enough for the usual name."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, max_help_position=34, **options)
