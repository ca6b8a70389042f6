"""Training objectives: the denoising loss of any video model, and objectives that a model brings itself.

An objective is a pure function of parameters, batch and random key that returns the loss of each example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.loss import diffusion_loss, training_noise
from smcd_jax.errors import SMCDError
from smcd_jax.models.video_model import Inputs, Losses, Params, Stats, VideoModel
from smcd_jax.training.config import TrainConfig

NUM_BUCKETS = 4  # equal parts of the timesteps, whose losses are logged separately
Batch = Mapping[str, Array]
TrainObjective = Callable[..., tuple[Losses, Stats]]


class Noised(NamedTuple):
    """Noise and timestep of each example."""

    noise: Float[Array, "b f h w c"]
    timesteps: Int[Array, " b"]


def make_objective(config: TrainConfig, model: VideoModel, *, null: Mapping[str, Any] | None = None) -> TrainObjective:
    """The objective of a run: ``objective(params, stats, batch, key, train=True) -> (Losses, stats)``.

    Args:
        config: Config of the run.
        model: Its model.
        null: Arrays of the null prompt, leading axis 1 (`smcd_jax.training.data.null_arrays`); needed where a dropped
            text occurs.

    Raises:
        SMCDError: The model has no such objective, or no such condition to drop.
    """
    if config.objective == "denoise":
        return _denoising_objective(config, model, null or {})
    if config.objective not in model.objectives:
        known = ", ".join(("denoise", *model.objectives))
        raise SMCDError(
            f"objective must be one of {known}, got {config.objective!r}", argument="objective", value=config.objective
        )
    losses = model.objectives[config.objective].losses

    def objective(
        params: Params, stats: Stats, batch: Batch, key: PRNGKeyArray, train: bool = True
    ) -> tuple[Losses, Stats]:
        del train
        return losses(params, stats, batch, key, weights=config.loss)

    return objective


def _denoising_objective(config: TrainConfig, model: VideoModel, null: Mapping[str, Any]) -> TrainObjective:
    model.check_rates(config.condition_dropout)
    total = model.schedule.num_train_timesteps

    def objective(
        params: Params, stats: Stats, batch: Batch, key: PRNGKeyArray, train: bool = True
    ) -> tuple[Losses, Stats]:
        keys = dict(zip(("features", "noise", "timesteps", "drop", "dropout"), jax.random.split(key, 5), strict=True))
        given = {**batch, **jax.tree.map(jnp.asarray, dict(null))} if train else batch
        features = model.features(params, given, keys["features"])
        latents = features[model.target].astype(jnp.float32)
        inputs = model.inputs(features, jax.random.fold_in(keys["features"], 0) if train else None)
        noise = training_noise(keys["noise"], latents.shape, noise_offset=config.loss.noise_offset)
        timesteps = draw_timesteps(keys["timesteps"], len(latents), total, stratified=not train)
        if train:
            rates, unit = config.condition_dropout, config.condition_dropout_unit
            inputs = model.drop(inputs, model.draw_keep(keys["drop"], len(latents), rates, unit=unit))
        loss = denoising_losses(
            model,
            params,
            latents,
            Noised(noise, timesteps),
            inputs=inputs,
            config=config,
            dropout_key=keys["dropout"] if train and config.dropout else None,
        )
        return Losses(loss, timesteps * NUM_BUCKETS // total), stats

    return objective


def draw_timesteps(key: PRNGKeyArray, count: int, total: int, *, stratified: bool) -> Int[Array, " b"]:
    """Timesteps, uniform in 0..T-1; ``stratified`` spaces them evenly, for a validation loss of low variance."""
    if not stratified:
        return jax.random.randint(key, (count,), 0, total)
    return ((jnp.arange(count) * total + total // 2) // count).astype(jnp.int32)


def denoising_losses(
    model: VideoModel,
    params: Params,
    latents: Float[Array, "b f h w c"],
    noised: Noised,
    *,
    inputs: Inputs,
    config: TrainConfig,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, " b"]:
    """The loss of each example, with everything random given.

    Args:
        model: The model.
        params: Parameters of the components of stages "encode" and "denoise".
        latents: Clean latents, multiplied by the scaling factor.
        noised: Noise and timesteps.
        inputs: Conditions, as the network sees them.
        config: Config of the run: loss weights, and whether temporal layers take part.
        dropout_key: Random key of dropout; None for no dropout.
    """
    schedule, times = model.schedule, noised.timesteps.astype(jnp.float32)
    x = schedule.add_noise(latents, noised.noise, noised.timesteps)
    context = model.precompute(params, model.encode(params, inputs))
    out = model.denoise(params, x, times, context, dropout_key=dropout_key, temporal=config.temporal)
    return diffusion_loss(
        out,
        schedule=schedule,
        x0=latents,
        noise=noised.noise,
        t=noised.timesteps,
        min_snr_gamma=config.loss.min_snr_gamma,
    )
