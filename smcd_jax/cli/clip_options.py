"""The options of a clip: flags of `smcd animate`, and columns or keys of a requests file, with one meaning in both."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from smcd_jax.errors import SMCDError

# Of smcd_jax.diffusion, and a test holds them equal: importing it takes JAX, which help must not.
SCHEDULERS = ("ddim", "euler", "dpmsolver++", "unipc")
SPACINGS = ("leading", "trailing", "linspace", "reference")
TRACK_FORMATS = ("smcd-tracks", "reference", "got10k", "mot", "youtube-vis")


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
        how: dict[str, Any] = {"default": argparse.SUPPRESS, "help": self.help.replace("%", "%%")}
        if self.default is not None and self.kind is not bool:
            how["help"] += f" (default: {self.default})"
        if self.kind is bool:
            how["action"] = "store_true"
        elif self.kind is list:
            how |= {"action": "append", "metavar": self.metavar}
        else:
            how |= {"type": self.kind, "choices": self.choices, "metavar": self.metavar}
        group.add_argument(f"--{self.name}", **how)

    def from_text(self, text: str) -> Any:
        """The value of a cell of a table.

        Raises:
            SMCDError: not of the kind.
        """
        try:
            value = _FROM_TEXT[self.kind](text)
        except (ValueError, KeyError) as error:
            raise SMCDError(f"{self.name} is {text!r}; it must be {_IN_WORDS[self.kind]}") from error
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
            raise SMCDError(f"{self.name} is {value!r:.60}; it must be {_IN_WORDS[self.kind]}")
        try:
            return self._checked(self.kind(value))
        except OverflowError as error:
            raise SMCDError(f"{self.name} is {value!r:.60}; it must be {_IN_WORDS[self.kind]}") from error

    def _checked(self, value: Any) -> Any:
        if self.choices is not None and value not in self.choices:
            raise SMCDError(f"{self.name} is {value!r}; use one of {', '.join(self.choices)}")
        return value


_FROM_TEXT: Mapping[type, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()],
    list: lambda text: [part.strip() for part in text.split(";") if part.strip()],
}
_IN_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}

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
    Option("negative_prompt", str, "what not to show", metavar="TEXT"),
)

SAMPLING = (
    Option("num_inference_steps", int, "denoising steps, 1 to 1000", 50, metavar="N"),
    Option("guidance_scale", float, "how strongly the prompt guides; 1 is not at all", 7.5, metavar="S"),
    Option("image_guidance_scale", float, "the same for the picture", 1.0, metavar="S"),
    Option("box_guidance_scale", float, "the same for the boxes", 1.0, metavar="S"),
    Option("guidance_rescale", float, "0 to 1, against overexposure at high scales", 0.0, metavar="PHI"),
    Option("seed", int, "of the first video; each further one takes the next", 0, metavar="N"),
    Option("height", int, "of the video in pixels; by default the model's", metavar="N"),
    Option("width", int, "of the video in pixels; by default the model's", metavar="N"),
    Option("num_frames", int, "by default the model's", metavar="N"),
    Option("num_videos_per_prompt", int, "how many videos, named NAME_0, NAME_1, ...", 1, metavar="N"),
    Option("fps", float, "frames per second of the files; by default the model's", metavar="N"),
    Option("scheduler", str, "the sampler; ddim is the paper's", "ddim", choices=SCHEDULERS),
    Option("timestep_spacing", str, "which timesteps are visited; leading is the paper's", "leading", choices=SPACINGS),
    Option("eta", float, "0 to 1, noise added back by ddim", 0.0, metavar="ETA"),
    Option("rescale_zero_terminal_snr", bool, "for models trained so"),
    Option("reference_guidance", bool, "guidance as the published code computes it, to reproduce its samples"),
    Option("img_free_guidance", float, "its weight of the picture, with --reference_guidance", 0.0, metavar="W"),
    Option("ti_free_guidance", float, "its weight of text and picture, with --reference_guidance", 0.0, metavar="W"),
    Option("decode_chunk_size", int, "frames decoded at once; fewer need less memory", 8, metavar="N"),
    Option("truncate_prompt", bool, "read only the beginning of a text that is longer than the model reads"),
)

OUTPUT = Option("output", str, "NAME of the results; by default that of the picture, in this folder", metavar="NAME")

OPTIONS: Mapping[str, Option] = {option.name: option for option in (*INPUTS, OUTPUT, *SAMPLING)}


# Options that the pipeline takes as they are, whatever clip it makes.
PIPELINE_ARGUMENTS = (
    *("num_inference_steps", "guidance_rescale", "scheduler", "timestep_spacing", "rescale_zero_terminal_snr", "eta"),
    *("height", "width", "num_frames", "decode_chunk_size"),
)


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every sampling option: what is given, or its default.

    Raises:
        SMCDError: an empty text, options that exclude each other, or a number out of range.
    """
    values = {option.name: given.get(option.name, option.default) for option in SAMPLING}
    for name, value in given.items():
        if value == "" and name not in ("prompt", "negative_prompt"):
            raise SMCDError(f"{name} is empty; give it a value or leave it out")
    values |= {option.name: bool(values[option.name]) for option in SAMPLING if option.kind is bool}
    _check_guidance(given, reference=values["reference_guidance"])
    if values["decode_chunk_size"] < 1:
        raise SMCDError(f"decode_chunk_size is {values['decode_chunk_size']}; use 1 or more")
    if not 0 <= values["guidance_rescale"] <= 1:
        raise SMCDError(f"guidance_rescale is {values['guidance_rescale']}; use a number from 0 to 1")
    return values


def check_fps(fps: float, formats: tuple[str, ...]) -> None:
    """Raises SMCDError for a frame rate that one of the formats cannot show."""
    highest = 50 if "gif" in formats else 1000
    if not math.isfinite(fps) or not 0.01 <= fps <= highest:
        of = " of a GIF" if highest == 50 and fps > 50 else ""
        raise SMCDError(f"fps{of} is {fps:g}; use a number from 0.01 to {highest}")


def _check_guidance(given: Mapping[str, Any], *, reference: bool) -> None:
    additive, composed = ("img_free_guidance", "ti_free_guidance"), ("image_guidance_scale", "box_guidance_scale")
    for name in composed if reference else additive:
        if name in given:
            where = "composed guidance only: leave out --reference_guidance" if reference else "--reference_guidance"
            raise SMCDError(f"{name} goes with {where}")
