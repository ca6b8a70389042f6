"""The parts of a `VideoModel`: components, feature steps, requests and plans, losses and objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, PRNGKeyArray, UInt8

from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tracks import BoxTracks

Stage = Literal["features", "encode", "denoise", "decode"]
Params = Mapping[str, Any]  # parameter trees by component
Inputs = Any  # a NamedTuple of the family: arrays of one batch
Context = Any  # what `encode` and `precompute` return
Keep = Mapping[str, Bool[Array, " b"]]  # by switch; True where the model sees the condition
Stats = Mapping[str, Any]  # state that a step returns besides losses, such as running means of batch normalisation


@dataclasses.dataclass(frozen=True)
class Component:
    """A network of a model.

    Attributes:
        config: Config dataclass of the network.
        stages: Stages that need its weights. Empty for arrays that are kept for conversion only.
        copied_from: Component whose arrays it starts from if a model folder does not contain it; empty for none.
        widened: Paths of convolutions that may start from fewer input channels; the new channels start at zero.
    """

    config: Any
    stages: tuple[Stage, ...]
    copied_from: str = ""
    widened: tuple[str, ...] = ()


class FeatureStep(NamedTuple):
    """One output of a frozen encoder, computed for each item, such as a frame or a text.

    Attributes:
        name: Name of the feature.
        source: Name of the raw array it is computed from.
        component: Component that computes it.
        item_axes: Number of trailing axes of the raw array that make one item; the axes before them are kept.
        apply: Function ``(params of the component, items [m, ...], keys [m] or None) -> [m, ...]``.
        shape: Shape of one item's output at the size of the config.
        random: Whether ``apply`` needs keys.
        of_video: Whether the source is computed from the video, so that a cache of latents holds the output.
    """

    name: str
    source: str
    component: str
    item_axes: int
    apply: Callable[[Any, Array, PRNGKeyArray | None], Array]
    shape: tuple[int, ...]
    random: bool = False
    of_video: bool = False


def drop_fields(inputs: Inputs, fields: Mapping[str, tuple[str, ...]], keep: Keep) -> Inputs:
    """Returns the inputs with fields replaced where a switch is False, as `VideoModel.drop` does by default.

    Args:
        inputs: Inputs of the family.
        fields: Names of the fields that each switch drops; fields whose value is None stay None.
        keep: Switches; missing ones are True.
    """
    given = inputs._asdict()
    dropped = {name: None for name in given if name.startswith("null_")}
    for switch, names in fields.items():
        for name in names if switch in keep else ():
            value, null = given[name], given.get(f"null_{name}")
            if value is not None:
                where = keep[switch].reshape(-1, *(1,) * (value.ndim - 1))
                dropped[name] = jnp.where(where, value, jnp.asarray(0 if null is None else null, value.dtype))
    return inputs._replace(**dropped)


class FittedPicture(NamedTuple):
    """A picture at the size of the video.

    Attributes:
        pixels: Pixels in 0..255, uint8 or float32.
        note: Description of what was cropped or padded, as one line; empty if nothing was.
    """

    pixels: UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked batch of b examples to sample.

    Attributes:
        pictures: Pictures at the size of the video (`VideoModel.fit_picture`), 0..255.
        prompts: Prompt of each example.
        negative_prompts: Negative prompt of each example, or None.
        tracks: Box tracks of each example, with as many frames as the video, or None.
        num_frames: Number of frames.
        seeds: Seed of each example.
        options: Sampling options, resolved.
        end_pictures: Pictures of `SamplingOptions.end_image`, as ``pictures``; None without that option.
        originals: Pictures of any size, as they were read.
        notes: Remarks about the pictures, one line each.
    """

    pictures: UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"]
    prompts: tuple[str, ...]
    negative_prompts: tuple[str | None, ...]
    tracks: tuple[BoxTracks | None, ...]
    num_frames: int
    seeds: tuple[int, ...]
    options: SamplingOptions
    end_pictures: UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"] | None = None
    originals: tuple[UInt8[np.ndarray, "_ _ 3"], ...] = ()
    notes: tuple[str, ...] = ()


class SamplingPlan(NamedTuple):
    """The sampling plan of a request: host arrays, the shape to sample, and the frames to keep.

    Attributes:
        raw: Host arrays by name, leading axis b: sources of the feature steps, and arrays that `inputs` reads directly.
        latent_shape: Shape of one example's latents, frames first.
        notes: Remarks for the user, one line each.
        keep_frames: Indices of the sampled frames that become the video, in order; None for all.
        shown_frames: Frame of the tracks that each frame of the video shows; None for ``keep_frames``, or all in order.
    """

    raw: Mapping[str, np.ndarray]
    latent_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()
    keep_frames: tuple[int, ...] | None = None
    shown_frames: tuple[int, ...] | None = None


class Losses(NamedTuple):
    """Loss of each example, and the timestep bucket that it is logged under (0 is nearly clean)."""

    loss: Float[Array, " b"]
    timestep_bucket: Int[Array, " b"]


class Objective(NamedTuple):
    """A training objective of a family, in addition to the denoising loss.

    Attributes:
        components: Components that it runs.
        losses: Pure function ``(params, stats, batch, key, *, weights, train) -> (Losses, stats)``; ``weights`` are the
            run's loss weights, and ``train`` is False in validation.
        initial_stats: Function that returns the running statistics before the first step, a tree of parameters; a
            model folder that training starts from replaces their values.
    """

    components: tuple[str, ...]
    losses: Callable[..., tuple[Losses, Stats]]
    initial_stats: Callable[[], Stats] = dict
