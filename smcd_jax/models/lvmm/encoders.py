"""LVMM's frozen encoders: fields between frames, their latents, and tokens of picture and prompt."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from smcd_jax.models.lvmm.config import LVMMConfig
from smcd_jax.models.lvmm.predictors import Flow
from smcd_jax.models.video_model import FeatureStep, Params, VideoModel
from smcd_jax.nn.warp import corner_grid

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class LVMMEncoders(VideoModel):
    """Base class with LVMM's encoders; `model.LVMMModel` is the complete model."""

    config: LVMMConfig

    @property
    def field_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a motion field."""
        return round(self.config.height * self.config.scale), round(self.config.width * self.config.scale), 3

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the latent of a motion field."""
        vae, (height, width, _) = self.config.motion_vae, self.field_shape
        return height // vae.downscale, width // vae.downscale, vae.latent_channels

    def _feature_steps(self) -> tuple[FeatureStep, ...]:
        config, frames = self.config, self.config.frames
        steps = [
            FeatureStep("fields", "video", config.motion_part, 4, self._predict_fields, (frames, *self.field_shape)),
            FeatureStep("latents", "fields", "motion_vae", 3, self._encode_fields, self.latent_shape, of_video=True),
        ]
        if config.appearance is not None:
            shape = (*self.latent_shape[:2], config.appearance.features)
            steps.append(
                FeatureStep("appearance", "picture", "renderer", 3, self._pooled_features, shape, of_video=True)
            )
        if config.vision_encoder is not None:
            width = (config.vision_encoder.embed_width,)
            steps.append(
                FeatureStep(
                    "image_token", "seen_picture", "vision_encoder", 3, self._embed_picture, width, of_video=True
                )
            )
        if config.text_encoder is not None:
            width = (config.text_encoder.embed_width,)
            steps.append(FeatureStep("text_token", "token_ids", "text_encoder", 1, self._embed_text, width))
            steps.append(FeatureStep("null_text_token", "null_ids", "text_encoder", 1, self._embed_text, width))
        return tuple(steps)

    def estimate(
        self, params: Params, source: Float[Array, "b h w 3"], driving: Float[Array, "b h w 3"]
    ) -> Float[Array, "b y x 3"]:
        """Returns displacement and confidence between pictures in 0..1, without gradient through the networks."""
        flow: Flow = self._apply(self.config.motion_part, params, source, driving)
        displacement = flow.grid - corner_grid(*flow.grid.shape[1:3])
        return jax.lax.stop_gradient(jnp.concatenate([displacement, flow.occlusion], axis=-1).astype(jnp.float32))

    def _predict_fields(self, params: Any, videos: UInt8[Array, "m f h w 3"], keys: None) -> Array:
        del keys
        m, f = videos.shape[:2]
        frames = videos.astype(jnp.float32) / 255
        source = jnp.repeat(frames[:, :1], f, axis=1)
        pairs = (x.reshape(m * f, *x.shape[2:]) for x in (source, frames))
        fields = self._normalized(self.estimate({self.config.motion_part: params}, *pairs))
        return fields.reshape(m, f, *fields.shape[1:])

    def _normalized(self, fields: Float[Array, "m y x 3"]) -> Float[Array, "m y x 3"]:
        return jnp.concatenate([fields[..., :2] / self.config.field_scale, 2 * fields[..., 2:] - 1], axis=-1)

    def _encode_fields(self, params: Any, fields: Float[Array, "m y x 3"], keys: None) -> Float[Array, "m h w c"]:
        del keys
        posterior = self._apply("motion_vae", {"motion_vae": params}, fields, method="posterior")
        return posterior.mean * self.config.motion_vae.scaling_factor

    def _pooled_features(self, params: Any, pictures: Array, keys: None) -> Float[Array, "m h w d"]:
        del keys
        picture = pictures.astype(jnp.float32) / 255
        deepest = self._apply("renderer", {"renderer": params}, picture, method="levels")[-1].astype(jnp.float32)
        m, y, x, d = deepest.shape
        pool = round(self.config.motion_vae.downscale / self.config.scale) // 2**self.config.renderer.levels
        return deepest.reshape(m, y // pool, pool, x // pool, pool, d).mean(axis=(2, 4))

    def _embed_picture(self, params: Any, pictures: Array, keys: None) -> Float[Array, "m e"]:
        del keys
        side = self.config.vision_encoder.picture_size
        sized = jax.image.resize(pictures.astype(jnp.float32) / 255, (len(pictures), side, side, 3), "cubic")
        embedded = self._apply(
            "vision_encoder", {"vision_encoder": params}, (sized - jnp.asarray(CLIP_MEAN)) / jnp.asarray(CLIP_STD)
        )
        return _unit_variance(embedded)

    def _embed_text(self, params: Any, ids: Int[Array, "m l"], keys: None) -> Float[Array, "m e"]:
        del keys
        return _unit_variance(self._apply("text_encoder", {"text_encoder": params}, ids, method="pooled"))


def _unit_variance(embedded: Float[Array, "m e"]) -> Float[Array, "m e"]:
    """Returns embeddings normalized to length sqrt(e), so that entries have about unit variance."""
    length = jnp.linalg.norm(embedded, axis=-1, keepdims=True)
    return embedded / jnp.maximum(length, 1e-6) * embedded.shape[-1] ** 0.5
