"""DynamiCrafter as a video model: a picture and a prompt as conditions of the shared latent 3D UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.guidance import Condition
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.dynamicrafter.config import ModelConfig
from smcd_jax.models.dynamicrafter.preprocess import preprocess
from smcd_jax.models.dynamicrafter.sharding import RULES
from smcd_jax.models.latent_video import LatentVideoModel
from smcd_jax.models.video_model import (
    Component,
    FeatureStep,
    Keep,
    Params,
    Request,
    SamplingPlan,
)
from smcd_jax.nn.autoencoder_kl import to_model_range
from smcd_jax.nn.layers import ComputePolicy, dropout_seed
from smcd_jax.nn.networks import network
from smcd_jax.nn.unet3d import UNetContext
from smcd_jax.runtime.sharding import ShardingTable
from smcd_jax.tokenizer import Tokenizer

IMAGE = Condition("image", "image_guidance_scale", ("image_tokens",), "text")
TEXT = Condition("text", "guidance_scale", ("text",), 7.5)
STAGES = {
    "unet": ("denoise",),
    "resampler": ("encode",),
    "image_tower": ("features",),
    "text_encoder": ("features",),
    "autoencoder": ("features", "decode"),
}


class Inputs(NamedTuple):
    """Conditions of a batch.

    Attributes:
        text: Embedding of the prompt.
        null_text: Embedding of the negative or null prompt; None where none is dropped.
        picture: Image tower's tokens of the condition picture.
        null_picture: Image tower's tokens of the zero picture, mid grey; None where none is dropped.
        image_latents: Scaled latent that joins each frame on channels. Never dropped.
        frame_rate: Frames per second, or frame stride in the 256 model.
    """

    text: Float[Array, "b l d"]
    null_text: Float[Array, "#b l d"] | None
    picture: Float[Array, "b m e"]
    null_picture: Float[Array, "#b m e"] | None
    image_latents: Float[Array, "b f h w c"]
    frame_rate: Float[Array, " b"]


class Tokens(NamedTuple):
    """What the UNet reads beside noisy latents; ``image`` is the resampler's output."""

    text: Float[Array, "b l d"]
    image: Float[Array, "b m d"]
    image_latents: Float[Array, "b f h w c"]
    frame_rate: Float[Array, " b"]


class Context(NamedTuple):
    """What is constant over the denoising steps; ``unet`` holds keys and values by block."""

    unet: UNetContext
    image_latents: Float[Array, "b f h w c"]
    frame_rate: Float[Array, " b"]


class DynamiCrafterModel(LatentVideoModel):
    """Image to video; with ``interpolation`` in the config, loops and in-betweens."""

    target: ClassVar[str] = "latents"
    null_prompt: ClassVar[str] = ""

    def __init__(self, config: ModelConfig, policy: ComputePolicy | None = None):
        self.config = config
        self.schedule = NoiseSchedule(
            prediction_type=config.prediction_type,
            rescale_zero_terminal_snr=config.zero_terminal_snr,
            dynamic_rescale=config.dynamic_rescale,
        )
        self.components = {name: Component(part, STAGES[name]) for name, part in config.components().items()}
        self.networks = {name: network(part.config, policy) for name, part in self.components.items()}
        self.conditions = (IMAGE, TEXT)
        head_dim = config.unet.head_dim
        self.sharding = ShardingTable(RULES, components=frozenset(self.components), head_dim=head_dim)
        self.feature_steps = self._feature_steps()

    def _feature_steps(self) -> tuple[FeatureStep, ...]:
        text, tower, autoencoder = self.config.text_encoder, self.config.image_tower, self.config.autoencoder
        side, tokens = autoencoder.downscale, (text.length, text.width)
        latent = (self.config.height // side, self.config.width // side, autoencoder.latent_channels)
        seen = ((tower.picture_size // tower.patch) ** 2 + 1, tower.width)
        return (
            FeatureStep("text", "token_ids", "text_encoder", 1, self._embed_text, tokens),
            FeatureStep("null_text", "null_ids", "text_encoder", 1, self._embed_text, tokens),
            FeatureStep("picture_tokens", "picture", "image_tower", 3, self._see, seen),
            FeatureStep("null_picture_tokens", "null_picture", "image_tower", 3, self._see, seen),
            FeatureStep("latents", "video", "autoencoder", 3, self._encode_frames, latent, random=True),
        )

    def plan(self, request: Request, tokenizer: Tokenizer) -> SamplingPlan:
        """Token ids, the picture, and which frames its latent joins."""
        config, count, frames = self.config, len(request.prompts), request.num_frames
        side, size = config.autoencoder.downscale, config.image_tower.picture_size
        height, width = request.pictures.shape[1:3]
        negative = [self.null_prompt if text is None else text for text in request.negative_prompts]
        source = np.zeros((count, frames), np.int32)
        if config.interpolation:
            source[:, 1:-1] = -1
        return SamplingPlan(
            raw={
                "video": request.pictures[:, None],
                "picture": request.pictures,
                "null_picture": np.zeros((count, size, size, 3), np.float32),
                "token_ids": tokenizer.encode(list(request.prompts), length=config.text_length),
                "null_ids": tokenizer.encode(negative, length=config.text_length),
                "latent_source": source,
                "frame_rate": np.full(count, config.frame_rate, np.float32),
            },
            latent_shape=(frames, height // side, width // side, config.autoencoder.latent_channels),
        )

    def inputs(self, features: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Inputs:
        """Text, tokens of the picture, and the latent that joins each frame.

        Args:
            features: Features by name. ``latent_source`` [b, f] is the index of the frame of ``latents`` that joins
                each frame, -1 for zeros; without it, one frame per clip is drawn (training).
            key: Random key of that draw; None selects the first frame.
        """
        latents = features["latents"].astype(jnp.float32)
        source = features.get("latent_source")
        if source is None:
            b, f = latents.shape[:2]
            drawn = jnp.zeros(b, jnp.int32) if key is None else jax.random.randint(key, (b,), 0, f)
            source = jnp.repeat(drawn[:, None], f, axis=1)
        chosen = jnp.take_along_axis(latents, jnp.maximum(source, 0)[:, :, None, None, None], axis=1)
        return Inputs(
            text=features["text"],
            null_text=features.get("null_text"),
            picture=features["picture_tokens"],
            null_picture=features.get("null_picture_tokens"),
            image_latents=jnp.where((source >= 0)[:, :, None, None, None], chosen, 0),
            frame_rate=features["frame_rate"],
        )

    def drop(self, inputs: Inputs, keep: Keep) -> Inputs:
        """The prompt becomes the null text, the picture's tokens those of the zero picture; its latents stay."""

        def kept(switch: str, given: Array, dropped: Array | None) -> Array:
            if switch not in keep or dropped is None:
                return given
            return jnp.where(keep[switch].reshape(-1, 1, 1), given, dropped.astype(given.dtype))

        return inputs._replace(
            text=kept("text", inputs.text, inputs.null_text),
            null_text=None,
            picture=kept("image_tokens", inputs.picture, inputs.null_picture),
            null_picture=None,
        )

    def draw_keep(
        self, key: PRNGKeyArray, count: int, rates: Mapping[str, float], *, unit: Literal["example", "batch"]
    ) -> dict[str, Bool[Array, " b"]]:
        """Which conditions each example sees, from one uniform number r for both.

        The text is dropped where r < rate_text and the image where rate_text / 2 <= r < rate_text / 2 + rate_image: at
        the published 0.1 for both, 5 % lose the text, 5 % both, and 5 % the image.
        """
        r = jnp.broadcast_to(jax.random.uniform(key, (count if unit == "example" else 1,)), (count,))
        text, image = rates.get("text", 0.0), rates.get("image_tokens", 0.0)
        kept = {"text": r >= text, "image_tokens": (r < text / 2) | (r >= text / 2 + image)}
        return {switch: kept[switch] for switch, rate in rates.items() if rate}

    def encode(self, params: Params, inputs: Inputs, frames: Int[Array, " f"] | None = None) -> Tokens:
        """Image tokens of the resampler."""
        latents = inputs.image_latents if frames is None else inputs.image_latents[:, frames]
        image = self._apply("resampler", params, inputs.picture)
        return Tokens(inputs.text, image, latents, inputs.frame_rate)

    def precompute(self, params: Params, context: Tokens) -> Context:
        """Keys and values of every attention to text and image."""
        frames = context.image_latents.shape[1]
        unet = self._apply("unet", params, context.text, context.image, frames=frames, method="keys_values")
        return Context(unet, context.image_latents, context.frame_rate)

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
        """The UNet's output: noise, or v of the rescaled latents."""
        switches = {"temporal": temporal, "dropout": dropout_seed(dropout_key)}
        x = jnp.concatenate([x, context.image_latents.astype(x.dtype)], axis=-1)
        return self._apply("unet", params, x, t, context.unet, fps=context.frame_rate, **switches)

    def _see(self, params: Any, pictures: Array, keys: None) -> Float[Array, "m k e"]:
        del keys
        pictures = to_model_range(pictures) if pictures.dtype == jnp.uint8 else pictures
        seen = preprocess(pictures, self.config.image_tower.picture_size)
        return self.networks["image_tower"].apply({"params": params}, seen, method="raw_tokens")
