"""Descriptions of models and their options for forms, and validation of the option values that clients send."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.sampling_options import SamplingOptions, refuse

_MOST_GIF_FPS = 50.0
_LARGEST_SEED = 2**32 - 1
_SEPARATE = ("num_videos_per_prompt",)  # options that are separate fields of a request


@dataclasses.dataclass(frozen=True)
class FormOption:
    """One option of a model.

    Attributes:
        name: Name, as on the command line.
        type: "int", "float", "bool", "choice", "text" or "picture". The value of a picture is the id of a picture.
        default: Value that the model uses if the option is not sent.
        minimum: Smallest value, or None.
        maximum: Largest value, or None.
        choices: Allowed values of a choice, else None.
        help: Description.
        common: Whether the option is listed among the common ones.
    """

    name: str
    type: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    help: str = ""
    common: bool = False

    def check(self, value: Any) -> None:
        """Checks the type of a value from JSON; ranges are checked by `SamplingOptions`.

        Raises:
            SMCDError: The value has another type or is not among the choices.
        """
        whole = isinstance(value, int) and not isinstance(value, bool)
        if self.type == "choice" and (isinstance(value, list | dict) or value not in self.choices):
            refuse(self.name, value, f"be one of {', '.join(map(str, self.choices))}")
        if self.type == "bool" and not isinstance(value, bool):
            refuse(self.name, value, "be true or false")
        if self.type == "int" and not whole:
            refuse(self.name, value, "be a whole number")
        if self.type == "float" and not (whole or isinstance(value, float)):
            refuse(self.name, value, "be a number")
        if self.type in ("text", "picture") and not isinstance(value, str):
            refuse(self.name, value, "be text" if self.type == "text" else "be the id of a picture")


def form_options(pipeline: VideoPipeline) -> tuple[FormOption, ...]:
    """Returns the options of a model, common ones first."""
    model = pipeline.model
    defaults, own = model.resolve(SamplingOptions()).as_dict(), model.family_options()
    hints = typing.get_type_hints(SamplingOptions)
    options = []
    for field in dataclasses.fields(SamplingOptions):
        about = field.metadata
        present = about["every_family"] or field.name in own
        if not present or field.name in _SEPARATE or (about["is_input"] and about["form"] is None):
            continue
        low, high = (None, _LARGEST_SEED) if field.name == "seed" else about["bounds"]
        kind = about["form"] or _kind(hints[field.name], about["choices"])
        choices = own.get(field.name) or about["choices"]
        options.append(
            FormOption(
                field.name,
                "choice" if choices else kind,
                default=defaults[field.name],
                minimum=0 if field.name == "seed" else low,
                maximum=high,
                choices=tuple(choices) if choices else None,
                help=about["help"],
                common=about["common"],
            )
        )
    options += [
        FormOption(
            "fps",
            "float",
            default=float(pipeline.config.fps),
            minimum=0.01,
            maximum=_MOST_GIF_FPS,
            help="frames per second of the files",
        ),
        FormOption("truncate_prompt", "bool", default=False, help="cut texts that are longer than the model reads"),
    ]
    return tuple(sorted(options, key=lambda option: not option.common))


def describe_model(name: str, pipeline: VideoPipeline) -> dict[str, Any]:
    """Returns the description of a model for clients: sizes, required inputs and options."""
    model, config = pipeline.model, pipeline.config
    resolved = model.resolve(SamplingOptions())
    target = next((step.shape for step in model.feature_steps if step.name == model.target), None)
    return {
        "name": name,
        "title": f"{name}: {config.frames} frames of {config.width} x {config.height}",
        "family": pipeline.folder.family.name,
        "num_frames": resolved.num_frames,
        "fps": config.fps,
        "width": config.width,
        "height": config.height,
        "max_objects": config.max_objects,
        "latent_scale": max(1, config.height // target[-3]) if target is not None and len(target) >= 3 else 1,
        "takes_tracks": model.takes_tracks,
        "required": list(model.required),
        "picture_fit": resolved.picture_fit or "stretch",
        "options": [dataclasses.asdict(option) for option in form_options(pipeline)],
    }


def checked_options(options: tuple[FormOption, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the names and types of option values, and returns those that are set.

    Raises:
        SMCDError: An option is unknown, or a value has the wrong type.
    """
    known = {option.name: option for option in options}
    chosen = {name: value for name, value in values.items() if value is not None}
    for name, value in chosen.items():
        if name not in known:
            message = f"unknown option {name!r:.60}; this model has {', '.join(sorted(known))}"
            raise SMCDError(message, argument=name[:60], value=name)
        known[name].check(value)
    return chosen


def _kind(hint: Any, choices: Any) -> str:
    if choices:
        return "choice"
    parts = (hint, *typing.get_args(hint))
    kinds = [name for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "text")) if kind in parts]
    return kinds[0] if kinds else "text"
