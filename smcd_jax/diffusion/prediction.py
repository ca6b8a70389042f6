"""What a network predicts: noise (epsilon), the clean sample x_0, or the velocity v.

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
    """``values``, a scalar or one number per example ``[b]``, as float32 that broadcasts against ``latents``."""
    values = jnp.asarray(values, jnp.float32)
    return values if values.ndim == 0 else values.reshape(values.shape + (1,) * (latents.ndim - values.ndim))


def x0_coefficients(alpha, sigma, prediction_type: PredictionType, *, scale=1.0):
    """The pair (p, q) for which x_0 = p x_t + q model_output.

    Args:
        alpha: sqrt(a_t), number or array, as are the others and the result.
        sigma: sqrt(1 - a_t).
        prediction_type: Meaning of the network's output.
        scale: Factor that multiplied x_0 before noise was added (`NoiseSchedule.scale`).
    """
    if prediction_type == "epsilon":
        return 1 / (alpha * scale), -sigma / (alpha * scale)
    if prediction_type == "v_prediction":
        return alpha / scale, -sigma / scale
    return 0 * alpha, 1 + 0 * sigma


def to_x0(
    model_output: Float[Array, "b ..."],
    latents: Float[Array, "b ..."],
    alphas_cumprod: jax.typing.ArrayLike,
    *,
    prediction_type: PredictionType,
) -> Float[Array, "b ..."]:
    """The clean sample x_0 that a model output at ``latents`` = x_t stands for, in float32.

    ``alphas_cumprod`` is a_t, a scalar or ``[b]``. For "epsilon" it must be above zero: pure noise says nothing of x_0.
    """
    alpha, sigma = _signal_and_noise(alphas_cumprod, latents)
    from_latents, from_model = x0_coefficients(alpha, sigma, prediction_type)
    return from_latents * latents.astype(jnp.float32) + from_model * model_output.astype(jnp.float32)


def to_epsilon(
    model_output: Float[Array, "b ..."],
    latents: Float[Array, "b ..."],
    alphas_cumprod: jax.typing.ArrayLike,
    *,
    prediction_type: PredictionType,
) -> Float[Array, "b ..."]:
    """The noise eps that a model output at ``latents`` = x_t stands for, in float32.

    ``alphas_cumprod`` is a_t, a scalar or ``[b]``, below one for "sample".
    """
    alpha, sigma = _signal_and_noise(alphas_cumprod, latents)
    latents, model_output = latents.astype(jnp.float32), model_output.astype(jnp.float32)
    if prediction_type == "epsilon":
        return model_output
    if prediction_type == "v_prediction":
        return alpha * model_output + sigma * latents
    return (latents - alpha * model_output) / sigma


def to_v(
    model_output: Float[Array, "b ..."],
    latents: Float[Array, "b ..."],
    alphas_cumprod: jax.typing.ArrayLike,
    *,
    prediction_type: PredictionType,
) -> Float[Array, "b ..."]:
    """The velocity v that a model output at ``latents`` = x_t stands for, in float32.

    ``alphas_cumprod`` is a scalar or ``[b]``, above zero for "epsilon" and below one for "sample".
    """
    alpha, sigma = _signal_and_noise(alphas_cumprod, latents)
    latents, model_output = latents.astype(jnp.float32), model_output.astype(jnp.float32)
    if prediction_type == "epsilon":
        return (model_output - sigma * latents) / alpha
    if prediction_type == "v_prediction":
        return model_output
    return (alpha * latents - model_output) / sigma


def _signal_and_noise(alphas_cumprod: jax.typing.ArrayLike, latents: Float[Array, "b ..."]):
    a_t = per_example(alphas_cumprod, latents)
    return jnp.sqrt(a_t), jnp.sqrt(1 - a_t)
