"""LVMM's interface for training and the sampling loop; `model.LVMMModel` adds requests and rendering options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from smcd_jax.diffusion.guidance import Condition
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.lvmm.config import LVMMConfig
from smcd_jax.models.lvmm.encoders import LVMMEncoders
from smcd_jax.models.lvmm.motion_unet import MotionContext
from smcd_jax.models.lvmm.objectives import (
    autoencoder_loss,
    draw_pair,
    field_loss,
    no_buckets,
    random_visibility,
    reconstruction_loss,
)
from smcd_jax.models.lvmm.sharding import RULES
from smcd_jax.models.video_model import FeatureStep, Losses, Objective, Params, Stats
from smcd_jax.motion import Motion
from smcd_jax.nn.batch_norm import STATISTICS, is_statistic, with_statistics
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import abstract_params, flatten, unflatten
from smcd_jax.nn.warp import corner_grid

IMAGE = Condition("image", "image_guidance_scale", ("image",), 1.0)
TEXT = Condition("text", "guidance_scale", ("text",), 1.0)
STAGES = {
    "unet": ("denoise",),
    "pair_motion": ("features",),
    "region_motion": ("features",),
    "renderer": ("features", "decode"),
    "motion_vae": ("features", "denoise", "decode"),  # energy guidance decodes at every step
    "appearance": ("encode",),
    "text_encoder": ("features",),
    "vision_encoder": ("features",),
}


class Inputs(NamedTuple):
    """Conditions of a batch.

    Attributes:
        still: Latent of the zero motion field (z_0).
        appearance: Features of the picture from the renderer, pooled to the size of latents; None without them.
        image_token: Token of the picture; None for models without a vision tower.
        text_token: Token of the prompt; None for models without a text tower.
        null_text_token: Token that replaces dropped prompts; None for zeros.
        picture: Picture, 0..255, for rendering and guidance; None in training.
        boxes: Boxes that guide the motion, xyxy in 0..1; None without tracks.
        mask: 1 where an object is present.
    """

    still: Float[Array, "b h w c"]
    appearance: Float[Array, "b h w d"] | None = None
    image_token: Float[Array, "b e"] | None = None
    text_token: Float[Array, "b e"] | None = None
    null_text_token: Float[Array, "b e"] | None = None
    picture: Array | None = None
    boxes: Float[Array, "b f n 4"] | None = None
    mask: Float[Array, "b f n"] | None = None


class Tokens(NamedTuple):
    """Channels concatenated to the noisy latents, and tokens for cross-attention."""

    joined: Float[Array, "b h w d"]
    tokens: Float[Array, "b n e"]
    boxes: Float[Array, "b f n 4"] | None
    mask: Float[Array, "b f n"] | None


class Context(NamedTuple):
    """Values that are constant over the denoising steps."""

    joined: Float[Array, "b h w d"]
    unet: MotionContext
    boxes: Float[Array, "b f n 4"] | None
    mask: Float[Array, "b f n"] | None


class LVMMNetworks(LVMMEncoders):
    """LVMM (CVPR 2024): motion fields, sampled in the latent space of an autoencoder, animate a picture."""

    stages = STAGES
    rules = RULES
    target: ClassVar[str] = "motion_latents"
    conditions = (IMAGE, TEXT)
    dropped_fields: Mapping[str, tuple[str, ...]] = {
        "image": ("still", "appearance", "image_token"),
        "text": ("text_token",),
    }
    max_clip_error = 50.0  # 31.1 dB; the paper drops clips above 50 but does not state the unit

    def __init__(self, config: LVMMConfig, policy: ComputePolicy | None = None):
        super().__init__(config, policy)
        self.schedule = NoiseSchedule(kind="cosine", prediction_type=config.prediction_type)
        if "text_encoder" not in self.components:
            self.conditions = (IMAGE,)
        self.feature_steps = self._feature_steps()
        trained = (config.motion_part, "renderer")
        self.objectives = {
            "motion": Objective(trained, self._motion_losses, lambda: initial_statistics(config, trained)),
            "motion_vae": Objective((config.motion_part, "motion_vae"), self._vae_losses),
        }

    def features(self, params: Params, raw: Mapping[str, Array], key: PRNGKeyArray) -> dict[str, Array]:
        """Returns features as the base class does; in training the picture is the first frame of the video."""
        if "video" in raw and "picture" not in raw and "latents" not in raw:
            raw = {**raw, "picture": raw["video"][:, 0]}
            if self.config.vision_encoder is not None:
                raw["seen_picture"] = raw["picture"]
        found = super().features(params, raw, key)
        return {**found, self.target: found["latents"][:, 1:]}

    def feature_shapes(
        self, rows: int, frames: int, *, cached: Callable[[FeatureStep], bool] = lambda step: True
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes of a batch; features of the video are either all cached or all computed."""
        shapes, steps = self.raw_shapes(rows, frames), {step.name: step for step in self.feature_steps}
        if cached(steps["fields"]):
            shapes = {"token_ids": shapes["token_ids"]} if "text_token" in steps else {}
            first = {"latents": (rows, frames, *self.latent_shape)}
            first |= {name: (rows, *steps[name].shape) for name in ("appearance", "image_token") if name in steps}
            shapes |= {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in first.items()}
        if "text_token" in steps and cached(steps["text_token"]):
            del shapes["token_ids"]
            shapes["text_token"] = jax.ShapeDtypeStruct((rows, *steps["text_token"].shape), jnp.float32)
        return shapes

    def inputs(self, features: Mapping[str, Array], key: PRNGKeyArray | None = None) -> Inputs:
        """Returns the latent of the zero motion field, the picture's features, and the tokens."""
        del key
        names = ("appearance", "image_token", "text_token", "null_text_token", "boxes", "mask")
        given = {name: features[name] for name in names if name in features}
        if "prompted" in features:
            given["text_token"] = given["text_token"] * features["prompted"][:, None]
        still = features["latents"][:, 0].astype(jnp.float32)
        if "guided_picture" not in features:  # boxes of training examples are not for guidance
            given |= dict.fromkeys(("boxes", "mask"))
        return Inputs(still, picture=features.get("guided_picture"), **given)

    def encode(self, params: Params, inputs: Inputs, frames: Int[Array, " f"] | None = None) -> Tokens:
        """Returns channels to concatenate to the latents, and tokens; a model without towers has one zero token."""
        del frames
        joined = inputs.still
        if inputs.appearance is not None:
            projected = self._apply("appearance", params, inputs.appearance).astype(joined.dtype)
            joined = jnp.concatenate([joined, projected], axis=-1)
        tokens = [token for token in (inputs.image_token, inputs.text_token) if token is not None]
        tokens = tokens or [jnp.zeros((len(joined), self.config.unet.context_dim))]
        return Tokens(joined, jnp.stack(tokens, axis=1).astype(jnp.float32), inputs.boxes, inputs.mask)

    def precompute(self, params: Params, context: Tokens) -> Context:
        """Returns keys and values of every attention to the tokens."""
        attended = self._apply("unet", params, context.tokens, method="context")
        return Context(context.joined, attended, context.boxes, context.mask)

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
        """Returns the UNet's output; without temporal layers every frame attends only to itself."""
        del dropout_key
        joined = jnp.repeat(context.joined[:, None], x.shape[1], axis=1).astype(x.dtype)
        focus = None if temporal else jnp.ones(len(x), bool)
        return self._apply("unet", params, jnp.concatenate([x, joined], axis=-1), t, context.unet, focus_present=focus)

    def decode(self, params: Params, latents: Float[Array, "b f h w c"], inputs: Inputs) -> Motion:
        """Returns the motion of frames 1 to K."""
        del inputs
        flat = latents.reshape(-1, *latents.shape[2:])
        fields = self._apply("motion_vae", params, flat, method="decode")
        fields = fields.reshape(*latents.shape[:2], *fields.shape[1:])
        return Motion(fields[..., :2] * self.config.field_scale, jnp.clip((fields[..., 2] + 1) / 2, 0, 1))

    def render(
        self, params: Params, decoded: Motion, inputs: Inputs, frames: Int[Array, " k"]
    ) -> Float[Array, "b k H W 3"]:
        """Renders the picture with the motion fields of the selected frames."""
        chosen = jax.tree.map(lambda x: x[:, frames].reshape(-1, *x.shape[2:]), decoded)
        source = inputs.picture.astype(jnp.float32) / 255
        levels = self._apply("renderer", params, source, method="levels")
        count = len(frames)
        repeated = [jnp.repeat(level, count, axis=0) for level in (source, *levels)]
        grid = corner_grid(*chosen.displacement.shape[1:3]) + chosen.displacement
        rendered = self._apply(
            "renderer", params, repeated[0], repeated[1:], grid, chosen.confidence[..., None], method="render"
        ).prediction
        return (2 * rendered.astype(jnp.float32) - 1).reshape(len(source), count, *source.shape[1:])

    def clip_errors(
        self, params: Params, video: UInt8[Array, "b f h w 3"], features: Mapping[str, Array]
    ) -> Float[Array, " b"]:
        """Returns the mean squared error of the last frame, rendered from its latent, in 8-bit units."""
        fields = self.decode(params, features["latents"][:, -1:], None)
        inputs = Inputs(features["latents"][:, 0], picture=video[:, 0])
        last = self.render(params, fields, inputs, jnp.zeros(1, jnp.int32))[:, 0]
        return jnp.square(127.5 * (last + 1) - video[:, -1].astype(jnp.float32)).mean(axis=(1, 2, 3))

    def _train(self, name: str, params: Params, *args: Any, train: bool) -> tuple[Any, Stats]:
        """Applies a network with BatchNorm; in training, also returns its new running statistics."""
        if not train:
            return self._apply(name, params, *args), {}
        out, new = self.networks[name].apply({"params": params[name]}, *args, train=True, mutable=[STATISTICS])
        return out, {name: new[STATISTICS]}

    def _motion_losses(
        self,
        params: Params,
        stats: Stats,
        batch: Mapping[str, Array],
        key: PRNGKeyArray,
        *,
        weights: Any,
        train: bool = True,
    ) -> tuple[Losses, Stats]:
        pair_key, mask_key = jax.random.split(key)
        pair = draw_pair(pair_key, batch["video"], batch.get("fields"))
        params = with_statistics(params, stats)
        flow, moved = self._train(self.config.motion_part, params, pair.source, pair.driving, train=train)
        visible = flow.occlusion * random_visibility(mask_key, len(pair.source), flow.grid.shape[1:3])
        rendered, drawn = self._train("renderer", params, pair.source, flow.grid, visible, train=train)
        loss = reconstruction_loss(rendered.prediction.astype(jnp.float32), pair.driving)
        if pair.field is not None:
            displacement = flow.grid - corner_grid(*flow.grid.shape[1:3])
            error, hidden = field_loss(displacement, flow.occlusion, pair.field)
            loss = loss + weights.field_weight * error + hidden
        return Losses(loss, no_buckets(loss)), with_statistics(stats, {**moved, **drawn})

    def _vae_losses(
        self,
        params: Params,
        stats: Stats,
        batch: Mapping[str, Array],
        key: PRNGKeyArray,
        *,
        weights: Any,
        train: bool = True,
    ) -> tuple[Losses, Stats]:
        del train
        video = batch["video"]
        fields = self._predict_fields(params[self.config.motion_part], video, None)
        fields = fields.reshape(-1, *fields.shape[2:])
        posterior = self._apply("motion_vae", params, fields, method="posterior")
        decoded = self._apply("motion_vae", params, posterior.sample(key), method="decode_unscaled")
        loss = autoencoder_loss(
            decoded, fields, posterior.mean, posterior.log_variance, kl_weight=weights.kl_weight
        ).reshape(len(video), -1)
        loss = loss.mean(axis=1)
        return Losses(loss, no_buckets(loss)), stats


def initial_statistics(config: LVMMConfig, components: tuple[str, ...]) -> Stats:
    """Returns the initial running statistics of BatchNorm: means of 0 and variances of 1."""
    shapes = {name: flatten(abstract_params(config.components()[name])) for name in components}
    leaves = {f"{name}/{path}": leaf for name, part in shapes.items() for path, leaf in part.items()}
    values = {"mean": jnp.zeros, "variance": jnp.ones}
    return unflatten(
        {
            path: values[path.rsplit("/", 1)[1]](leaf.shape, leaf.dtype)
            for path, leaf in leaves.items()
            if is_statistic(path)
        }
    )
