"""The argument parser of every command: errors as `SMCDError`, with a suggestion for unknown options."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from typing import Any, NoReturn

from smcd_jax.errors import SMCDError

_LARGEST_SIDE = 16384  # the same as `smcd_jax.media.LARGEST_SIDE`, which takes a second to import
# Option names of other programs, and the corresponding names here.
_OTHER_NAMES = {
    "--measures": "--metrics",
    "--steps": "--num_inference_steps",
    "--frames": "--num_frames",
    "--cfg": "--guidance_scale",
    "--cfg_scale": "--guidance_scale",
    "--text": "--prompt",
    "--picture": "--image",
    "--boxes": "--tracks",
}


class CommandParser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `SMCDError` where argparse would print the usage and exit.

    Every parser accepts --debug and --verbose, so that they work before and after the command. Abbreviated options are
    rejected, because an abbreviation may become ambiguous when an option is added.

    Attributes:
        common: Names of the options that ``--help`` shows, for a command with more options than fit on a screen;
            ``--help all`` shows every option. Empty to always show all.
        details: Text that ``--help all`` shows in addition.
    """

    takes_config = False
    common: tuple[str, ...] = ()
    details: str = ""

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(allow_abbrev=False, add_help=False, exit_on_error=False, **options)
        self.add_argument("-h", "--help", action=_Help, help="show this help and exit")
        self.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        self.add_argument(
            "--verbose", action="store_true", default=argparse.SUPPRESS, help="show warnings and logs of libraries"
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does, but reports unknown options before missing ones."""
        overrides = [word for word in args or () if self.takes_config and word.startswith("--config.")]
        rest = [word for word in args or () if word not in overrides] if args is not None else None
        if self._subparsers is None:
            self._refuse_unknown_options(rest)
        try:
            namespace, left = super().parse_known_args(rest, namespace)
        except argparse.ArgumentError as error:
            raise self._refusal(str(error), argument=(error.argument_name or "").lstrip("-") or None) from error
        if self.takes_config:
            namespace.overrides = [word.removeprefix("--config.") for word in overrides]
        return namespace, left

    def format_help(self) -> str:
        """Returns the help of the common options, or of all options after ``--help all`` or if ``common`` is empty."""
        if not self.common:
            return "\n".join(filter(None, [super().format_help(), self.details]))
        actions = {action.dest: action for action in self._actions}
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, [actions[name] for name in self.common], [])
        formatter.add_text(self.description)
        formatter.start_section("common options")
        formatter.add_arguments([actions[name] for name in self.common])
        formatter.end_section()
        formatter.add_text(f"`{self.prog} --help all` shows all {len(actions)} options.")
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def add_config(self) -> None:
        """Adds the option --config, and ``--config.KEY=VALUE`` for each of its keys."""
        self.takes_config = True
        self.add_argument(
            "--config",
            metavar="FILE[:PRESET]",
            required=True,
            help="config file and its preset, smcd or tiny; --config.KEY=VALUE overrides a value, as in "
            "--config.run.steps=1000",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses as argparse does; remaining arguments are an error."""
        parsed, left = self.parse_known_args(args, namespace)
        if left:
            raise self._refusal(f"unrecognized argument {left[0]!r}; quote values that contain spaces", value=left[0])
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raises `SMCDError`."""
        raise self._refusal(message)

    def _refusal(self, message: str, **fields: Any) -> SMCDError:
        return SMCDError(f"{message} (see {self.prog} --help)", **fields)

    def _refuse_unknown_options(self, args: Iterable[str]) -> None:
        for argument in args:
            name = argument.split("=", 1)[0]
            if argument == "--":
                return
            if name.startswith("--") and " " not in argument and name not in self._option_string_actions:
                ours = _OTHER_NAMES.get(name.replace("-", "_").replace("__", "--", 1))
                named = ours in self._option_string_actions
                suggestion = f"; did you mean {ours}?" if named else did_you_mean(name, self._option_string_actions)
                raise self._refusal(f"unknown option {name}{suggestion}", argument=name.lstrip("-"), value=argument)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `; did you mean ...?` with the most similar known word, or an empty string if no word is similar."""
    normalized = {candidate.replace("-", "_"): candidate for candidate in reversed(list(known))}
    near = difflib.get_close_matches(word.replace("-", "_"), normalized, 1, 0.7)
    return f"; did you mean {normalized[near[0]]}?" if near else ""


def width_and_height(text: str) -> tuple[int, int]:
    """Parses a text such as "256x256" into (width, height) in pixels, as the ``type`` of an option.

    Raises:
        argparse.ArgumentTypeError: The text has another form, or a side is not from 1 to 16384.
    """
    parts = text.lower().split("x")
    whole = len(parts) == 2 and all(part.isascii() and part.isdecimal() and len(part) < 6 for part in parts)
    if not whole or not all(1 <= int(part) <= _LARGEST_SIDE for part in parts):
        raise argparse.ArgumentTypeError(
            f"must be WIDTHxHEIGHT with sides from 1 to {_LARGEST_SIDE} pixels, such as 640x427, got {text!r}"
        )
    return int(parts[0]), int(parts[1])


class _Help(argparse.Action):
    """``--help`` and ``--help all``."""

    def __init__(self, option_strings: Any, dest: str, help: str):
        super().__init__(
            option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs="?", help=help, metavar="all"
        )

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if values == "all":
            parser.common = ()
        parser.print_help()
        parser.exit()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Formats help with a column of options that is wide enough for most names."""

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, max_help_position=30, **options)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """Adds the usage line without the options that every command has."""
        actions = [action for action in actions if action.dest not in (argparse.SUPPRESS, "debug", "verbose")]
        super().add_usage(usage, actions, groups, prefix)
