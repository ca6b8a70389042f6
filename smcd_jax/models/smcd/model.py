"""SMCD as a video model: text, boxes and the first frame as conditions of a latent 3D UNet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.guidance import Guidance
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.models.latent_video import LatentVideoModel
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.models.smcd.guidance import BOXES, IMAGE, TEXT, reference_guidance
from smcd_jax.models.smcd.sharding import RULES
from smcd_jax.models.video_model import (
    FeatureStep,
    Losses,
    Objective,
    Params,
    Request,
    SamplingPlan,
)
from smcd_jax.nn.autoencoder_kl import autoencoder_losses
from smcd_jax.nn.layers import ComputePolicy, dropout_seed
from smcd_jax.nn.unet3d import UNetContext
from smcd_jax.sampling_options import SamplingOptions, refuse
from smcd_jax.tokenizer import Tokenizer

ADDITIVE = ("img_free_guidance", "ti_free_guidance")  # weights of the published guidance
STEM = "encoder_0/conv/kernel"  # its input channels include the latent of the first frame
STARTS = {"unet": {"widened": (STEM,)}, "controlnet": {"copied_from": "unet"}}  # fields of `Component`
STAGES = {
    "unet": ("denoise",),
    "controlnet": ("denoise",),
    "position_net": ("encode",),
    "image_encoder": ("encode",),
    "text_encoder": ("features",),
    "autoencoder": ("features", "decode"),
    "vision_encoder": (),
}


class Inputs(NamedTuple):
    """Conditions of a batch.

    Attributes:
        text: Embedding of the prompt.
        null_text: Embedding of the negative or null prompt, per example or one for all; None if no text is dropped.
        boxes: Boxes, xyxy in 0..1.
        mask: 1 where an object is present, else 0.
        labels: Embedding of each object's label, for each frame if labels change.
        image_latent: Scaled latent of the first frame, for the input channels (zero convolution, ZC).
        hint: The same latent for the image tokens (GCA) or the ControlNet.
    """

    text: Float[Array, "b l d"]
    null_text: Float[Array, "#b l d"] | None
    boxes: Float[Array, "b f n 4"]
    mask: Float[Array, "b f n"]
    labels: Float[Array, "b n e"] | Float[Array, "b f n e"]
    image_latent: Float[Array, "b h w c"]
    hint: Float[Array, "b h w c"]


class Tokens(NamedTuple):
    """Tokens that the attention layers read, before their projections.

    Attributes:
        text: Text tokens.
        objects: Box tokens; None in models without boxes.
        object_mask: Mask, 1 where an object is present, else 0.
        image: Image tokens; None in models without them.
        image_latent: See `Inputs`.
        hint: See `Inputs`.
    """

    text: Float[Array, "b l d"]
    objects: Float[Array, "b f n e"] | None
    object_mask: Float[Array, "b f n"]
    image: Float[Array, "b m g"] | None
    image_latent: Float[Array, "b h w c"]
    hint: Float[Array, "b h w c"]


class Context(NamedTuple):
    """Values that are constant over the denoising steps.

    Attributes:
        unet: Keys and values of the UNet's attention layers, by block.
        image_latent: Latent that is concatenated to the input's channels; None in models without this input.
        controlnet: Keys and values of the ControlNet, by block; None in models without a ControlNet.
        hint: Latent that the ControlNet reads.
    """

    unet: UNetContext
    image_latent: Float[Array, "b h w c"] | None
    controlnet: UNetContext | None
    hint: Float[Array, "b h w c"]


class SMCDModel(LatentVideoModel):
    """SMCD (ECCV 2024), and the ModelScope text-to-video model that it extends, as the config selects."""

    stages = STAGES
    rules = RULES
    conditions = (IMAGE, BOXES, TEXT)
    dropped_fields: Mapping[str, tuple[str, ...]] = {"boxes": ("mask",), "image_tokens": ("hint",)}
    null_prompt: ClassVar[str] = " "  # the published model was trained with a single space as the null prompt

    def __init__(self, config: ModelConfig, policy: ComputePolicy | None = None):
        _check_complete(config)
        super().__init__(config, policy)
        self.components = {
            name: dataclasses.replace(part, **STARTS.get(name, {})) for name, part in self.components.items()
        }
        self.schedule = NoiseSchedule(prediction_type=config.prediction_type)
        unet = config.unet
        self.takes_tracks = unet.uses_objects
        self.required = ("image", "prompt", "tracks") if unet.uses_objects else ("image", "prompt")
        self.own_options = dict.fromkeys(("reference_guidance", *ADDITIVE), ())
        self.feature_steps = self._feature_steps()
        self.objectives = {"autoencoder": Objective(("autoencoder",), self._autoencoder_losses)}

    def _feature_steps(self) -> tuple[FeatureStep, ...]:
        text, autoencoder = self.config.text_encoder, self.config.autoencoder
        side, tokens = autoencoder.downscale, (text.length, text.width)
        latent = (self.config.height // side, self.config.width // side, autoencoder.latent_channels)
        return (
            FeatureStep("text", "token_ids", "text_encoder", 1, self._embed_text, tokens),
            FeatureStep("null_text", "null_ids", "text_encoder", 1, self._embed_text, tokens),
            FeatureStep("labels", "label_ids", "text_encoder", 1, self._embed_label, (text.width,)),
            FeatureStep("latents", "video", "autoencoder", 3, self._encode_frames, latent, random=True),
        )

    def resolve(self, options: SamplingOptions) -> SamplingOptions:
        """Resolves options as the base class does; the published guidance has its own weights instead of scales.

        Raises:
            SMCDError: An option is invalid, or options of the two kinds of guidance are set together.
        """
        composed = (IMAGE.option, BOXES.option)
        for name in composed if options.reference_guidance else ADDITIVE:
            if getattr(options, name) is not None:
                condition = "not be set with" if options.reference_guidance else "be set together with"
                refuse(name, getattr(options, name), f"{condition} reference_guidance")
        resolved = super().resolve(options)
        if not options.reference_guidance:
            return resolved
        weights = {name: getattr(options, name) or 0.0 for name in ADDITIVE}
        return resolved.updated({**dict.fromkeys(composed), **weights})

    def guidance(self, options: Mapping[str, Any]) -> Guidance:
        """Returns composed guidance, or with ``reference_guidance`` that of the published sampler."""
        if not options.get("reference_guidance"):
            return super().guidance(options)
        scales = {name: options[name] for name in (TEXT.option, *ADDITIVE) if options.get(name) is not None}
        return reference_guidance(**{"guidance_scale": TEXT.default_scale, **scales})

    def plan(self, request: Request, tokenizer: Tokenizer) -> SamplingPlan:
        """Returns token ids, padded boxes and the first frame."""
        config = self.config
        count, side = len(request.prompts), config.autoencoder.downscale
        boxes, mask = (
            np.stack(part).astype(np.float32)
            for part in zip(*(self._padded(tracks, request.num_frames) for tracks in request.tracks), strict=True)
        )
        labels = np.zeros((count, config.max_objects, config.text_length), np.int32)
        for row, tracks in zip(labels, request.tracks, strict=True):
            if tracks is not None:
                row[: tracks.num_objects] = self._ids(tokenizer, tracks.labels)
        negative = [self.null_prompt if text is None else text for text in request.negative_prompts]
        height, width = request.pictures.shape[1:3]
        return SamplingPlan(
            raw={
                "video": request.pictures[:, None],
                "token_ids": self._ids(tokenizer, request.prompts),
                "null_ids": self._ids(tokenizer, negative),
                "label_ids": labels,
                "boxes": boxes,
                "mask": mask,
            },
            latent_shape=(request.num_frames, height // side, width // side, config.autoencoder.latent_channels),
            notes=self._cut_texts(tokenizer, (*request.prompts, *negative)),
        )

    def inputs(self, features: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Inputs:
        """Returns text, boxes, labels and the latent of the first frame."""
        del key
        null_text, first = features.get("null_text"), features["latents"][:, 0].astype(jnp.float32)
        text = features["text"]
        return Inputs(
            text=text,
            null_text=None if null_text is None else null_text.astype(text.dtype),
            boxes=features["boxes"],
            mask=features["mask"],
            labels=features["labels"],
            image_latent=first,
            hint=first,
        )

    def encode(self, params: Params, inputs: Inputs, frames: Int[Array, " f"] | None = None) -> Tokens:
        """Returns box tokens and image tokens."""
        boxes, mask, labels = inputs.boxes, inputs.mask, inputs.labels
        if frames is not None:
            boxes, mask = boxes[:, frames], mask[:, frames]
            labels = labels[:, frames] if labels.ndim == 4 else labels
        objects = image = None
        if "position_net" in self.networks:
            labels = labels if labels.ndim == 4 else jnp.repeat(labels[:, None], boxes.shape[1], axis=1)
            objects = self._apply("position_net", params, boxes, mask, labels)
        if "image_encoder" in self.networks:
            image = self._apply("image_encoder", params, inputs.hint)
        return Tokens(inputs.text, objects, mask, image, inputs.image_latent, inputs.hint)

    def precompute(self, params: Params, context: Tokens) -> Context:
        """Returns keys and values of every attention to text, boxes and image."""
        attended = self._apply(
            "unet",
            params,
            context.text,
            context.objects,
            object_mask=context.object_mask,
            image_tokens=context.image,
            method="keys_values",
        )
        control = None
        if "controlnet" in self.networks:
            control = self._apply("controlnet", params, context.text, method="keys_values")
        still = context.image_latent if self.config.unet.image_latent else None
        return Context(attended, still, control, context.hint)

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
        """Returns the UNet's output, with the ControlNet's features if the model has one."""
        switches = {"temporal": temporal, "dropout": dropout_seed(dropout_key)}
        control = None
        if context.controlnet is not None:
            control = self._apply("controlnet", params, x, context.hint, t, context.controlnet, **switches)
        if context.image_latent is not None:
            still = jnp.repeat(context.image_latent[:, None], x.shape[1], axis=1).astype(x.dtype)
            x = jnp.concatenate([x, still], axis=-1)
        return self._apply("unet", params, x, t, context.unet, control=control, **switches)

    def _autoencoder_losses(
        self,
        params: Params,
        stats: Any,
        batch: Mapping[str, Array],
        key: PRNGKeyArray,
        *,
        weights: Any,
        train: Any = None,
    ) -> tuple[Losses, Any]:
        del train
        network, kinds = self.networks["autoencoder"], {"kl": weights.kl_weight, "edge": weights.edge_weight}
        loss = autoencoder_losses(network, params["autoencoder"], batch["video"], key, weights=kinds)
        return Losses(loss, jnp.zeros(len(loss), jnp.int32)), stats


def _check_complete(config: ModelConfig) -> None:
    """Checks that the model has every network whose output another one reads."""
    unet = config.unet
    needed = {
        "unet": True,
        "autoencoder": True,
        "text_encoder": True,
        "position_net": unet is not None and unet.uses_objects,
        "image_encoder": unet is not None and unet.uses_image_tokens,
        "controlnet": unet is not None and unet.control,
    }
    absent = [name for name, wanted in needed.items() if wanted and getattr(config, name) is None]
    if absent:
        message = f"the model has no {' and no '.join(absent)}; convert or copy it again"
        raise SMCDError(message, argument="model", value=absent)
