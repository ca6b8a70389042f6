"""Diffusion training targets and the per-example denoising loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.sampling_options import refuse


def training_noise(key: jax.Array, shape: tuple[int, ...], *, noise_offset: float = 0.0) -> Float[Array, "b f h w c"]:
    """Returns unit Gaussian noise of ``shape`` ``[b, f, h, w, c]`` in float32, with an optional offset.

    The offset is ``noise_offset`` times one Gaussian number per example and channel, the same in every frame and pixel;
    it lets a network learn to change overall brightness (Guttenberg 2023, "Diffusion with offset noise"; 0.1 is usual).
    The unit noise itself depends on ``key`` alone.
    """
    noise_key, offset_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, shape, jnp.float32)
    if not noise_offset:
        return noise
    one_per_channel = (shape[0], *(1,) * (len(shape) - 2), shape[-1])
    return noise + noise_offset * jax.random.normal(offset_key, one_per_channel, jnp.float32)


def draw_timesteps(key: jax.Array, count: int, total: int, *, stratified: bool) -> Int[Array, " b"]:
    """Returns timesteps, uniform in 0..total-1; ``stratified`` spaces them evenly to lower the variance of a loss."""
    if not stratified:
        return jax.random.randint(key, (count,), 0, total)
    return ((jnp.arange(count) * total + total // 2) // count).astype(jnp.int32)


def prediction_target(
    schedule: NoiseSchedule, x0: Float[Array, "b ..."], noise: Float[Array, "b ..."], *, t: Int[Array, " b"]
) -> Float[Array, "b ..."]:
    """Returns the target at ``schedule.add_noise(x0, noise, t)``: noise, x_0 or velocity, in float32."""
    if schedule.prediction_type == "epsilon":
        return noise.astype(jnp.float32)
    if schedule.prediction_type == "v_prediction":
        return schedule.velocity(x0, noise, t)
    return x0.astype(jnp.float32)


def min_snr_weights(schedule: NoiseSchedule, t: Int[Array, " b"], *, gamma: float) -> Float[Array, " b"]:
    """Returns loss weights ``[b]`` equivalent to min(SNR, gamma) on x_0 (Hang et al. 2023, arXiv 2303.09556).

    The paper uses gamma = 5. A squared error in x_0 is 1/SNR times that in eps and 1/(SNR+1) times that in v, hence
    min(SNR, gamma) for "sample", min(SNR, gamma)/SNR for "epsilon", and min(SNR, gamma)/(SNR+1) for "v_prediction".

    Raises:
        SMCDError: ``gamma`` is not above zero.
    """
    if not gamma > 0:
        refuse("min_snr_gamma", gamma, "be above 0 (5 in the paper)")
    snr = schedule.snr(t)
    clipped = jnp.minimum(snr, gamma)
    if schedule.prediction_type == "epsilon":
        return clipped / snr
    if schedule.prediction_type == "v_prediction":
        return clipped / (snr + 1)
    return clipped


def diffusion_loss(
    model_output: Float[Array, "b f h w c"],
    *,
    schedule: NoiseSchedule,
    x0: Float[Array, "b f h w c"],
    noise: Float[Array, "b f h w c"],
    t: Int[Array, " b"],
    min_snr_gamma: float | None = None,
) -> Float[Array, " b"]:
    """Returns each example's mean squared error in float32; the mean over the batch is the reference's loss.

    Args:
        model_output: Output of the network at ``schedule.add_noise(x0, noise, t)``.
        schedule: Noise schedule, which determines the target (`prediction_target`) and the SNR.
        x0: Clean latents.
        noise: Noise that was added, offset included.
        t: Timestep of each example, 0..T-1.
        min_snr_gamma: Gamma of `min_snr_weights`; None, as in the reference, weights all examples equally.

    Raises:
        SMCDError: ``gamma`` is not above zero.
    """
    target = prediction_target(schedule, x0, noise, t=t)
    squared_error = jnp.square(model_output.astype(jnp.float32) - target)
    loss = jnp.mean(squared_error, axis=tuple(range(1, squared_error.ndim)))
    return loss if min_snr_gamma is None else loss * min_snr_weights(schedule, t, gamma=min_snr_gamma)
