"""A small video model, which shows that a family needs only `VideoModel`.

Its latents are pixels, one text condition controls a single convolution, and it has no boxes and no encoder. It accepts
a last picture, makes loops by sampling one extra frame, and limits the range of the clean pictures of a loop.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from smcd_jax.diffusion.guidance import Condition
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.registry import Family, register_family
from smcd_jax.models.video_model import Component, SamplingPlan, VideoModel
from smcd_jax.nn.networks import network, register_network
from smcd_jax.runtime.sharding import Rule, ShardingTable


@dataclasses.dataclass(frozen=True)
class ToyNetConfig:
    width: int = 8


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    net: ToyNetConfig = ToyNetConfig()
    frames: int = 2
    height: int = 16
    width: int = 16
    fps: int = 8
    max_objects: int = 2
    text_length: int = 8
    size_multiple: int = 4

    def components(self) -> dict[str, Any]:
        return {"net": self.net}


class ToyNet(nn.Module):
    config: ToyNetConfig
    policy: Any

    @nn.compact
    def __call__(self, x, t, text, first):
        steer = nn.Dense(self.config.width)(text) + nn.Dense(self.config.width)(t[:, None] / 1000)
        given = jnp.concatenate([x, jnp.repeat(first[:, None], x.shape[1], axis=1)], axis=-1)
        h = nn.silu(nn.Conv(self.config.width, (1, 3, 3))(given) + steer[:, None, None, None])
        return nn.Conv(3, (1, 3, 3))(h).astype(jnp.float32)

    def dummy_call(self):
        return self(jnp.zeros((1, 1, 4, 4, 3)), jnp.zeros(1), jnp.zeros((1, 4)), jnp.zeros((1, 4, 4, 3)))


class ToyInputs(NamedTuple):
    text: Any
    null: Any
    picture: Any


def in_range(x, estimate_x0, row, **arrays):
    return jnp.clip(estimate_x0(x), -1, 1)


def embed(ids):
    return jnp.stack([jnp.sin(ids.astype(jnp.float32) * k).mean(axis=1) for k in (1.0, 2.0, 3.0, 4.0)], axis=-1)


class ToyModel(VideoModel):
    conditions = (Condition("text", "guidance_scale", ("text",), 2.0),)
    schedule = NoiseSchedule(prediction_type="v_prediction")
    feature_steps = ()
    null_prompt = "nothing"
    required = ("image",)
    takes_tracks = False
    own_options = {"loop": ("ends", "pingpong"), "end_image": (), "frame_stride": ()}  # noqa: RUF012
    sampling_defaults = {  # noqa: RUF012
        **VideoModel.sampling_defaults,
        **{"num_inference_steps": 3, "timestep_spacing": "trailing", "eta": 1.0, "guidance_rescale": 0.7},
    }

    def __init__(self, config, policy):
        self.config, self.net = config, network(config.net, policy)
        self.components = {"net": Component(config.net, ("denoise",))}
        rules = (
            Rule("convolution", r".+/Conv_\d/kernel", (None, None, None, "in", "out")),
            Rule("dense", r".+/Dense_\d/kernel", ("in", "out")),
            Rule("bias", ".+/bias", (None,)),
        )
        self.sharding = ShardingTable(rules, frozenset(self.components))

    def features(self, params, raw, key):
        pixels = raw["video"].astype(jnp.float32) / 127.5 - 1
        b, f, h, w, c = pixels.shape
        return {**raw, "latents": pixels.reshape(b, f, h // 4, 4, w // 4, 4, c).mean(axis=(3, 5))}

    def plan(self, request, tokenizer):
        ids = tokenizer.encode(list(request.prompts), length=self.config.text_length)
        h, w = request.pictures.shape[1:3]
        end, frames = request.end_pictures, request.num_frames
        video = np.stack([request.pictures, request.pictures if end is None else end], axis=1)
        null = {name: value.repeat(len(ids), axis=0) for name, value in self.null_raw(tokenizer).items()}
        raw = {"video": video, "token_ids": ids.astype(np.int32), **null}
        if request.options.loop:
            return SamplingPlan(raw, (frames + 1, h // 4, w // 4, 3), keep_frames=tuple(range(frames)))
        return SamplingPlan(raw, (frames, h // 4, w // 4, 3))

    def null_raw(self, tokenizer):
        return {"null_ids": tokenizer.encode([self.null_prompt], length=self.config.text_length)}

    def x0_transform(self, options):
        return in_range if options.loop else None

    def inputs(self, features, key=None):
        latents = features.get("latents")
        latents = self.features({}, features, None)["latents"] if latents is None else latents
        null = embed(features["null_ids"]) if "null_ids" in features else None
        return ToyInputs(embed(features["token_ids"]), null, (latents[:, 0] + latents[:, -1]) / 2)

    def drop(self, inputs, keep):
        text = jnp.where(keep["text"][:, None], inputs.text, inputs.null) if "text" in keep else inputs.text
        return inputs._replace(text=text, null=None)

    def encode(self, params, inputs, frames=None):
        return inputs

    def denoise(self, params, x, t, context, *, dropout_key=None, temporal=True):
        return self.net.apply({"params": params["net"]}, x, t, context.text, context.picture)

    def render(self, params, decoded, inputs, frames):
        return decoded[:, frames].repeat(4, axis=2).repeat(4, axis=3)


register_network(ToyNetConfig, ToyNet)
register_family(Family("toy", ToyConfig, {"toy": ToyConfig()}, ToyModel))
