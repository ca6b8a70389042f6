"""The options of a clip: flags of `smcd animate`, and columns or keys of a file of requests."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from smcd_jax.errors import SMCDError
from smcd_jax.sampling_options import SamplingOptions, refuse

WRITTEN_TRACK_FORMATS = ("smcd-tracks", "reference", "got10k", "mot", "youtube-vis")
TRACK_FORMATS = (
    *WRITTEN_TRACK_FORMATS,
    "otb",
    "cvat-mot",
    "cvat",
    "label-studio",
    "coco-vid",
    "kitti",
    "vatic",
    "visdrone",
)


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: Name without dashes.
        kind: Type of the value: ``str``, ``int`` or ``float``; ``bool`` for a flag without value; ``bool | str`` for a
            flag whose value may be omitted; ``list`` for texts that may be given several times.
        help: Help text; the default is added.
        default: Default value; None if the model decides or there is no default.
        choices: Allowed values; None for any value of the type.
        metavar: Placeholder of the value in the help text.
        every_family: Whether every model family has the option.
    """

    name: str
    kind: Any
    help: str
    default: Any = None
    choices: tuple[str, ...] | None = None
    metavar: str | None = None
    every_family: bool = True

    def add_to(self, group: Any) -> None:
        """Adds the flag to an argparse group; without it the namespace has no such attribute."""
        kwargs: dict[str, Any] = {"default": argparse.SUPPRESS, "help": self.help.replace("%", "%%")}
        if self.default is not None and self.kind is not bool:
            kwargs["help"] += f" (default: {self.default})"
        if self.kind is bool:
            kwargs["action"] = "store_true"
        elif self.kind is list:
            kwargs |= {"action": "append", "metavar": self.metavar}
        elif self.kind == bool | str:
            kwargs |= {"nargs": "?", "const": True, "metavar": self.metavar}
        else:
            kwargs |= {"type": self.kind, "choices": self.choices, "metavar": self.metavar}
        group.add_argument(f"--{self.name}", **kwargs)

    def from_text(self, text: str) -> Any:
        """Returns the value of a table cell.

        Raises:
            SMCDError: The text is not a value of the option's type.
        """
        try:
            value = _FROM_TEXT[self.kind](text)
        except (ValueError, KeyError) as error:
            self._refuse(text, error)
        return self._checked(value)

    def from_json(self, value: Any) -> Any:
        """Returns the value of a JSON member.

        Raises:
            SMCDError: The value is not of the option's type.
        """
        if self.kind is list and isinstance(value, str):
            value = [value]
        accepted = (int, float) if self.kind is float else self.kind
        fits = isinstance(value, accepted) and (self.kind in (bool, bool | str) or not isinstance(value, bool))
        if not fits or (self.kind is list and not all(isinstance(item, str) for item in value)):
            self._refuse(value)
        try:
            return self._checked(float(value) if self.kind is float else value)
        except OverflowError as error:
            self._refuse(value, error)

    def _checked(self, value: Any) -> Any:
        if self.choices is not None and value not in self.choices:
            refuse(self.name, value, f"be one of {', '.join(self.choices)}")
        return value

    def _refuse(self, value: Any, cause: Exception | None = None) -> NoReturn:
        message = f"{self.name} must be {_KIND_NAMES[self.kind]}, got {value!r:.60}"
        raise SMCDError(message, argument=self.name, value=value) from cause


_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FROM_TEXT: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: _BOOLEANS[text.lower()],
    bool | str: lambda text: _BOOLEANS.get(text.lower(), text),
    list: lambda text: [part.strip() for part in text.split(";") if part.strip()],
}
_KIND_NAMES = {
    **{str: "text", int: "a whole number", float: "a number", list: "a list of texts"},
    **{bool: "true or false", bool | str: "true, false or text"},
}

_INPUTS = (
    Option("image", str, "picture to animate, the first frame (PNG, JPEG, WebP, ...)", metavar="FILE"),
    Option("prompt", str, "what happens, in a few words (default: the prompt of the tracks)", metavar="TEXT"),
    Option("tracks", str, "box tracks: a tracks.json, or a file or folder of another format", metavar="PATH"),
    Option(
        "track",
        list,
        "moving object, boxes x1,y1,x2,y2 in pixels of the picture; may be repeated",
        metavar="'LABEL: BOX -> BOX'",
    ),
    Option("input_data_path", str, "folder with img.png, bbox.txt and prompt.txt; needs --label", metavar="FOLDER"),
    Option("tracks_format", str, "format of the tracks (default: by name and content)", choices=TRACK_FORMATS),
    Option("tracks_video", str, "id or name of the video to read from a YouTube-VIS file", metavar="ID"),
    Option("label", str, "label of the object, if the tracks have none", metavar="TEXT"),
)


def _of_sampling(*, is_input: bool) -> Iterator[Option]:
    """Yields an option for each field of `SamplingOptions` whose metadata has this ``is_input``."""
    hints = typing.get_type_hints(SamplingOptions)
    for field in dataclasses.fields(SamplingOptions):
        hint, about = hints[field.name], field.metadata
        if about["is_input"] != is_input:
            continue
        kinds = [kind for kind in (bool, int, float, str) if kind is hint or kind in typing.get_args(hint)]
        kind = bool | str if kinds == [bool, str] else kinds[0] if kinds else str
        by_model = field.default is None and bool not in kinds and not is_input
        help = f"{about['help']} (default: the model's own)" if by_model else about["help"]
        same = {name: about[name] for name in ("choices", "metavar", "every_family")}
        yield Option(field.name, kind, help, field.default, **same)


INPUTS = (*_INPUTS, *_of_sampling(is_input=True))
SAMPLING = (
    *_of_sampling(is_input=False),
    Option("fps", float, "frames per second of the files (default: the model's own)", metavar="N"),
    Option("truncate_prompt", bool, "cut texts that are longer than the model reads"),
)

OUTPUT = Option("output", str, "NAME of the results (default: that of the picture, in this folder)", metavar="NAME")

SAVE_MOTION = Option(
    "save_motion", str, "also write the motion, for --motion_from (models with motion fields)", metavar="FILE.npz"
)

OPTIONS: Mapping[str, Option] = {option.name: option for option in (*INPUTS, OUTPUT, SAVE_MOTION, *SAMPLING)}
