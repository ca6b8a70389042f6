"""Quantities that a network can predict: noise (epsilon), the clean sample x_0, or the velocity v.

The velocity is that of Salimans & Ho 2022 (arXiv 2202.00512). With x_t = sqrt(a) x_0 + sqrt(1-a) eps it is v = sqrt(a)
eps - sqrt(1-a) x_0.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PredictionType = Literal["epsilon", "sample", "v_prediction"]
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)


def per_example(values: jax.typing.ArrayLike, latents: Float[Array, "b ..."]) -> Float[Array, ...]:
    """Returns ``values``, a scalar or one per example ``[b]``, as float32 that broadcasts against ``latents``."""
    values = jnp.asarray(values, jnp.float32)
    return values if values.ndim == 0 else values.reshape(values.shape + (1,) * (latents.ndim - values.ndim))


def x0_coefficients(alpha, sigma, prediction_type: PredictionType, *, scale=1.0):
    """Returns the pair (p, q) for which x_0 = p x_t + q model_output.

    Args:
        alpha: Signal sqrt(a_t), a number or an array; ``sigma``, ``scale`` and the result have the same shape.
        sigma: Noise sqrt(1 - a_t).
        prediction_type: Meaning of the network's output.
        scale: Factor that multiplied x_0 before noise was added (`NoiseSchedule.scale`).
    """
    if prediction_type == "epsilon":
        return 1 / (alpha * scale), -sigma / (alpha * scale)
    if prediction_type == "v_prediction":
        return alpha / scale, -sigma / scale
    return 0 * alpha, 1 + 0 * sigma
