"""The options of a clip: flags of `smcd animate`, and columns or keys of a requests file, with one meaning in both."""

from __future__ import annotations

import argparse
import dataclasses
import math
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
        name: without dashes.
        kind: str, int, float; bool for a flag without value; list for texts that may be given several times.
        help: for people; the default is added.
        default: None where the model decides, or where there is none.
        choices: what is allowed, or None for anything of the kind.
        metavar: what help calls the value.
    """

    name: str
    kind: type
    help: str
    default: Any = None
    choices: tuple[str, ...] | None = None
    metavar: str | None = None

    def add_to(self, group: Any) -> None:
        """Adds the flag to an argparse group; where it is not given, the result has no such attribute."""
        kwargs: dict[str, Any] = {"default": argparse.SUPPRESS, "help": self.help.replace("%", "%%")}
        if self.default is not None and self.kind is not bool:
            kwargs["help"] += f" (default: {self.default})"
        if self.kind is bool:
            kwargs["action"] = "store_true"
        elif self.kind is list:
            kwargs |= {"action": "append", "metavar": self.metavar}
        else:
            kwargs |= {"type": self.kind, "choices": self.choices, "metavar": self.metavar}
        group.add_argument(f"--{self.name}", **kwargs)

    def from_text(self, text: str) -> Any:
        """The value of a cell of a table.

        Raises:
            SMCDError: not of the kind.
        """
        try:
            value = _FROM_TEXT[self.kind](text)
        except (ValueError, KeyError) as error:
            self._refuse(text, error)
        return self._checked(value)

    def from_json(self, value: Any) -> Any:
        """The value of a key of a JSON object.

        Raises:
            SMCDError: not of the kind.
        """
        if self.kind is list and isinstance(value, str):
            value = [value]
        accepted = (int, float) if self.kind is float else self.kind
        fits = isinstance(value, accepted) and (self.kind is bool or not isinstance(value, bool))
        if not fits or (self.kind is list and not all(isinstance(item, str) for item in value)):
            self._refuse(value)
        try:
            return self._checked(self.kind(value))
        except OverflowError as error:
            self._refuse(value, error)

    def _checked(self, value: Any) -> Any:
        if self.choices is not None and value not in self.choices:
            refuse(self.name, value, f"be one of {', '.join(self.choices)}")
        return value

    def _refuse(self, value: Any, cause: Exception | None = None) -> NoReturn:
        raise SMCDError(
            f"{self.name} must be {_KIND_NAMES[self.kind]}, got {value!r:.60}", argument=self.name, value=value
        ) from cause


_FROM_TEXT: Mapping[type, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()],
    list: lambda text: [part.strip() for part in text.split(";") if part.strip()],
}
_KIND_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}

INPUTS = (
    Option("image", str, "the picture to animate, its first frame (PNG, JPEG, WebP, ...)", metavar="FILE"),
    Option("prompt", str, "what happens, in a few words; by default the prompt of the tracks", metavar="TEXT"),
    Option("tracks", str, "tracks of boxes: a tracks.json, or a file or folder of another format", metavar="PATH"),
    Option(
        "track",
        list,
        "one moving object, in pixels of the picture: 'rocket: 300,125,345,405 -> 300,10,345,290'; may be repeated",
        metavar="'LABEL: BOX -> BOX'",
    ),
    Option(
        "input_data_path", str, "instead, a folder with img.png, bbox.txt, prompt.txt; needs --label", metavar="FOLDER"
    ),
    Option("tracks_format", str, "format of the tracks; by default found by name and content", choices=TRACK_FORMATS),
    Option("tracks_video", str, "id or name of the video to take from a YouTube-VIS file", metavar="ID"),
    Option("label", str, "what the object is, where the tracks do not say", metavar="TEXT"),
)


def _sampling_options() -> Iterator[Option]:
    """An option for each field of `SamplingOptions`."""
    hints = typing.get_type_hints(SamplingOptions)
    for field in dataclasses.fields(SamplingOptions):
        hint, about = hints[field.name], field.metadata
        kinds = [kind for kind in (bool, int, float, str) if kind is hint or kind in typing.get_args(hint)]
        default = None if field.default is False else field.default
        help = about["help"] if field.default is not None else f"{about['help']} (default: the model's)"
        kind = kinds[0] if kinds else str
        yield Option(field.name, kind, help, default, choices=about["choices"], metavar=about["metavar"])


_OF_SAMPLING = {option.name: option for option in _sampling_options()}
INPUTS = (*INPUTS, dataclasses.replace(_OF_SAMPLING.pop("negative_prompt"), help="what the video should not show"))
SAMPLING = (
    *_OF_SAMPLING.values(),
    Option("fps", float, "frames per second of the files (default: the model's)", metavar="N"),
    Option("truncate_prompt", bool, "read only the beginning of a text that is longer than the model reads"),
)

OUTPUT = Option("output", str, "NAME of the results; by default that of the picture, in this folder", metavar="NAME")

OPTIONS: Mapping[str, Option] = {option.name: option for option in (*INPUTS, OUTPUT, *SAMPLING)}


def sampling_options(given: Mapping[str, Any]) -> SamplingOptions:
    """The sampling options among those given, with defaults for the rest.

    Raises:
        SMCDError: A text is empty, or an option is out of range or excludes another.
    """
    for name, value in given.items():
        if value == "" and name not in ("prompt", "negative_prompt"):
            refuse(name, value, "not be empty")
    names = {field.name for field in dataclasses.fields(SamplingOptions)}
    return SamplingOptions(**{name: value for name, value in given.items() if name in names})


def check_fps(fps: float, formats: tuple[str, ...]) -> None:
    """Raises SMCDError for a frame rate that one of the formats cannot show."""
    highest = 50 if "gif" in formats else 1000
    if not math.isfinite(fps) or not 0.01 <= fps <= highest:
        of = " for a GIF" if highest == 50 and fps > 50 else ""
        refuse("fps", fps, f"be from 0.01 to {highest}{of}")
