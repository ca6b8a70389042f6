"""One update: gradients of the trained part, clipped and applied, with the moving average and the sums for the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from smcd_jax.models.registry import Params
from smcd_jax.runtime.sharding import constrain_batch
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.objective import Batch, Losses, Objective
from smcd_jax.training.selection import join
from smcd_jax.training.state import BANDS, NO_FAULT, TrainState, empty_window

TrainStep = Callable[[TrainState, Params, Batch], TrainState]


class _Sums(NamedTuple):
    gradient: Params
    loss: Array
    band_loss: Array
    band_count: Array


def make_train_step(config: TrainConfig, objective: Objective, optimizer: optax.GradientTransformation) -> TrainStep:
    """``step(state, frozen, batch) -> state``: pure, for `jax.jit` with the state donated.

    A loss or gradient that is not finite changes nothing but ``state.fault``, and no later step changes anything: the
    loop sees it at the next line of the log, with the last good parameters, moments and moving average still there.
    """
    parts, decay = config.optimizer.accumulation, config.optimizer.ema_decay

    def loss_of(trained: Params, frozen: Params, batch: Batch, key: Array) -> tuple[Array, Losses]:
        losses = objective(join(trained, frozen), batch, key)
        return losses.loss.mean(), losses

    def gradients(state: TrainState, frozen: Params, batch: Batch) -> _Sums:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def one_part(sums: _Sums, given: tuple[Array, Batch]) -> tuple[_Sums, None]:
            index, part = given
            part = jax.tree.map(constrain_batch, part)
            part_key = jax.random.fold_in(key, index)
            (loss, losses), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params, frozen, part, part_key)
            here = jax.nn.one_hot(losses.band, BANDS, dtype=jnp.float32)
            new = _Sums(gradient, loss, losses.loss @ here, here.sum(axis=0))
            return jax.tree.map(jnp.add, sums, new), None

        if parts == 1:
            zero = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), state.params)
            start = _Sums(zero, jnp.zeros(()), jnp.zeros(BANDS), jnp.zeros(BANDS))
            return one_part(start, (jnp.zeros((), jnp.int32), batch))[0]
        start = _Sums(jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(()), jnp.zeros(BANDS), jnp.zeros(BANDS))
        # every device keeps its own rows in every part, so nothing moves
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        sums, _ = jax.lax.scan(one_part, start, (jnp.arange(parts), split))
        share = lambda x: x / parts  # noqa: E731
        return sums._replace(gradient=jax.tree.map(share, sums.gradient), loss=share(sums.loss))

    def step(state: TrainState, frozen: Params, batch: Batch) -> TrainState:
        sums = gradients(state, frozen, batch)
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
        "band_loss": sums.band_loss,
        "band_count": sums.band_count,
    }
    return jax.tree.map(jnp.add, before, new)


def window_means(window: dict[str, Any]) -> dict[str, float]:
    """Means of a window, by the names they are logged under; a band that no example fell into is left out."""
    steps = max(float(window["steps"]), 1.0)
    means = {name: float(window[name]) / steps for name in ("loss", "gradient_norm")}
    for band, (loss, count) in enumerate(zip(window["band_loss"], window["band_count"], strict=True)):
        if count > 0:
            means[f"loss/t{band * 1000 // BANDS}"] = float(loss) / float(count)
    return means
