"""A small model family that shows all that a family must define; it denoises pixels, its condition is the picture."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from smcd_jax.diffusion.guidance import Condition
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.config import VideoConfig
from smcd_jax.models.registry import Family, register_family
from smcd_jax.models.video_model import SamplingPlan, VideoModel
from smcd_jax.nn.autoencoder_kl import to_model_range
from smcd_jax.nn.networks import register_network


@dataclasses.dataclass(frozen=True)
class ToyNetConfig:
    width: int = 8


@dataclasses.dataclass(frozen=True)
class ToyConfig(VideoConfig):
    net: ToyNetConfig = ToyNetConfig()
    frames: int = 2
    height: int = 16
    width: int = 16


class ToyNet(nn.Module):
    config: ToyNetConfig
    policy: Any

    @nn.compact
    def __call__(self, x, t, picture):
        given = jnp.concatenate([x, jnp.broadcast_to(picture[:, None], x.shape)], axis=-1)
        time = nn.Dense(self.config.width)(t[:, None] / 1000)[:, None, None, None]
        hidden = nn.silu(nn.Conv(self.config.width, (1, 3, 3))(given) + time)
        return nn.Conv(3, (1, 3, 3))(hidden)

    def dummy_call(self):
        return self(jnp.zeros((1, 1, 1, 1, 3)), jnp.zeros(1), jnp.zeros((1, 1, 1, 3)))


class ToyInputs(NamedTuple):
    picture: Any


class ToyModel(VideoModel):
    stages = {"net": ("denoise",)}  # noqa: RUF012
    schedule = NoiseSchedule(prediction_type="v_prediction")
    conditions = (Condition("image", "image_guidance_scale", ("picture",), 2.0),)
    required = ("image",)
    takes_tracks = False

    def plan(self, request, tokenizer):
        return SamplingPlan({"video": request.pictures[:, None]}, (request.num_frames, *request.pictures.shape[1:]))

    def features(self, params, raw, key):
        return {**raw, "latents": to_model_range(raw["video"])}

    def inputs(self, features, key=None):
        return ToyInputs(to_model_range(features["video"][:, 0]))

    def denoise(self, params, x, t, context, *, dropout_key=None, temporal=True):
        return self._apply("net", params, x, t, context.picture)

    def render(self, params, decoded, inputs, frames):
        return decoded[:, frames]


register_network(ToyNetConfig, ToyNet)
register_family(Family("toy", ToyConfig, {"toy": ToyConfig()}, ToyModel))
