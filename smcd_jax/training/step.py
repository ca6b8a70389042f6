"""One update: gradients of the trained part, clipped and applied, with the moving average and the sums for the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from smcd_jax.models.video_model import Losses, Stats
from smcd_jax.nn.networks import Params
from smcd_jax.runtime.sharding import constrain_batch
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.objective import NUM_BUCKETS, Batch, TrainObjective
from smcd_jax.training.selection import join
from smcd_jax.training.state import NO_FAULT, TrainState, empty_window

TrainStep = Callable[[TrainState, Params, Batch], TrainState]


class _Sums(NamedTuple):
    gradient: Params
    loss: Array
    bucket_loss: Array
    bucket_count: Array


def make_train_step(
    config: TrainConfig, objective: TrainObjective, optimizer: optax.GradientTransformation
) -> TrainStep:
    """``step(state, frozen, batch) -> state``: pure, for `jax.jit` with the state donated.

    A loss or gradient that is not finite changes nothing but ``state.fault``, and no later step changes anything: the
    loop sees it at the next line of the log, with the last good parameters, moments and moving average still there.
    """
    parts, decay = config.optimizer.grad_accum_steps, config.optimizer.ema_decay

    def loss_of(
        trained: Params, frozen: Params, stats: Stats, batch: Batch, key: Array
    ) -> tuple[Array, tuple[Losses, Stats]]:
        losses, stats = objective(join(trained, frozen), stats, batch, key)
        return losses.loss.mean(), (losses, stats)

    def gradients(state: TrainState, frozen: Params, batch: Batch) -> tuple[_Sums, Stats]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def one_part(carry: tuple[_Sums, Stats], part: tuple[Array, Batch]) -> tuple[tuple[_Sums, Stats], None]:
            (sums, stats), (index, rows) = carry, part
            rows = jax.tree.map(constrain_batch, rows)
            gradient_of = jax.value_and_grad(loss_of, has_aux=True)
            (loss, (losses, stats)), gradient = gradient_of(
                state.params, frozen, stats, rows, jax.random.fold_in(key, index)
            )
            one_hot = jax.nn.one_hot(losses.timestep_bucket, NUM_BUCKETS, dtype=jnp.float32)
            new = _Sums(gradient, loss, losses.loss @ one_hot, one_hot.sum(axis=0))
            return (jax.tree.map(jnp.add, sums, new), stats), None

        def zeros(gradient: Params) -> _Sums:
            return _Sums(gradient, jnp.zeros(()), jnp.zeros(NUM_BUCKETS), jnp.zeros(NUM_BUCKETS))

        if parts == 1:
            start = zeros(jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), state.params))
            return one_part((start, state.stats), (jnp.zeros((), jnp.int32), batch))[0]
        start = zeros(jax.tree.map(jnp.zeros_like, state.params))
        # Every device keeps its own rows in every part, so nothing moves.
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        (sums, stats), _ = jax.lax.scan(one_part, (start, state.stats), (jnp.arange(parts), split))
        mean = jax.tree.map(lambda x: x / parts, (sums.gradient, sums.loss))
        return sums._replace(gradient=mean[0], loss=mean[1]), stats

    def step(state: TrainState, frozen: Params, batch: Batch) -> TrainState:
        sums, stats = gradients(state, frozen, batch)
        norm = optax.tree.norm(sums.gradient)
        with jax.numpy_dtype_promotion("standard"):  # optax raises float decays to powers of integer step counts
            updates, optimizer_state = optimizer.update(sums.gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        keep_share = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
        average = lambda old, new: keep_share * old + (1 - keep_share) * new  # noqa: E731
        ema = jax.tree.map(average, state.ema, params) if decay else {}
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
            window=_advance(state, sums, norm, log_every=config.run.log_every),
        )

    return step


def _advance(state: TrainState, sums: _Sums, norm: Float[Array, ""], *, log_every: int) -> dict[str, Array]:
    """The sums since the last line of the log: part of the state, so that a resumed run logs the same numbers."""
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


def window_means(window: dict[str, Any]) -> dict[str, float]:
    """Means of a window, by the names they are logged under; a band that no example fell into is left out."""
    steps = max(float(window["steps"]), 1.0)
    means = {name: float(window[name]) / steps for name in ("loss", "gradient_norm")}
    for bucket, (loss, count) in enumerate(zip(window["bucket_loss"], window["bucket_count"], strict=True)):
        if count > 0:
            means[f"loss/t{bucket * 1000 // NUM_BUCKETS}"] = float(loss) / float(count)
    return means
