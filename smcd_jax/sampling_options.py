"""The options of sampling, written once: command-line flags, the Python call, evaluation and provenance come from here.

Imports nothing heavy, so that help texts can be made from it without JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from smcd_jax.errors import SMCDError

Sampler = Literal["ddim", "euler", "dpmsolver++", "unipc"]
Spacing = Literal["leading", "trailing", "linspace", "reference"]


def _option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    every_family: bool = True,
) -> Any:
    about = {"help": help, "metavar": metavar, "choices": choices, "every_family": every_family}
    return dataclasses.field(default=default, metadata=about)


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """Options of sampling; None selects the model's own value.

    Names are those of diffusers. The help text of a field is in its metadata. Attributes that a model family does not
    have are refused by name when they are set.

    Raises:
        SMCDError: A value is of the wrong type or out of range.
    """

    negative_prompt: str | Sequence[str | None] | None = _option(None, "what the video should not show", metavar="TEXT")
    num_inference_steps: int = _option(50, "number of denoising steps, 1 to 1000", metavar="N")
    guidance_scale: float | None = _option(None, "guidance scale of the prompt; 1 turns guidance off", metavar="S")
    image_guidance_scale: float | None = _option(None, "guidance scale of the picture", metavar="S", every_family=False)
    box_guidance_scale: float | None = _option(None, "guidance scale of the boxes", metavar="S", every_family=False)
    guidance_rescale: float = _option(0.0, "0 to 1; reduces overexposure at high guidance scales", metavar="PHI")
    seed: int | Sequence[int] = _option(0, "seed of the first video; further videos use the next ones", metavar="N")
    height: int | None = _option(None, "height of the video in pixels", metavar="N")
    width: int | None = _option(None, "width of the video in pixels", metavar="N")
    num_frames: int | None = _option(None, "number of frames", metavar="N")
    num_videos_per_prompt: int = _option(1, "number of videos, named NAME_0, NAME_1, ...", metavar="N")
    scheduler: Sampler = _option("ddim", "sampler", choices=get_args(Sampler))
    timestep_spacing: Spacing = _option("leading", "which timesteps are visited", choices=get_args(Spacing))
    eta: float = _option(0.0, "0 to 1; noise that ddim adds at each step", metavar="ETA")
    rescale_zero_terminal_snr: bool = _option(False, "for models trained with zero terminal SNR")
    reference_guidance: bool = _option(
        False, "guidance as in the published code of SMCD, to reproduce its samples", every_family=False
    )
    img_free_guidance: float | None = _option(
        None, "picture weight of --reference_guidance", metavar="W", every_family=False
    )
    ti_free_guidance: float | None = _option(
        None, "text and picture weight of --reference_guidance", metavar="W", every_family=False
    )
    decode_chunk_size: int = _option(8, "frames decoded at once; fewer need less memory", metavar="N")

    def __post_init__(self):
        for name in ("num_inference_steps", "num_videos_per_prompt", "decode_chunk_size"):
            _check_whole(name, getattr(self, name), least=1)
        for name in ("height", "width", "num_frames"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), least=1)
        for value in self.seed if isinstance(self.seed, list | tuple) else (self.seed,):
            _check_whole("seed", value)
        for name in ("guidance_rescale", "eta"):
            _check_number(name, getattr(self, name))
            if not 0 <= getattr(self, name) <= 1:
                refuse(name, getattr(self, name), "be between 0 and 1")
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata["choices"]
            if choices is not None and value not in choices:
                refuse(field.name, value, f"be one of {', '.join(choices)}")
            if field.name.endswith(("guidance_scale", "free_guidance")) and value is not None:
                _check_number(field.name, value)
                if not math.isfinite(value):
                    refuse(field.name, value, "be a finite number")
        self._check_guidance()

    def _check_guidance(self) -> None:
        composed, additive = ("image_guidance_scale", "box_guidance_scale"), ("img_free_guidance", "ti_free_guidance")
        for name in composed if self.reference_guidance else additive:
            if getattr(self, name) is not None:
                needed = "not be set with" if self.reference_guidance else "be set together with"
                refuse(name, getattr(self, name), f"{needed} reference_guidance")

    def updated(self, overrides: Mapping[str, Any]) -> SamplingOptions:
        """These options with some replaced.

        Raises:
            SMCDError: No such option, or as the class.
        """
        known = {field.name for field in dataclasses.fields(self)}
        for name in overrides:
            if name not in known:
                raise SMCDError(
                    f"unknown option {name!r}; known are {', '.join(sorted(known))}", argument=name, value=name
                )
        return dataclasses.replace(self, **overrides)

    def as_dict(self) -> dict[str, Any]:
        """Every option by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


FAMILY_OPTIONS = tuple(
    field.name for field in dataclasses.fields(SamplingOptions) if not field.metadata["every_family"]
)  # options that a family has to declare


def refuse(name: str, value: Any, condition: str) -> None:
    """Raises the error that an argument must satisfy a condition.

    Raises:
        SMCDError: Always.
    """
    raise SMCDError(f"{name} must {condition}, got {value!r:.60}", argument=name, value=value)


def _check_whole(name: str, value: Any, *, least: int | None = None) -> None:
    # numpy's integers are accepted too; they have __index__, as booleans do
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        refuse(name, value, "be a whole number")
    if least is not None and value < least:
        refuse(name, value, f"be at least {least}")


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        refuse(name, value, "be a number")
