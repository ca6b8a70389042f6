"""What a step minimises: the denoising loss of a batch, with conditions left out at random, and the autoencoder's.

An objective is a pure function of parameters, batch and key. It gives one loss an example, and which band of timesteps
each example counts to in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from smcd_jax.diffusion.loss import diffusion_loss, training_noise
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.registry import Network, Params, network
from smcd_jax.training.config import DropConfig, TrainConfig
from smcd_jax.training.state import BANDS, components, policy

Batch = Mapping[str, Array]
Networks = Mapping[str, Network]


class Losses(NamedTuple):
    """One entry an example: the loss, and the band of timesteps it counts to (0 is nearly clean)."""

    loss: Float[Array, " b"]
    band: Int[Array, " b"]


class Noised(NamedTuple):
    """What is drawn for an example besides its conditions."""

    noise: Float[Array, "b f h w c"]
    timesteps: Int[Array, " b"]


class Conditions(NamedTuple):
    """What the network is told; a condition that is left out has been replaced already.

    Attributes:
        text: of the text tower.
        boxes: xyxy in 0..1.
        mask: 1 where an object is present.
        labels: each object's label embedding.
        image_latent: the first frame's scaled latent for the input channels (ZC).
        hint: the same for the image encoder or the ControlNet (GCA).
    """

    text: Float[Array, "b l d"]
    boxes: Float[Array, "b f n 4"]
    mask: Float[Array, "b f n"]
    labels: Float[Array, "b n e"]
    image_latent: Float[Array, "b h w c"]
    hint: Float[Array, "b h w c"]


Objective = Callable[..., Losses]


def make_objective(
    config: TrainConfig, *, null_text: np.ndarray | None = None, platform: str | None = None
) -> Objective:
    """The objective of a run: ``objective(params, batch, key, train=True) -> Losses``.

    Args:
        config: of the run.
        null_text: what a dropped caption becomes: its embedding [l, d] where texts come from the cache, else its token
            ids [l]. Needed where ``drop.text`` is above 0.
        platform: of `smcd_jax.training.state.policy`.
    """
    networks = {name: network(part, policy(config, platform)) for name, part in components(config).items()}
    if config.objective == "autoencoder":
        return lambda params, batch, key, train=True: autoencoder_losses(networks, params, batch, key, config=config)
    schedule = NoiseSchedule(prediction_type=config.model.prediction_type)

    def objective(params: Params, batch: Batch, key: PRNGKeyArray, train: bool = True) -> Losses:
        keys = dict(zip(("latents", "noise", "timesteps", "drop", "dropout"), jax.random.split(key, 5), strict=True))
        latents = encode_latents(networks, params, batch, keys["latents"])
        text, labels = encode_texts(networks, params, batch)
        noise = training_noise(keys["noise"], latents.shape, noise_offset=config.loss.noise_offset)
        count = len(latents)
        timesteps = draw_timesteps(keys["timesteps"], count, schedule.num_train_timesteps, stratified=not train)
        given = Conditions(text, batch["boxes"], batch["mask"], labels, latents[:, 0], latents[:, 0])
        if train:
            null = _null_text(networks, params, null_text, text)
            given = drop_conditions(given, keys["drop"], rates=config.drop, null_text=null)
        rngs = {"dropout": keys["dropout"]} if train and config.dropout else None
        loss = denoising_losses(
            networks, params, latents, Noised(noise, timesteps), conditions=given, config=config, rngs=rngs
        )
        return Losses(loss, timesteps * BANDS // schedule.num_train_timesteps)

    return objective


def encode_latents(networks: Networks, params: Params, batch: Batch, key: PRNGKeyArray) -> Float[Array, "b f h w c"]:
    """Scaled latents: those of the cache, or of the autoencoder's posterior, sampled, without gradient."""
    if "latents" in batch:
        return batch["latents"].astype(jnp.float32)
    video = batch["video"]
    frames = to_model_range(video.reshape(-1, *video.shape[2:]))
    module = networks["autoencoder"]
    posterior = module.apply({"params": params["autoencoder"]}, frames, method="posterior")
    latents = posterior.sample(key) * module.config.scaling_factor
    return jax.lax.stop_gradient(latents.reshape(*video.shape[:2], *latents.shape[1:]))


def encode_texts(
    networks: Networks, params: Params, batch: Batch
) -> tuple[Float[Array, "b l d"], Float[Array, "b n e"]]:
    """Embeddings of captions and labels: those of the cache, or of the text tower."""
    if "text" in batch:
        return batch["text"], batch["labels"]
    encode = lambda ids, method: networks["text_encoder"].apply(  # noqa: E731
        {"params": params["text_encoder"]}, ids, method=method
    )
    ids = batch["label_ids"]
    labels = encode(ids.reshape(-1, ids.shape[-1]), "label_embedding")
    return encode(batch["token_ids"], "__call__"), labels.reshape(*ids.shape[:2], -1)


def draw_timesteps(key: PRNGKeyArray, count: int, total: int, *, stratified: bool) -> Int[Array, " b"]:
    """Uniform in 0..T-1; ``stratified`` spreads them evenly over it, for a validation loss of little variance."""
    if not stratified:
        return jax.random.randint(key, (count,), 0, total)
    return ((jnp.arange(count) * total + total // 2) // count).astype(jnp.int32)


def drop_conditions(
    given: Conditions, key: PRNGKeyArray, *, rates: DropConfig, null_text: Float[Array, "l d"] | None
) -> Conditions:
    """Leaves out each condition with its rate, independently, by example or for the whole batch."""
    count = len(given.text)

    def keep(index: int, rate: float) -> Float[Array, " b"]:
        shape = (count,) if rates.unit == "example" else (1,)
        kept = jax.random.uniform(jax.random.fold_in(key, index), shape) >= rate
        return jnp.broadcast_to(kept, (count,)).astype(jnp.float32)

    boxes, image_latent, hint, text = (
        keep(index, rate)
        for index, rate in enumerate((rates.boxes, rates.image_latent, rates.image_tokens, rates.text))
    )
    words = given.text
    if rates.text:
        words = jnp.where(text[:, None, None] > 0, words, null_text[None].astype(words.dtype))
    return given._replace(
        text=words,
        mask=given.mask * boxes[:, None, None],
        image_latent=given.image_latent * image_latent[:, None, None, None],
        hint=given.hint * hint[:, None, None, None],
    )


def denoising_losses(
    networks: Networks,
    params: Params,
    latents: Float[Array, "b f h w c"],
    noised: Noised,
    *,
    conditions: Conditions,
    config: TrainConfig,
    rngs: dict[str, PRNGKeyArray] | None = None,
) -> Float[Array, " b"]:
    """The loss of each example, everything random given.

    Args:
        networks: "unet" and those of "position_net", "image_encoder" and "controlnet" that the model has.
        params: parameter trees by the same names.
        latents: clean and scaled.
        noised: noise and timesteps.
        conditions: as the network is to see them.
        config: of the run.
        rngs: with a key named "dropout" to train with dropout.
    """
    schedule = NoiseSchedule(prediction_type=config.model.prediction_type)
    switches = {"temporal": config.temporal, "deterministic": rngs is None}

    def apply(name: str, *args: Any, **how: Any) -> Any:
        return networks[name].apply({"params": params[name]}, *args, **how)

    frames, times = latents.shape[1], noised.timesteps.astype(jnp.float32)
    x = schedule.add_noise(latents, noised.noise, noised.timesteps)
    objects = image_tokens = control = None
    if "position_net" in networks:
        labels = jnp.repeat(conditions.labels[:, None], frames, axis=1)
        objects = apply("position_net", conditions.boxes, conditions.mask, labels)
    if "image_encoder" in networks:
        image_tokens = apply("image_encoder", conditions.hint)
    if "controlnet" in networks:
        text = apply("controlnet", conditions.text, method="conditions")
        control = apply("controlnet", x, conditions.hint, times, text, rngs=rngs, **switches)
    if config.model.unet.image_latent:
        still = jnp.repeat(conditions.image_latent[:, None], frames, axis=1)
        x = jnp.concatenate([x, still], axis=-1)
    attended = apply(
        "unet", conditions.text, objects, object_mask=conditions.mask, image_tokens=image_tokens, method="conditions"
    )
    out = apply("unet", x, times, attended, control=control, rngs=rngs, **switches)
    return diffusion_loss(
        out,
        schedule=schedule,
        x0=latents,
        noise=noised.noise,
        t=noised.timesteps,
        min_snr_gamma=config.loss.min_snr_gamma,
    )


def autoencoder_losses(
    networks: Networks, params: Params, batch: Batch, key: PRNGKeyArray, *, config: TrainConfig
) -> Losses:
    """Absolute and squared error of pictures and of their edges, and the posterior's divergence from a unit Gaussian.

    Every frame of ``video`` is a picture of its own. The edges are differences between neighbouring pixels: without
    them a small decoder blurs what a tracker needs.
    """
    video, module = batch["video"], networks["autoencoder"]
    pictures = to_model_range(video.reshape(-1, *video.shape[2:]))
    variables = {"params": params["autoencoder"]}
    posterior = module.apply(variables, pictures, method="posterior")
    decoded = module.apply(variables, posterior.sample(key), method="decode_unscaled")
    error = decoded - pictures
    per_picture = lambda x: jnp.mean(jnp.abs(x) + jnp.square(x), axis=(1, 2, 3))  # noqa: E731
    edges = per_picture(jnp.diff(error, axis=1)) + per_picture(jnp.diff(error, axis=2))
    divergence = 0.5 * (
        jnp.square(posterior.mean) + jnp.exp(posterior.log_variance) - 1.0 - posterior.log_variance
    ).mean(axis=(1, 2, 3))
    loss = per_picture(error) + config.loss.edge_weight * edges + config.loss.kl_weight * divergence
    by_example = loss.reshape(len(video), -1).mean(axis=1)
    return Losses(by_example, jnp.zeros(len(video), jnp.int32))


def to_model_range(frames: UInt8[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Pixels 0..255 to -1..1, as `smcd_jax.media.to_model_range` does on the host."""
    return (frames.astype(jnp.float32) / jnp.float32(255) - jnp.float32(0.5)) / jnp.float32(0.5)


def _null_text(
    networks: Networks, params: Params, null_text: np.ndarray | None, text: Float[Array, "b l d"]
) -> Float[Array, "l d"] | None:
    if null_text is None or null_text.ndim == 2:
        return None if null_text is None else jnp.asarray(null_text, text.dtype)
    return networks["text_encoder"].apply({"params": params["text_encoder"]}, jnp.asarray(null_text)[None])[0]
