"""The options of sampling, defined once for command-line flags, the Python call, evaluation and provenance.

Imports nothing heavy, so that help texts can be made from it without JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from smcd_jax.errors import SMCDError

Sampler = Literal["ddim", "euler", "dpmsolver++", "unipc"]
Spacing = Literal["leading", "trailing", "linspace", "reference"]

Check = Callable[[str, Any], None]


FORMATS = ("mp4", "gif", "webp", "frames")  # formats of video files


def refuse(name: str, value: Any, condition: str) -> None:
    """Raises an error that says which condition an argument must satisfy.

    Raises:
        SMCDError: Always.
    """
    raise SMCDError(f"{name} must {condition}, got {value!r:.60}", argument=name, value=value)


def whole(least: int | None = None) -> Check:
    """Returns the check for a whole number of at least ``least``."""

    def check(name: str, value: Any) -> None:
        # NumPy integers are accepted too; they have __index__, but so do booleans
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            refuse(name, value, "be a whole number")
        if least is not None and value < least:
            refuse(name, value, f"be at least {least}")

    check.bounds = (least, None)
    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """Returns the check for a finite number in ``low``..``high``."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool | str) or not hasattr(value, "__float__"):
            refuse(name, value, "be a number")
        if not math.isfinite(value):
            refuse(name, value, "be a finite number")
        if not low <= value <= high:
            refuse(name, value, f"be between {low:g} and {high:g}")

    check.bounds = tuple(bound if math.isfinite(bound) else None for bound in (low, high))
    return check


def one_of(*choices: Any) -> Check:
    """Returns the check for a value that must be one of ``choices``."""

    def check(name: str, value: Any) -> None:
        if value not in choices:
            refuse(name, value, f"be one of {', '.join(map(str, choices))}")

    return check


def _mode(name: str, value: Any) -> None:
    if not isinstance(value, bool | str):
        refuse(name, value, "be true, false or the name of a mode")


def _each(check: Check) -> Check:
    """Returns the check for one value or a list of values."""

    def check_all(name: str, values: Any) -> None:
        for value in values if isinstance(values, list | tuple) else (values,):
            check(name, value)

    check_all.bounds = check.bounds
    return check_all


def _option(
    help: str,
    check: Check | None = None,
    *,
    default: Any = None,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    every_family: bool = True,
    is_input: bool = False,
    common: bool = False,
    form: str | None = None,
) -> Any:
    about = {
        **{"help": help, "metavar": metavar, "choices": choices, "check": one_of(*choices) if choices else check},
        **{"every_family": every_family, "is_input": is_input},
        **{"common": common, "form": form, "bounds": getattr(check, "bounds", (None, None))},
    }
    return dataclasses.field(default=default, metadata=about, compare=not is_input)


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """Options of sampling; None selects the model's own value (`smcd_jax.models.video_model.VideoModel.resolve`).

    Names are those of diffusers. The help text of a field is in its metadata. Options that a model family does not have
    are refused by name when they are set.

    Raises:
        SMCDError: A value is of the wrong type or out of range.
    """

    negative_prompt: str | Sequence[str | None] | None = _option(
        "what the video should not show", metavar="TEXT", is_input=True, common=True, form="text"
    )
    end_image: Any = _option(
        "last frame of the video, for models that interpolate between two pictures",
        metavar="FILE",
        every_family=False,
        is_input=True,
        common=True,
        form="picture",
    )
    num_inference_steps: int | None = _option(
        "number of denoising steps, 1 to 1000", whole(1), metavar="N", common=True
    )
    guidance_scale: float | None = _option(
        "guidance scale of the prompt; 1 turns guidance off", number(), metavar="S", common=True
    )
    image_guidance_scale: float | None = _option(
        "guidance scale of the picture", number(), metavar="S", every_family=False
    )
    box_guidance_scale: float | None = _option(
        "guidance scale of the boxes", number(), metavar="S", every_family=False, common=True
    )
    guidance_rescale: float | None = _option(
        "0 to 1; reduces overexposure at high guidance scales", number(0, 1), metavar="PHI"
    )
    seed: int | Sequence[int] = _option(
        "seed of the first video; others use the next seeds", _each(whole()), default=0, metavar="N", common=True
    )
    height: int | None = _option("height of the video in pixels", whole(1), metavar="N")
    width: int | None = _option("width of the video in pixels", whole(1), metavar="N")
    num_frames: int | None = _option(
        "number of frames; a video longer than a window is made of overlapping windows", whole(1), metavar="N"
    )
    window: int | None = _option(
        "frames denoised together, by default as many as the model was trained on; memory grows with it, not with "
        "num_frames",
        whole(1),
        metavar="N",
    )
    window_overlap: int | None = _option(
        "frames that neighbouring windows share, where they are blended (default: half of a window)",
        whole(0),
        metavar="N",
    )
    num_videos_per_prompt: int = _option(
        "number of videos, named NAME_0, NAME_1, ...", whole(1), default=1, metavar="N"
    )
    scheduler: Sampler | None = _option("sampler", choices=get_args(Sampler))
    timestep_spacing: Spacing | None = _option("which timesteps are visited", choices=get_args(Spacing))
    eta: float | None = _option("0 to 1; noise that ddim adds at each step", number(0, 1), metavar="ETA")
    rescale_zero_terminal_snr: bool | None = _option(
        "for models trained with zero terminal SNR whose config does not say so", one_of(True, False)
    )
    reference_guidance: bool | None = _option(
        "guidance as in the published code of SMCD, to reproduce its samples", one_of(True, False), every_family=False
    )
    img_free_guidance: float | None = _option(
        "picture weight of --reference_guidance", number(), metavar="W", every_family=False
    )
    ti_free_guidance: float | None = _option(
        "text and picture weight of --reference_guidance", number(), metavar="W", every_family=False
    )
    loop: bool | str | None = _option(
        "make the video loop; MODE is one of the model's ways to loop (default: its first)",
        _mode,
        metavar="MODE",
        every_family=False,
        common=True,
    )
    loop_gradient: Literal["short", "full"] | None = _option(
        "gradient of loop and box guidance: short is cheap, full is the published form through the network",
        choices=("short", "full"),
        every_family=False,
    )
    loop_weight: float | None = _option(
        "strength of loop and box guidance relative to the noise", number(0, 100), metavar="W", every_family=False
    )
    slow: int | None = _option("slow motion: N steps for each frame", whole(1), metavar="N", every_family=False)
    interpolation: Literal["linear", "cubic"] | None = _option(
        "fields between two frames of slow motion", choices=("linear", "cubic"), every_family=False
    )
    strength: float | None = _option(
        "factor of the motion; 1 is the sampled motion", number(0, 10), metavar="S", every_family=False
    )
    motion_from: str | None = _option(
        "motion file (--save_motion) that moves the picture, in place of a sampled motion",
        metavar="FILE",
        every_family=False,
        is_input=True,
    )
    frame_stride: int | None = _option(
        "frame stride stated to the model; larger is faster motion", whole(1), metavar="N", every_family=False
    )
    fps_condition: int | None = _option(
        "frame rate stated to the model; smaller is faster motion", whole(1), metavar="N", every_family=False
    )
    undo_rescale: bool | None = _option(
        "restore the contrast that dynamic rescale reduces at few steps", one_of(True, False), every_family=False
    )
    picture_fit: Literal["crop", "pad", "gui", "stretch"] | None = _option(
        "how to fit a picture of another aspect ratio: crop it, add bars (black, or grey as on the published web "
        "page), or distort it",
        choices=("crop", "pad", "gui", "stretch"),
        every_family=False,
    )
    shared_image_tokens: bool | None = _option(
        "denoise all frames together and let each read the image tokens of all, as the published code does for lengths "
        "that it was not trained with; less motion",
        one_of(True, False),
        every_family=False,
    )
    replace_first_frame: bool | None = _option(
        "replace the first frame, which only approximates the picture, with the picture itself", one_of(True, False)
    )
    decode_chunk_size: int | None = _option("frames decoded at once; fewer need less memory", whole(1), metavar="N")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, check = getattr(self, field.name), field.metadata["check"]
            if check is not None and (value is not None or field.default is not None):
                check(field.name, value)

    def updated(self, overrides: Mapping[str, Any]) -> SamplingOptions:
        """Returns these options with some of them replaced.

        Raises:
            SMCDError: An option is unknown, or a value is of the wrong type or out of range.
        """
        known = {field.name for field in dataclasses.fields(self)}
        for name in overrides:
            if name not in known:
                message = f"unknown option {name!r}; known options are {', '.join(sorted(known))}"
                raise SMCDError(message, argument=name, value=name)
        return dataclasses.replace(self, **overrides)

    def as_dict(self) -> dict[str, Any]:
        """Returns every option by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def with_windows(options: SamplingOptions) -> SamplingOptions:
    """Returns the options with ``window_overlap`` filled in, by default half of ``window``; both sizes must be set.

    Raises:
        SMCDError: The overlap is not less than the window, or a loop or an end image would span several windows.
    """
    window, overlap = options.window, options.window_overlap
    overlap = window // 2 if overlap is None else overlap
    if overlap >= window:
        refuse("window_overlap", overlap, f"be less than window, {window}")
    if options.num_frames > window and (options.loop or options.end_image is not None):
        ends = "a loop" if options.loop else "end_image"
        refuse("num_frames", options.num_frames, f"be at most window, {window}, with {ends}")
    return dataclasses.replace(options, window_overlap=overlap)


FAMILY_OPTIONS = tuple(
    field.name for field in dataclasses.fields(SamplingOptions) if not field.metadata["every_family"]
)  # options that a family must declare to support them


def from_values(values: Mapping[str, Any]) -> SamplingOptions:
    """Returns the sampling options contained in a clip's options, with defaults for missing ones.

    Raises:
        SMCDError: A text is empty, an option is out of range, or two options cannot be combined.
    """
    for name, value in values.items():
        if value == "" and name not in ("prompt", "negative_prompt"):
            refuse(name, value, "not be empty")
    names = {field.name for field in dataclasses.fields(SamplingOptions)}
    return SamplingOptions(**{name: value for name, value in values.items() if name in names})


def check_fps(fps: float, formats: tuple[str, ...]) -> None:
    """Checks that every format can show a frame rate.

    Raises:
        SMCDError: The frame rate is out of range.
    """
    highest = 50 if "gif" in formats else 1000
    if not math.isfinite(fps) or not 0.01 <= fps <= highest:
        of = " for a GIF" if highest == 50 and fps > 50 else ""
        refuse("fps", fps, f"be from 0.01 to {highest}{of}")
