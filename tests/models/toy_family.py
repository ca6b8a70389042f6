"""A small model family that shows all that a family must define; its latents are pixels, its condition is a prompt."""

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
    def __call__(self, x, t, text, picture):
        shift = nn.Dense(self.config.width)(text) + nn.Dense(self.config.width)(t[:, None] / 1000)
        given = jnp.concatenate([x, jnp.repeat(picture[:, None], x.shape[1], axis=1)], axis=-1)
        h = nn.silu(nn.Conv(self.config.width, (1, 3, 3))(given) + shift[:, None, None, None])
        return nn.Conv(3, (1, 3, 3))(h).astype(jnp.float32)

    def dummy_call(self):
        return self(jnp.zeros((1, 1, 4, 4, 3)), jnp.zeros(1), jnp.zeros((1, 4)), jnp.zeros((1, 4, 4, 3)))


class ToyInputs(NamedTuple):
    text: Any
    picture: Any


class ToyModel(VideoModel):
    conditions = (Condition("text", "guidance_scale", ("text",), 2.0),)
    schedule = NoiseSchedule(prediction_type="v_prediction")
    feature_steps = ()
    null_prompt = "nothing"
    required = ("image",)
    takes_tracks = False

    def __init__(self, config, policy):
        self.config, self.net = config, network(config.net, policy)
        self.components = {"net": Component(config.net, ("denoise",))}
        axes = {r"Conv_\d/kernel": (None, None, None, "in", "out"), r"Dense_\d/kernel": ("in", "out"), "bias": (None,)}
        rules = tuple(Rule(path, f".+/{path}", roles) for path, roles in axes.items())
        self.sharding = ShardingTable(rules, frozenset(self.components))

    def plan(self, request, tokenizer):
        ids = tokenizer.encode(list(request.prompts), length=self.config.text_length).astype(np.int32)
        h, w = request.pictures.shape[1:3]
        return SamplingPlan(
            {"video": request.pictures[:, None], "token_ids": ids}, (request.num_frames, h // 4, w // 4, 3)
        )

    def features(self, params, raw, key):
        b, f, h, w, c = raw["video"].shape
        blocks = raw["video"].astype(jnp.float32).reshape(b, f, h // 4, 4, w // 4, 4, c)
        return {**raw, "latents": blocks.mean(axis=(3, 5)) / 127.5 - 1}

    def inputs(self, features, key=None):
        latents = features["latents"] if "latents" in features else self.features({}, features, key)["latents"]
        angles = features["token_ids"][..., None].astype(jnp.float32) * jnp.arange(1.0, 5.0)
        return ToyInputs(jnp.sin(angles).mean(axis=1), latents[:, 0])

    def drop(self, inputs, keep):
        text = jnp.where(keep["text"][:, None], inputs.text, 0.0) if "text" in keep else inputs.text
        return inputs._replace(text=text)

    def encode(self, params, inputs, frames=None):
        return inputs

    def denoise(self, params, x, t, context, *, dropout_key=None, temporal=True):
        return self.net.apply({"params": params["net"]}, x, t, context.text, context.picture)

    def render(self, params, decoded, inputs, frames):
        return decoded[:, frames].repeat(4, axis=2).repeat(4, axis=3)


register_network(ToyNetConfig, ToyNet)
register_family(Family("toy", ToyConfig, {"toy": ToyConfig()}, ToyModel))
