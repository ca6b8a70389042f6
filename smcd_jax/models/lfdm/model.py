"""LFDM's networks as a `VideoModel`.

Its text condition is the mean of the last states of BERT, which is not part of the model folder. Requests with prompts
are therefore rejected; from Python, the networks accept text vectors that the caller provides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.guidance import Condition
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.models.lvmm.sharding import flow_autoencoder_rules, motion_unet_rules
from smcd_jax.models.video_model import Params, Request, VideoModel
from smcd_jax.nn.sharding_rules import SMALL
from smcd_jax.tokenizer import Tokenizer

_PREDICTORS = ("region_predictor", "background_predictor", "flow_predictor")
STAGES = {
    "unet": ("denoise",),
    "renderer": ("encode", "decode"),
    **dict.fromkeys(_PREDICTORS, ("features",)),
    **dict.fromkeys(("autoencoder_leftovers", "unet_leftovers"), ()),
}
RULES = (*motion_unet_rules("unet"), *flow_autoencoder_rules("renderer", *_PREDICTORS), *SMALL)


class Inputs(NamedTuple):
    """Conditions of a batch.

    Attributes:
        picture: Pictures in 0..1.
        vector: Text vectors.
        keep: False where the text is dropped; None to keep all texts.
    """

    picture: Float[Array, "b h w 3"]
    vector: Float[Array, "b d"]
    keep: Bool[Array, " b"] | None = None


class LFDMModel(VideoModel):
    """LFDM: denoises a field (x, y, 2 c - 1) for each frame, and renders the frames from one picture."""

    stages = STAGES
    rules = RULES
    conditions = (Condition("text", "guidance_scale", ("text",), 1.0),)
    schedule = NoiseSchedule(kind="cosine")
    target: ClassVar[str] = "motion"
    takes_tracks = False

    def plan(self, request: Request, tokenizer: Tokenizer) -> NoReturn:
        """Raises an error for every request, because the model folder does not contain the text encoder, BERT.

        Raises:
            SMCDError: Always.
        """
        del request, tokenizer
        message = (
            "a model of LFDM or MRAA cannot be sampled from a prompt: its text encoder, BERT, is not in the model "
            "folder; call its networks from Python, see docs/convert.md"
        )
        raise SMCDError(message, argument="model", value="lfdm")

    def inputs(self, features: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Inputs:
        """Returns the arrays ``picture``, 0..1, and ``vector``."""
        del key
        return Inputs(features["picture"], features["vector"])

    def drop(self, inputs: Inputs, keep: Mapping[str, Bool[Array, " b"]]) -> Inputs:
        """Returns the inputs with the text dropped where ``keep["text"]`` is False."""
        return inputs._replace(keep=keep["text"]) if "text" in keep else inputs

    def encode(self, params: Params, inputs: Inputs, frames: Int[Array, " f"] | None = None) -> tuple[Array, Any]:
        """Returns the renderer's smallest feature maps, and the condition of the UNet."""
        del frames
        apply = lambda name, *args, **more: self._apply(name, params, *args, **more)  # noqa: E731
        features = apply("renderer", inputs.picture, method="levels")[-1]
        keep = jnp.ones(len(inputs.vector), bool) if inputs.keep is None else inputs.keep
        vector = apply("unet", inputs.vector, keep, method="with_null")
        return features, apply("unet", vector, method="context")

    def denoise(
        self,
        params: Params,
        x: Float[Array, "b f h w c"],
        t: Float[Array, " b"],
        context: tuple[Array, Any],
        *,
        dropout_key: PRNGKeyArray | None = None,
        temporal: bool = True,
    ) -> Float[Array, "b f h w c"]:
        """Returns the predicted noise of the fields; the picture's features are concatenated to every frame."""
        del dropout_key
        features, condition = context
        repeated = jnp.repeat(features[:, None], x.shape[1], axis=1).astype(x.dtype)
        focus = None if temporal else jnp.ones(len(x), bool)
        joined = jnp.concatenate([x, repeated], axis=-1)
        return self._apply("unet", params, joined, t, condition, focus_present=focus)

    def motion(
        self, params: Params, picture: Float[Array, "b h w 3"], video: Float[Array, "b f h w 3"]
    ) -> Float[Array, "b f y x 3"]:
        """Returns the fields from each frame of a driving video to the picture, the targets of LFDM's diffusion.

        Args:
            params: Parameters of all components but the UNet.
            picture: Pictures in 0..1.
            video: Driving videos in 0..1.

        Returns:
            (x, y) in -1..1 and 2 c - 1 of the occlusion map c, at the size of the flow predictor.
        """
        frames = video.reshape(-1, *video.shape[2:])
        source = jnp.repeat(picture, video.shape[1], axis=0)
        regions = [self._apply("region_predictor", params, images) for images in (source, frames)]
        background = None
        if "background_predictor" in self.networks:
            background = self._apply("background_predictor", params, source, frames)
        flow = self._apply("flow_predictor", params, source, *regions, background)
        occlusion = jnp.ones_like(flow.grid[..., :1]) if flow.occlusion is None else 2 * flow.occlusion - 1
        field = jnp.concatenate([flow.grid, occlusion], axis=-1)
        return field.reshape(*video.shape[:2], *field.shape[1:])

    def render(
        self, params: Params, decoded: Float[Array, "b f y x 3"], inputs: Inputs, frames: Int[Array, " k"]
    ) -> Float[Array, "b k H W 3"]:
        """Renders the picture with the motion fields of the selected frames."""
        chosen = decoded[:, frames]
        count = chosen.shape[1]
        levels = self._apply("renderer", params, inputs.picture, method="levels")
        source, *levels = (jnp.repeat(level, count, axis=0) for level in (inputs.picture, *levels))
        field = chosen.reshape(-1, *chosen.shape[2:])
        grid, occlusion = field[..., :2], (field[..., 2:] + 1) / 2
        out = self._apply("renderer", params, source, levels, grid, occlusion, method="render").prediction
        return (2 * out.astype(jnp.float32) - 1).reshape(*chosen.shape[:2], *out.shape[1:])
