"""DynamiCrafter as a video model: picture, prompt and, with gates, boxes as conditions of the shared latent 3D UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.guidance import Condition
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.models.dynamicrafter.config import ModelConfig
from smcd_jax.models.dynamicrafter.preprocess import preprocess
from smcd_jax.models.dynamicrafter.sharding import RULES
from smcd_jax.models.latent_video import LatentVideoModel
from smcd_jax.models.video_model import FeatureStep, Params
from smcd_jax.nn.autoencoder_kl import to_model_range
from smcd_jax.nn.gated_attention import AdapterTokens
from smcd_jax.nn.layers import ComputePolicy, dropout_seed
from smcd_jax.nn.unet3d import UNetContext

IMAGE = Condition("image", "image_guidance_scale", ("image_tokens",), "text")
BOXES = Condition("boxes", "box_guidance_scale", ("boxes",), "text")
TEXT = Condition("text", "guidance_scale", ("text",), 7.5)
STAGES = {
    "unet": ("denoise",),
    "resampler": ("encode",),
    "position_net": ("encode",),
    "image_tower": ("features",),
    "text_encoder": ("features",),
    "autoencoder": ("features", "decode"),
    "leftovers": (),
}
NO_SOURCE = -1  # in `latent_source`: zeros are concatenated to the frame


class Inputs(NamedTuple):
    """Conditions of a batch.

    Attributes:
        text: Embedding of the prompt.
        null_text: Embedding of the negative or null prompt; None if no text is dropped.
        picture: Image tower's tokens of the condition picture.
        null_picture: Image tower's tokens of the zero picture, which is mid grey; None if no picture is dropped.
        image_latents: Scaled latent that is concatenated to each frame's channels; never dropped.
        frame_rate: Frames per second, or frame stride in the 256 model.
        boxes: Boxes, xyxy in 0..1; None in models without gates, like ``mask`` and ``labels``.
        mask: Mask, 1 where an object is present, else 0.
        labels: Embedding of each object's label, for each frame if labels change.
    """

    text: Float[Array, "b l d"]
    null_text: Float[Array, "#b l d"] | None
    picture: Float[Array, "b m e"]
    null_picture: Float[Array, "#b m e"] | None
    image_latents: Float[Array, "b f h w c"]
    frame_rate: Float[Array, " b"]
    boxes: Float[Array, "b f n 4"] | None = None
    mask: Float[Array, "b f n"] | None = None
    labels: Float[Array, "b n e"] | Float[Array, "b f n e"] | None = None


class Tokens(NamedTuple):
    """Inputs of the UNet besides the noisy latents: tokens and latents.

    Attributes:
        text: Text tokens.
        image: Output of the resampler.
        image_latents: See `Inputs`.
        frame_rate: See `Inputs`.
        objects: Box tokens; None in models without gates.
    """

    text: Float[Array, "b l d"]
    image: Float[Array, "b m d"]
    image_latents: Float[Array, "b f h w c"]
    frame_rate: Float[Array, " b"]
    objects: Float[Array, "b f n e"] | None = None


class Context(NamedTuple):
    """Values that are constant over the denoising steps; ``unet`` holds keys and values by block."""

    unet: UNetContext
    image_latents: Float[Array, "b f h w c"]
    frame_rate: Float[Array, " b"]


class DynamiCrafterNetworks(LatentVideoModel):
    """The model's interface for training and the sampling loop; `DynamiCrafterModel` adds requests."""

    stages = STAGES
    rules = RULES
    dropped_fields: Mapping[str, tuple[str, ...]] = {"boxes": ("mask",), "image_tokens": ("picture",)}

    def __init__(self, config: ModelConfig, policy: ComputePolicy | None = None):
        _check_gates(config)
        super().__init__(config, policy)
        self.schedule = NoiseSchedule(
            prediction_type=config.prediction_type,
            rescale_zero_terminal_snr=config.zero_terminal_snr,
            dynamic_rescale=config.dynamic_rescale,
        )
        self.has_boxes = config.unet.uses_objects
        self.reads_frame_rate = not config.reads_stride
        self.conditions = (IMAGE, BOXES, TEXT) if self.has_boxes else (IMAGE, TEXT)
        self.feature_steps = self._feature_steps()

    def _feature_steps(self) -> tuple[FeatureStep, ...]:
        text, tower, autoencoder = self.config.text_encoder, self.config.image_tower, self.config.autoencoder
        side, tokens = autoencoder.downscale, (text.length, text.width)
        latent = (self.config.height // side, self.config.width // side, autoencoder.latent_channels)
        seen = ((tower.picture_size // tower.patch) ** 2 + 1, tower.width)
        labels = (FeatureStep("labels", "label_ids", "text_encoder", 1, self._embed_label, (text.width,)),)
        return (
            FeatureStep("text", "token_ids", "text_encoder", 1, self._embed_text, tokens),
            FeatureStep("null_text", "null_ids", "text_encoder", 1, self._embed_text, tokens),
            *(labels if self.has_boxes else ()),
            FeatureStep("picture_tokens", "picture", "image_tower", 3, self._see, seen),
            FeatureStep("null_picture_tokens", "null_picture", "image_tower", 3, self._see, seen),
            FeatureStep("latents", "video", "autoencoder", 3, self._encode_frames, latent, random=True),
        )

    def features(self, params: Params, raw: Mapping[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """Returns features as the base class does; in training, the picture is video frame ``condition_frame`` [b]."""
        if "video" in raw and not {"picture", "picture_tokens"} & set(raw):
            b, f = raw["video"].shape[:2]
            frame = raw.get("condition_frame")
            frame = self._draw_condition_frame(key, b, f) if frame is None else frame
            raw = {**raw, "condition_frame": frame, "picture": raw["video"][jnp.arange(b), frame]}
        return super().features(params, raw, key)

    def inputs(self, features: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Inputs:
        """Returns text, tokens of the picture, the latent concatenated to each frame, and boxes.

        Args:
            features: Features by name. ``latent_source`` [b, f] is, for each frame, the index of the frame of
                ``latents`` that is concatenated to it, -1 for zeros. Without it, frame ``condition_frame`` [b] is
                concatenated to every frame or, in a model that interpolates, both ends to themselves. ``frame_rate``
                defaults to the model's own.
            key: Random key that draws a missing ``condition_frame``; None for the first frame.
        """
        latents = features["latents"].astype(jnp.float32)
        b, f = latents.shape[:2]
        source = features.get("latent_source")
        if source is None:
            source = self._training_source(features.get("condition_frame"), key, b, f)
        chosen = jnp.take_along_axis(latents, jnp.maximum(source, 0)[:, :, None, None, None], axis=1)
        rate = features.get("frame_rate")
        boxes = {name: features[name] for name in ("boxes", "mask", "labels")} if self.has_boxes else {}
        return Inputs(
            text=features["text"],
            null_text=features.get("null_text"),
            picture=features["picture_tokens"],
            null_picture=features.get("null_picture_tokens"),
            image_latents=jnp.where((source >= 0)[:, :, None, None, None], chosen, 0),
            frame_rate=jnp.full(b, self.config.frame_rate, jnp.float32) if rate is None else rate.astype(jnp.float32),
            **boxes,
        )

    def draw_keep(
        self, key: PRNGKeyArray, count: int, rates: Mapping[str, float], *, unit: Literal["example", "batch"]
    ) -> dict[str, Bool[Array, " b"]]:
        """Draws which conditions each example sees: text and image together (`keep_at`), boxes separately."""
        r = jax.random.uniform(key, (count if unit == "example" else 1,))
        boxes = {name: rate for name, rate in rates.items() if name == "boxes"}
        return self.keep_at(jnp.broadcast_to(r, (count,)), rates) | super().draw_keep(key, count, boxes, unit=unit)

    def keep_at(self, r: Float[Array, " b"], rates: Mapping[str, float]) -> dict[str, Bool[Array, " b"]]:
        """Returns whether text and image are kept, for one uniform number r in 0..1 per example.

        The text is dropped where r < rate_text and the image where rate_text / 2 <= r < rate_text / 2 + rate_image: at
        the published 0.1 for both, 5 % lose the text, 5 % both, and 5 % the image.
        """
        text, image = rates.get("text", 0.0), rates.get("image_tokens", 0.0)
        kept = {"text": r >= text, "image_tokens": (r < text / 2) | (r >= text / 2 + image)}
        return {switch: where for switch, where in kept.items() if rates.get(switch)}

    def encode(self, params: Params, inputs: Inputs, frames: Int[Array, " f"] | None = None) -> Tokens:
        """Returns image tokens of the resampler, and box tokens."""
        latents, boxes, mask, labels = inputs.image_latents, inputs.boxes, inputs.mask, inputs.labels
        if frames is not None:
            latents = latents[:, frames]
            boxes, mask = (None, None) if boxes is None else (boxes[:, frames], mask[:, frames])
            labels = labels[:, frames] if labels is not None and labels.ndim == 4 else labels
        objects = None
        if boxes is not None:
            labels = labels if labels.ndim == 4 else jnp.repeat(labels[:, None], boxes.shape[1], axis=1)
            objects = self._apply("position_net", params, boxes, mask, labels)
        image = self._apply("resampler", params, inputs.picture)
        return Tokens(inputs.text, image, latents, inputs.frame_rate, objects)

    def precompute(self, params: Params, context: Tokens) -> Context:
        """Returns keys and values of every attention to text, image and boxes."""
        objects = context.objects
        adapters = None if objects is None else AdapterTokens(objects.reshape(-1, *objects.shape[2:]))
        options = {"frames": context.image_latents.shape[1], "adapter_tokens": adapters}
        unet = self._apply("unet", params, context.text, context.image, **options, method="keys_values")
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
        """Returns the UNet's output: noise, or v of the rescaled latents."""
        switches = {"temporal": temporal, "dropout": dropout_seed(dropout_key)}
        x = jnp.concatenate([x, context.image_latents.astype(x.dtype)], axis=-1)
        return self._apply("unet", params, x, t, context.unet, fps=context.frame_rate, **switches)

    def _training_source(
        self, frame: Int[Array, " b"] | None, key: PRNGKeyArray | None, b: int, f: int
    ) -> Int[Array, "b f"]:
        if self.config.interpolation:
            ends = jnp.full(f, NO_SOURCE, jnp.int32).at[jnp.array([0, f - 1])].set(jnp.array([0, f - 1]))
            return jnp.broadcast_to(ends, (b, f))
        if frame is None:
            frame = jnp.zeros(b, jnp.int32) if key is None else self._draw_condition_frame(key, b, f)
        return jnp.repeat(frame[:, None], f, axis=1)

    def _draw_condition_frame(self, key: PRNGKeyArray, b: int, f: int) -> Int[Array, " b"]:
        if self.config.interpolation or self.config.condition_frame == "first":
            return jnp.zeros(b, jnp.int32)
        count = b if self.config.condition_frame == "clip" else 1
        return jnp.broadcast_to(jax.random.randint(jax.random.fold_in(key, 0), (count,), 0, f), (b,))

    def _see(self, params: Any, pictures: Array, keys: None) -> Float[Array, "m k e"]:
        del keys
        pictures = to_model_range(pictures) if pictures.dtype == jnp.uint8 else pictures
        seen = preprocess(pictures, self.config.image_tower.picture_size)
        return self.networks["image_tower"].apply({"params": params}, seen, method="raw_tokens")


def _check_gates(config: ModelConfig) -> None:
    if config.unet.uses_objects != (config.position_net is not None) or config.unet.gate not in ("none", "object"):
        raise SMCDError(
            "config: unet.gate must be 'object' with a position_net, or 'none' without, got "
            f"{config.unet.gate!r} {'with' if config.position_net else 'without'}",
            argument="unet.gate",
            value=config.unet.gate,
        )
