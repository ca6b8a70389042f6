"""Distilled models, which sample in few steps and have built-in guidance."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping

from smcd_jax.models.video_model import VideoModel
from smcd_jax.sampling_options import Sampler, SamplingOptions, Spacing, refuse


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Sampling settings of a distilled model, stored in ``model.json``.

    Attributes:
        guidance: Guidance scales of the teacher that are built into the weights, by name of the sampling option.
        num_inference_steps: Default number of steps, those of training.
        scheduler: Default sampler.
        timestep_spacing: Default spacing of timesteps.
    """

    guidance: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    num_inference_steps: int = 4
    scheduler: Sampler = "ddim"
    timestep_spacing: Spacing = "trailing"

    def teacher_options(self, teacher_steps: int) -> SamplingOptions:
        """Returns the options of the teacher, which takes ``teacher_steps`` steps for each step of the student."""
        return SamplingOptions(
            num_inference_steps=self.num_inference_steps * teacher_steps,
            scheduler=self.scheduler,
            timestep_spacing=self.timestep_spacing,
            eta=0.0,
            **self.guidance,
        )


def distilled_model(model: VideoModel, distilled: Distilled) -> VideoModel:
    """Returns a model whose defaults are those of distillation and whose guidance cannot be changed.

    Every condition has scale 1, so each step evaluates the network once.
    """
    changed = copy.copy(model)
    changed.conditions = tuple(condition._replace(default_scale=1.0) for condition in model.conditions)
    changed.sampling_defaults = {
        **model.sampling_defaults,
        "num_inference_steps": distilled.num_inference_steps,
        "scheduler": distilled.scheduler,
        "timestep_spacing": distilled.timestep_spacing,
        "eta": 0.0,
        "guidance_rescale": 0.0,
    }
    changed.check_fixed = _CheckFixed(tuple(condition.option for condition in model.conditions))
    return changed


@dataclasses.dataclass(frozen=True)
class _CheckFixed:
    """Check that raises an error if an option differs from its built-in value."""

    scales: tuple[str, ...]

    def __call__(self, options: SamplingOptions) -> None:
        built_in = "not be given to a distilled model, whose guidance is fixed"
        for name in self.scales:
            if getattr(options, name) not in (None, 1):
                refuse(name, getattr(options, name), built_in)
        for name in ("guidance_rescale", "negative_prompt", "reference_guidance"):
            value = getattr(options, name)
            if any(value) if isinstance(value, list | tuple) else value:
                refuse(name, value, built_in)
