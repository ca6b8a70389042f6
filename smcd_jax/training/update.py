"""Update of a training step: optimizer, moving average, log sums, and the guard against non-finite values."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from smcd_jax.models.video_model import Params, Stats
from smcd_jax.training.optimizer import global_norm
from smcd_jax.training.state import NO_FAULT, TrainState, empty_window


class GradientSums(NamedTuple):
    """Gradient and losses of a batch.

    Attributes:
        gradient: Gradient of the mean loss, a tree like that of the trained parameters.
        loss: Mean loss.
        bucket_loss: Sum of the losses of each timestep bucket.
        bucket_count: Number of examples of each timestep bucket.
    """

    gradient: Params
    loss: Float[Array, ""]
    bucket_loss: Float[Array, " buckets"]
    bucket_count: Float[Array, " buckets"]


def updated(
    state: TrainState,
    sums: GradientSums,
    stats: Stats,
    *,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    log_every: int,
) -> TrainState:
    """Returns the state after a step.

    If a loss or gradient is not finite, the step and all later ones change nothing but ``state.fault``. The loop
    notices it at the next log line, with the last good parameters, moments and moving average intact.

    Args:
        state: State before the step.
        sums: Gradient and losses of the batch.
        stats: Running statistics after the batch.
        optimizer: Result of `smcd_jax.training.optimizer.make_optimizer`.
        ema_decay: Decay of the moving average, 0 for no average.
        log_every: Interval of log lines in steps.
    """
    norm = global_norm(sums.gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax raises float decays to powers of integer step counts
        updates, optimizer_state = optimizer.update(sums.gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    keep_share = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    average = lambda old, new: keep_share * old + (1 - keep_share) * new  # noqa: E731
    ema = jax.tree.map(average, state.ema, params) if ema_decay else {}
    good = (state.fault == NO_FAULT) & jnp.isfinite(sums.loss) & jnp.isfinite(norm)
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)  # noqa: E731
    return TrainState(
        step=state.step + good.astype(jnp.int32),
        params=keep(params, state.params),
        optimizer=keep(optimizer_state, state.optimizer),
        stats=keep(stats, state.stats),
        ema=keep(ema, state.ema),
        key=state.key,
        fault=jnp.where(good | (state.fault != NO_FAULT), state.fault, state.step),
        window=_advance(state, sums, norm, log_every=log_every),
    )


def _advance(state: TrainState, sums: GradientSums, norm: Float[Array, ""], *, log_every: int) -> dict[str, Array]:
    """Returns the sums since the last log line; they are saved, so that a resumed run logs the same numbers."""
    begins = state.step % log_every == 0
    before = jax.tree.map(lambda old, zero: jnp.where(begins, zero, old), state.window, empty_window())
    new = {
        "steps": jnp.ones((), jnp.float32),
        "loss": sums.loss,
        "gradient_norm": norm,
        "bucket_loss": sums.bucket_loss,
        "bucket_count": sums.bucket_count,
    }
    return jax.tree.map(jnp.add, before, new)
