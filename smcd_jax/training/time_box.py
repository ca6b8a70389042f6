"""Training with a time limit: the elapsed share of the time sets the learning rate and ends the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from smcd_jax.errors import SMCDError
from smcd_jax.training.state import TrainState


class TimeShare(NamedTuple):
    """State of `decay_by_time`.

    Attributes:
        time_share: Elapsed share of the run's time, 0..1; the loop sets it before every step.
    """

    time_share: Float[Array, ""]


def time_factor(share: Float[Array, ""] | float, end_ratio: float) -> Float[Array, ""]:
    """Returns the learning rate factor at this share of the time, a cosine decay from 1 to ``end_ratio``."""
    return end_ratio + (1 - end_ratio) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))


def decay_by_time(end_ratio: float) -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by `time_factor`."""

    def init(params: optax.Params) -> TimeShare:
        del params
        return TimeShare(jnp.zeros((), jnp.float32))

    def update(
        updates: optax.Updates, state: TimeShare, params: optax.Params | None = None
    ) -> tuple[optax.Updates, TimeShare]:
        del params
        factor = time_factor(state.time_share, end_ratio)
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates), state

    return optax.GradientTransformation(init, update)


_LONGEST = 300.0  # longest interval in seconds that counts in full; a longer gap means that the process was paused


class TimeBox:
    """Clock of a run with a time limit. It starts when it is created, so compilation time counts.

    A pause of the process (SIGSTOP) counts as at most 5 minutes.

    The time that has passed is part of the training state, so that a resumed run uses only the remaining time.

    Args:
        minutes: Time of the run; 0 for a run that is limited by steps alone.
        end_ratio: Ratio of the last to the highest learning rate.
        clock: Function that returns the time in seconds.

    Raises:
        SMCDError: The run has several processes, which would stop at different steps.
    """

    def __init__(self, minutes: float, *, end_ratio: float = 1.0, clock: Callable[[], float] = time.monotonic):
        if minutes and jax.process_count() > 1:
            raise SMCDError(
                "config: run.minutes needs a run of one process; use run.steps", argument="run.minutes", value=minutes
            )
        self._seconds, self._end_ratio, self._clock = 60.0 * minutes, end_ratio, clock
        self._last, self._passed = clock(), 0.0

    def resume(self, state: TrainState) -> TrainState:
        """Continues from the time that is stored in a state; returns the state."""
        if self._seconds:
            self._passed += self._seconds * float(optax.tree.get(state.optimizer, "time_share"))
        return state

    @property
    def share(self) -> float:
        """Elapsed share of the time, 0..1; 0 for a run without a time limit."""
        now = self._clock()
        self._passed += min(now - self._last, _LONGEST)
        self._last = now
        return min(self._passed / self._seconds, 1.0) if self._seconds else 0.0

    @property
    def over(self) -> bool:
        """Whether the time limit is reached."""
        return self.share >= 1.0

    @property
    def seconds_left(self) -> float | None:
        """Remaining time in seconds; None for a run without a time limit."""
        return (1.0 - self.share) * self._seconds if self._seconds else None

    @property
    def rate_factor(self) -> float:
        """Current factor of the learning rate."""
        return float(time_factor(self.share, self._end_ratio)) if self._seconds else 1.0

    def stamp(self, state: TrainState) -> TrainState:
        """Returns the state with the elapsed share of the time, after waiting for the last step."""
        if not self._seconds:
            return state
        old = optax.tree.get(state.optimizer, "time_share")
        jax.block_until_ready(state.step)
        new = jax.device_put(np.float32(self.share), old.sharding)
        return state._replace(optimizer=optax.tree.set(state.optimizer, time_share=new))
