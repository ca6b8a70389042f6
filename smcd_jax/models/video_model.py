"""The interface of a model family: one object of pure functions that both training and sampling call.

    raw arrays -> features -> inputs -> drop -> encode -> precompute -> denoise -> decode -> render
                  frozen      arrays    conditions       tokens       keys and      at every   latents to frames
                  encoders    given     left out         of one       values        step
                                                         window

Shared code (pipeline, training, evaluation, command line) uses this interface and no component of a family. Arrays are
channels last; letters of axes: b examples, f frames, h w c latents, n objects, l text tokens.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from smcd_jax.diffusion.guidance import Condition, Guidance, composed_guidance
from smcd_jax.diffusion.samplers import SolverTable, make_solver_table
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.media import resize_picture
from smcd_jax.models.model_networks import ModelNetworks
from smcd_jax.models.parts import (
    Component,
    Context,
    FeatureStep,
    FittedPicture,
    Inputs,
    Keep,
    Losses,
    Objective,
    Params,
    Request,
    SamplingPlan,
    Stats,
    drop_fields,
)
from smcd_jax.models.resolved_options import checked_rates, resolved_options
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tokenizer import Tokenizer

ModelX0Transform = Callable[..., Array]  # an `X0Transform` that also takes params and context

__all__ = [  # the names that a family module uses
    "Component",
    "Context",
    "FeatureStep",
    "FittedPicture",
    "Inputs",
    "Keep",
    "Losses",
    "Objective",
    "Params",
    "Request",
    "SamplingPlan",
    "Stats",
    "VideoModel",
]


class VideoModel(ModelNetworks, abc.ABC):
    """A model family with one config and compute policy.

    Attributes:
        conditions: Conditions in guidance order.
        dropped_fields: Fields of the inputs that each switch drops; by default the field with the name of the switch.
        schedule: Noise schedule that the network was trained with.
        feature_steps: Outputs of the frozen encoders.
        objectives: Training objectives by name, besides "denoise".
        target: Name of the feature that is denoised, ``[b, f, h, w, c]``.
        null_prompt: Text that stands for no prompt.
        required: Arguments that every request must have: "image" and, if they apply, "prompt" and "tracks". A prompt
            that is neither required nor given is ``null_prompt``.
        takes_tracks: Whether the model reads box tracks.
        reads_frame_rate: Whether the model reads frames per second.
        field_shape: Height, width and channels of a motion field; empty for models without motion fields.
        max_clip_error: Largest `clip_errors` of a clip in a feature cache, for models that encode whole clips; None for
            models that encode frames, whose caches hold one posterior per frame.
        own_options: Sampling options that not every family has, besides the scales of the conditions, with the modes of
            each, such as those of "loop", default first; empty for an option without modes.
        check_fixed: Check that rejects options that a distilled model does not support (`smcd_jax.models.distilled`).
        sampling_defaults: Values of the sampling options that a user leaves at None. Scales take those of the
            conditions, sizes those of the config, and zero terminal SNR that of the schedule.
    """

    conditions: tuple[Condition, ...]
    dropped_fields: Mapping[str, tuple[str, ...]] = {}
    schedule: NoiseSchedule
    feature_steps: tuple[FeatureStep, ...] = ()
    objectives: Mapping[str, Objective] = {}
    target: ClassVar[str] = "latents"
    null_prompt: ClassVar[str] = ""
    required: ClassVar[tuple[str, ...]] = ("image", "prompt")
    takes_tracks: bool = True
    reads_frame_rate: bool = False
    field_shape: tuple[int, ...] = ()
    max_clip_error: float | None = None
    own_options: Mapping[str, tuple[str, ...]] = {}
    check_fixed: Callable[[SamplingOptions], None] = staticmethod(lambda options: None)
    sampling_defaults: Mapping[str, Any] = {
        "num_inference_steps": 50,
        "guidance_rescale": 0.0,
        "scheduler": "ddim",
        "timestep_spacing": "leading",
        "eta": 0.0,
        "decode_chunk_size": 8,
    }

    @property
    def switches(self) -> tuple[str, ...]:
        """Every switch of the conditions, in guidance order."""
        return tuple(switch for condition in self.conditions for switch in condition.switches)

    def features(self, params: Params, raw: Mapping[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """Returns ``raw`` with every missing feature added, without gradient through the encoders' inputs.

        Args:
            params: Parameters of the components that the missing features need.
            raw: Arrays by name; features that it contains already are kept.
            key: Random key, for encoders that sample.
        """
        found = dict(raw)
        for index, step in enumerate(self.feature_steps):
            if step.name in found or step.source not in found:
                continue
            source = found.pop(step.source)
            axes = source.shape[: source.ndim - step.item_axes]
            items = source.reshape(-1, *source.shape[len(axes) :])
            keys = jax.random.split(jax.random.fold_in(key, index), len(items)) if step.random else None
            out = step.apply(params[step.component], items, keys)
            found[step.name] = out.reshape(*axes, *out.shape[1:])
        return found

    def raw_shapes(self, rows: int, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of the raw arrays of a training batch: video, token ids, boxes and mask."""
        config, shape = self.config, jax.ShapeDtypeStruct
        objects, length = config.max_objects, config.text_length
        return {
            "video": shape((rows, frames, config.height, config.width, 3), jnp.uint8),
            "token_ids": shape((rows, length), jnp.int32),
            "label_ids": shape((rows, objects, length), jnp.int32),
            "boxes": shape((rows, frames, objects, 4), jnp.float32),
            "mask": shape((rows, frames, objects), jnp.float32),
        }

    def feature_shapes(
        self, rows: int, frames: int, *, cached: Callable[[FeatureStep], bool] = lambda step: True
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch in which every feature that is ``cached`` replaces its source."""
        shapes = self.raw_shapes(rows, frames)
        for step in self.feature_steps:
            if cached(step) and step.source in shapes:
                source = shapes.pop(step.source)
                axes = source.shape[: source.ndim - step.item_axes]
                shapes[step.name] = jax.ShapeDtypeStruct((*axes, *step.shape), jnp.float32)
        return shapes

    def clip_errors(
        self, params: Params, video: UInt8[Array, "b f h w 3"], features: Mapping[str, Array]
    ) -> Float[Array, " b"]:
        """Returns the reconstruction error of each clip, for models with ``max_clip_error``."""
        raise NotImplementedError

    def null_raw(self, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
        """Returns the raw arrays that replace dropped conditions, such as the null prompt's token ids; leading axis 1.

        Training adds them, or their features from a cache, to every batch.
        """
        del tokenizer
        return {}

    def fit_picture(self, picture: UInt8[np.ndarray, "y x 3"], options: SamplingOptions) -> FittedPicture:
        """Returns the picture at the size of the resolved options; by default its aspect ratio changes."""
        return FittedPicture(resize_picture(picture, height=options.height, width=options.width))

    @abc.abstractmethod
    def plan(self, request: Request, tokenizer: Tokenizer) -> SamplingPlan:
        """Returns the plan of a request, computed on the host before any weights are loaded.

        Raises:
            SMCDError: The request does not fit the model.
        """

    @abc.abstractmethod
    def inputs(self, features: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Inputs:
        """Returns the conditions of a batch, from its features and its other arrays.

        Args:
            features: Result of `features`, or arrays from a cache.
            key: Random key in training, for families that draw at random, such as the frame that conditions a clip;
                None in sampling.
        """

    def drop(self, inputs: Inputs, keep: Keep) -> Inputs:
        """Returns the inputs with conditions dropped where ``keep`` is False; missing switches are kept.

        A dropped field takes the value of the field with the prefix ``null_``, or zeros. The result has no null fields.
        """
        return drop_fields(inputs, {name: self.dropped_fields.get(name, (name,)) for name in self.switches}, keep)

    def encode(self, params: Params, inputs: Inputs, frames: Int[Array, " f"] | None = None) -> Context:
        """Returns the tokens of the trained conditioners, for the frames of one window (None: all frames).

        By default the inputs unchanged, for families whose inputs are the same for all frames.
        """
        del params, frames
        return inputs

    def precompute(self, params: Params, context: Context) -> Context:
        """Returns values for `denoise` that are the same at every step, such as keys and values of attention."""
        del params
        return context

    def before_steps(self, params: Params) -> Params:
        """Returns the parameters for `denoise`, with values derived from them once, before the loop over the steps."""
        return params

    @abc.abstractmethod
    def denoise(
        self,
        params: Params,
        x: Float[Array, "b f h w c"],
        t: Float[Array, " b"],
        context: Context,
        *,
        dropout_key: PRNGKeyArray | None = None,
        temporal: bool = True,
    ) -> Float[Array, "b f h w c"]:
        """Returns the network's output at noisy latents ``x`` and timesteps ``t``, in float32.

        Args:
            params: Parameters of the components of stage "denoise".
            x: Noisy latents.
            t: Timestep of each example.
            context: Result of `precompute`.
            dropout_key: Random key of dropout; None for no dropout.
            temporal: Whether temporal layers run; False to train and sample on still pictures.
        """

    def decode(self, params: Params, latents: Float[Array, "b f h w c"], inputs: Inputs) -> Any:
        """Returns the input of `render`: the latents unchanged, or a motion for families with motion fields."""
        del params, inputs
        return latents

    def playback(self, decoded: Any, options: SamplingOptions) -> Any:
        """Applies the playback options to decoded frames (None with ``options.motion_from``); by default none.

        Raises:
            SMCDError: The motion file cannot be read.
        """
        del options
        return decoded

    def decoded_notes(self, decoded: Any) -> tuple[str, ...]:
        """Returns remarks for the user about decoded frames, one line each."""
        del decoded
        return ()

    def picture_inputs(self, pictures: Float[Array, "b h w 3"] | UInt8[Array, "b h w 3"]) -> Inputs:
        """Returns the inputs that `render` needs from pictures in 0..255; None for models that need no picture."""
        del pictures

    @abc.abstractmethod
    def render(
        self, params: Params, decoded: Any, inputs: Inputs, frames: Int[Array, " k"]
    ) -> Float[Array, "b k H W 3"]:
        """Returns pictures in -1..1 of the selected frames.

        Args:
            params: Parameters of the components of stage "decode".
            decoded: Result of `decode`.
            inputs: Inputs of the request.
            frames: Indices of the frames to render.
        """

    def family_options(self) -> dict[str, tuple[str, ...]]:
        """Returns the options and modes that are specific to this model: `own_options` and guidance scales."""
        return {**{condition.option: () for condition in self.conditions}, **self.own_options}

    def resolve(self, options: SamplingOptions) -> SamplingOptions:
        """Returns the options with the model's own value in place of each None; raises as `resolved_options`."""
        return resolved_options(self, options)

    def solver_table(self, options: SamplingOptions) -> SolverTable:
        """Returns the sampler's coefficients for resolved options.

        Raises:
            SMCDError: The sampler does not support these options.
        """
        zero_snr = options.rescale_zero_terminal_snr
        return make_solver_table(
            dataclasses.replace(self.schedule, rescale_zero_terminal_snr=zero_snr),
            sampler=options.scheduler,
            num_steps=options.num_inference_steps,
            spacing=options.timestep_spacing,
            eta=options.eta,
            undo_dynamic_rescale=bool(options.undo_rescale),
        )

    def x0_transform(self, options: SamplingOptions) -> ModelX0Transform | None:
        """Returns the transform of the predicted clean latents (`smcd_jax.diffusion.sampling.sample`), or None.

        The transform also takes the keyword arguments ``params`` and ``context`` of `denoise`; the context holds all
        guidance branches, one after the other.

        Args:
            options: Resolved options. Transforms that are equal share a compiled program, so it should be hashable by
                value: a function of a module, or a frozen dataclass with ``__call__``.
        """
        del options
        return None

    def guidance(self, options: Mapping[str, Any]) -> Guidance:
        """Returns the guidance for sampling options by name; an option that is missing or None takes its default."""
        return composed_guidance(self.conditions, {part.name: options.get(part.option) for part in self.conditions})

    def draw_keep(
        self, key: PRNGKeyArray, count: int, rates: Mapping[str, float], *, unit: Literal["example", "batch"]
    ) -> dict[str, Bool[Array, " b"]]:
        """Draws which conditions each training example sees, independently for each switch.

        Args:
            key: Random key.
            count: Number of examples.
            rates: Dropout rate by switch, 0..1; the result omits switches whose rate is 0.
            unit: "example" to draw for each example, "batch" to draw once for all.
        """
        shape = (count,) if unit == "example" else (1,)

        def draw(switch: str) -> Bool[Array, " b"]:
            switch_key = jax.random.fold_in(key, self.switches.index(switch))
            return jnp.broadcast_to(jax.random.uniform(switch_key, shape) >= rates[switch], (count,))

        return {switch: draw(switch) for switch, rate in rates.items() if rate}

    def check_rates(self, rates: Mapping[str, float]) -> None:
        """Checks the dropout rates of conditions.

        Raises:
            SMCDError: A condition is unknown to the model, or a rate is outside 0..1.
        """
        checked_rates(self.switches, rates)
