"""A model's own values for sampling options, and errors for options and conditions that it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from smcd_jax.diffusion.guidance import resolve_scales
from smcd_jax.errors import SMCDError
from smcd_jax.sampling_options import FAMILY_OPTIONS, SamplingOptions, one_of, with_windows

if TYPE_CHECKING:
    from smcd_jax.models.video_model import VideoModel


def resolved_options(model: VideoModel, options: SamplingOptions) -> SamplingOptions:
    """Returns the options with a model's own value in place of each None.

    Raises:
        SMCDError: The model does not have an option or a mode that is set, or the windows are wrong.
    """
    model.check_fixed(options)
    values = {name: value for name, value in options.as_dict().items() if value is not None}
    own = model.family_options()
    for name in FAMILY_OPTIONS:
        if name not in values or values[name] is False:
            continue
        if name not in own:
            message = f"{name} is not an option of this model; it has {', '.join(sorted(own))}"
            raise SMCDError(message, argument=name, value=values[name])
        if own[name]:
            values[name] = own[name][0] if values[name] is True else values[name]
            one_of(*own[name])(name, values[name])
    defaults = {
        **model.sampling_defaults,
        **{name: getattr(model.config, name) for name in ("height", "width")},
        **dict.fromkeys(("num_frames", "window"), model.config.frames),
        "rescale_zero_terminal_snr": model.schedule.rescale_zero_terminal_snr,
    }
    if values.get("scheduler", defaults["scheduler"]) != "ddim":
        defaults["eta"] = 0.0  # eta applies only to ddim
    scales = {part.name: values.get(part.option) for part in model.conditions}
    return with_windows(SamplingOptions(**{**defaults, **values, **resolve_scales(model.conditions, scales)}))


def checked_rates(switches: tuple[str, ...], rates: Mapping[str, float]) -> None:
    """Checks dropout rates of conditions.

    Raises:
        SMCDError: A condition is unknown, or a rate is outside 0..1.
    """
    for switch, rate in rates.items():
        if switch not in switches:
            message = f"condition_dropout: unknown condition {switch!r}; known conditions are {', '.join(switches)}"
            raise SMCDError(message, argument="condition_dropout", value=switch)
        if not 0 <= rate <= 1:
            message = f"condition_dropout.{switch} must be between 0 and 1, got {rate:g}"
            raise SMCDError(message, argument=f"condition_dropout.{switch}", value=rate)
