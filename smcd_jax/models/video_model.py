"""The interface of a model family: one object of pure functions that both training and sampling call.

    raw arrays -> features -> inputs -> drop -> encode -> precompute -> denoise -> decode -> render
                  frozen      arrays    conditions       tokens       keys and      at every   latents to frames
                  encoders    given     left out         of one       values        step
                                                         window

Shared code (pipeline, training, evaluation, command line) knows this interface and no component of a family. Arrays are
channels last; letters of axes: b examples, f frames, h w c latents, n objects, l text tokens.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from smcd_jax.diffusion.guidance import Condition, Guidance, composed_guidance, resolve_scales
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.runtime.sharding import ShardingTable
from smcd_jax.sampling_options import FAMILY_OPTIONS
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.tracks import BoxTracks

Stage = Literal["features", "encode", "denoise", "decode"]
Params = Mapping[str, Any]  # parameter trees by component
Inputs = Any  # a NamedTuple of the family: arrays of one batch
Context = Any  # what `encode` and `precompute` return
Keep = Mapping[str, Bool[Array, " b"]]  # by switch: True where the condition is seen
Stats = Mapping[str, Any]  # state that a step returns besides losses, such as running means of batch normalisation


@dataclasses.dataclass(frozen=True)
class Component:
    """A network of a model.

    Attributes:
        config: Config dataclass of the network.
        stages: Stages that need its weights. Empty for arrays that are kept for conversion only.
        copied_from: Component whose arrays it starts from where a model folder has none of its own; empty for none.
        widened: Paths of convolutions that may start from fewer input channels, the new ones at zero.
    """

    config: Any
    stages: tuple[Stage, ...]
    copied_from: str = ""
    widened: tuple[str, ...] = ()


class FeatureStep(NamedTuple):
    """One output of a frozen encoder, computed item by item: a frame, a text.

    Attributes:
        name: Name of the feature.
        source: Name of the raw array it is computed from.
        component: Component that computes it.
        item_axes: Number of trailing axes of the raw array that make one item; the axes before them are kept.
        apply: ``(params of the component, items [m, ...], keys [m] or None) -> [m, ...]``.
        shape: Shape of one item's output at the size of the config.
        random: Whether ``apply`` needs keys.
    """

    name: str
    source: str
    component: str
    item_axes: int
    apply: Callable[[Any, Array, PRNGKeyArray | None], Array]
    shape: tuple[int, ...]
    random: bool = False


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked batch of b examples to sample.

    Attributes:
        pictures: Pictures, resized to the size of the video.
        prompts: Prompt of each example.
        negative_prompts: Negative prompt of each example; None where there is none.
        tracks: Box tracks of each example, with as many frames as the video; None where there are none.
        num_frames: Number of frames.
        seeds: Seed of each example.
    """

    pictures: UInt8[np.ndarray, "b h w 3"]
    prompts: tuple[str, ...]
    negative_prompts: tuple[str | None, ...]
    tracks: tuple[BoxTracks | None, ...]
    num_frames: int
    seeds: tuple[int, ...]


class SamplingPlan(NamedTuple):
    """What a request amounts to for a family.

    Attributes:
        raw: Host arrays by name, leading axis b: sources of the feature steps, and what `inputs` takes as it is.
        latent_shape: Shape of one example's latents.
        notes: Remarks for the user, one line each.
    """

    raw: Mapping[str, np.ndarray]
    latent_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()


class Losses(NamedTuple):
    """Loss of each example, and the timestep bucket that it is logged under (0 is nearly clean)."""

    loss: Float[Array, " b"]
    timestep_bucket: Int[Array, " b"]


class Objective(NamedTuple):
    """A training objective of a family's own, besides the denoising loss.

    Attributes:
        components: Components that it runs.
        losses: ``(params, stats, batch, key, *, weights) -> (Losses, stats)``, pure; ``weights`` are the run's loss
            weights.
    """

    components: tuple[str, ...]
    losses: Callable[..., tuple[Losses, Stats]]


class VideoModel(abc.ABC):
    """A model family at one config and compute policy.

    Attributes:
        config: Config of the family, with at least ``frames``, ``height``, ``width``, ``fps``, ``max_objects`` and
            ``text_length``.
        components: Components by name.
        conditions: Conditions in guidance order.
        schedule: Noise schedule that the network was trained with.
        sharding: How parameters are split over a mesh.
        feature_steps: Outputs of the frozen encoders.
        objectives: Training objectives by name, besides "denoise".
        target: Name of the feature that is denoised, ``[b, f, h, w, c]``.
        null_prompt: Text that stands for no prompt.
        required: Arguments of a request that must be given.
        own_options: Sampling options that not every family has, besides the scales of the conditions.
    """

    components: Mapping[str, Component]
    conditions: tuple[Condition, ...]
    schedule: NoiseSchedule
    sharding: ShardingTable
    feature_steps: tuple[FeatureStep, ...]
    objectives: Mapping[str, Objective] = {}
    target: ClassVar[str] = "latents"
    null_prompt: ClassVar[str] = ""
    required: ClassVar[tuple[str, ...]] = ("image", "prompt")
    own_options: ClassVar[tuple[str, ...]] = ()

    @property
    def switches(self) -> tuple[str, ...]:
        """Every switch of the conditions, in guidance order."""
        return tuple(switch for condition in self.conditions for switch in condition.switches)

    def in_stage(self, *stages: Stage) -> tuple[str, ...]:
        """Names of the components that any of these stages needs."""
        return tuple(name for name, part in self.components.items() if set(stages) & set(part.stages))

    def features(self, params: Params, raw: Mapping[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """``raw`` with every feature that it lacks, without gradient through the encoders' inputs.

        Args:
            params: Parameters of the components that the missing features need.
            raw: Arrays by name; features that are there already are kept.
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

    def initial_stats(self) -> Stats:
        """Running statistics before the first training step; empty for models without."""
        return {}

    def raw_shapes(self, rows: int, frames: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the raw arrays of a training batch: video, token ids, boxes and mask."""
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
        """Shapes of a batch where every feature that is ``cached`` takes the place of its source."""
        shapes = self.raw_shapes(rows, frames)
        for step in self.feature_steps:
            if cached(step) and step.source in shapes:
                source = shapes.pop(step.source)
                axes = source.shape[: source.ndim - step.item_axes]
                shapes[step.name] = jax.ShapeDtypeStruct((*axes, *step.shape), jnp.float32)
        return shapes

    @abc.abstractmethod
    def plan(self, request: Request, tokenizer: Tokenizer) -> SamplingPlan:
        """What a request amounts to, computed on the host before any weights are loaded.

        Raises:
            SMCDError: The request does not fit the model.
        """

    @abc.abstractmethod
    def inputs(self, features: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Inputs:
        """The conditions of a batch, from its features and the arrays beside them.

        Args:
            features: Result of `features`, or arrays from a cache.
            key: Random key in training, for families that draw, such as the frame that conditions a clip; None in
                sampling.
        """

    @abc.abstractmethod
    def drop(self, inputs: Inputs, keep: Keep) -> Inputs:
        """The inputs with conditions left out where ``keep`` is False; a switch that it does not name is kept."""

    @abc.abstractmethod
    def encode(self, params: Params, inputs: Inputs, frames: Int[Array, " f"] | None = None) -> Context:
        """Tokens of the trained conditioners, for the frames of one window (None: all frames)."""

    def precompute(self, params: Params, context: Context) -> Context:
        """What stays the same at every step, such as keys and values of attention, for `denoise`."""
        del params
        return context

    def before_steps(self, params: Params) -> Params:
        """The parameters for `denoise`, with what is computed from them once, before the loop over the steps."""
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
        """The network's output at noisy latents ``x`` and timesteps ``t``, in float32.

        Args:
            params: Parameters of the components of stage "denoise".
            x: Noisy latents.
            t: Timestep of each example.
            context: Result of `precompute`.
            dropout_key: Random key of dropout; None for no dropout.
            temporal: Whether temporal layers take part; False to train and sample on still pictures.
        """

    def decode(self, params: Params, latents: Float[Array, "b f h w c"], inputs: Inputs) -> Any:
        """What `render` turns into frames: latents as they are, or for families with motion fields a motion."""
        del params, inputs
        return latents

    @abc.abstractmethod
    def render(
        self, params: Params, decoded: Any, inputs: Inputs, frames: Int[Array, " k"]
    ) -> Float[Array, "b k H W 3"]:
        """Pictures in -1..1 of some frames.

        Args:
            params: Parameters of the components of stage "decode".
            decoded: Result of `decode`.
            inputs: Inputs of the request.
            frames: Indices of the frames to render.
        """

    def guidance(self, options: Mapping[str, Any]) -> Guidance:
        """The guidance of sampling options, by name; an option that is missing or None takes its default.

        Raises:
            SMCDError: A guidance option that the model does not have, or a scale that is not finite.
        """
        own = {*(condition.option for condition in self.conditions), *self.own_options}
        for name in FAMILY_OPTIONS:
            if options.get(name) and name not in own:
                raise SMCDError(
                    f"{name} is not an option of this model; it has {', '.join(sorted(own))}",
                    argument=name,
                    value=options[name],
                )
        return composed_guidance(self.conditions, {part.name: options.get(part.option) for part in self.conditions})

    def resolved_scales(self, options: Mapping[str, Any]) -> dict[str, float]:
        """The guidance scale of each condition, by option name, with the model's defaults filled in."""
        return resolve_scales(self.conditions, {part.name: options.get(part.option) for part in self.conditions})

    def draw_keep(
        self, key: PRNGKeyArray, count: int, rates: Mapping[str, float], *, unit: Literal["example", "batch"]
    ) -> dict[str, Bool[Array, " b"]]:
        """Which conditions each training example sees, drawn independently for each switch.

        Args:
            key: Random key.
            count: Number of examples.
            rates: Rate of dropping by switch, 0..1; switches at 0 are left out of the result.
            unit: "example" draws for each example, "batch" once for all.
        """
        shape = (count,) if unit == "example" else (1,)

        def draw(switch: str) -> Bool[Array, " b"]:
            switch_key = jax.random.fold_in(key, self.switches.index(switch))
            return jnp.broadcast_to(jax.random.uniform(switch_key, shape) >= rates[switch], (count,))

        return {switch: draw(switch) for switch, rate in rates.items() if rate}

    def check_rates(self, rates: Mapping[str, float]) -> None:
        """Checks rates of dropping conditions.

        Raises:
            SMCDError: A switch that the model does not have, or a rate outside 0..1.
        """
        for switch, rate in rates.items():
            if switch not in self.switches:
                raise SMCDError(
                    f"condition_dropout: unknown condition {switch!r}; known are {', '.join(self.switches)}",
                    argument="condition_dropout",
                    value=switch,
                )
            if not 0 <= rate <= 1:
                raise SMCDError(
                    f"condition_dropout.{switch} must be between 0 and 1, got {rate:g}",
                    argument=f"condition_dropout.{switch}",
                    value=rate,
                )
