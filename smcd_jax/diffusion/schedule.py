"""The noise schedule: how much signal is left at each training timestep, and how noise is added to clean latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smcd_jax.diffusion.prediction import PREDICTION_TYPES, PredictionType, per_example
from smcd_jax.errors import SMCDError
from smcd_jax.sampling_options import refuse

BetaKind = Literal["scaled_linear", "linear", "cosine"]
DYNAMIC_RESCALE_STEPS = 400  # timesteps over which the signal falls to `NoiseSchedule.dynamic_rescale`


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise schedule a network was trained with, and what that network predicts.

    A noisy latent is x_t = signal(t) x_0 + noise(t) eps with signal = sqrt(a_t) scale_t and noise = sqrt(1 - a_t). a is
    ``alphas_cumprod``; scale is 1 unless the model was trained with dynamic rescale. Defaults are those of Stable
    Diffusion, ModelScope and SMCD: 1000 steps, betas linear in their square root ("scaled_linear"; "linear" is linear
    in beta itself), noise prediction. Hashable, so usable as a static argument of ``jax.jit``.

    Attributes:
        num_train_timesteps: Number T of timesteps, at least 2; they run from 0 (nearly clean) to T-1.
        beta_start: Variance added at timestep 0, in (0, 1).
        beta_end: Variance added at timestep T-1, from ``beta_start`` to below 1.
        kind: Curve of the betas between the two; "cosine" (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 17) uses
            neither.
        rescale_zero_terminal_snr: Whether sqrt(a) is shifted and scaled so that the last timestep is pure noise (Lin et
            al. 2023, arXiv 2305.08891, algorithm 1). Refused with noise prediction, which leaves x_0 undefined at
            a = 0.
        prediction_type: Meaning of the network's output. Noise and velocity are those of the scaled latent
            ``scale_t x_0``.
        dynamic_rescale: Value of scale_t at timesteps from 400 on; before that, scale_t falls linearly from 1
            (DynamiCrafter's ``base_scale``). In (0, 1]; 1 for none.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    kind: BetaKind = "scaled_linear"
    rescale_zero_terminal_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    dynamic_rescale: float = 1.0

    def __post_init__(self):
        if self.num_train_timesteps < 2:
            refuse("num_train_timesteps", self.num_train_timesteps, "be at least 2")
        if not 0 < self.beta_start <= self.beta_end < 1:
            refuse("beta_start", self.beta_start, f"satisfy 0 < beta_start <= beta_end < 1 (beta_end {self.beta_end})")
        if self.kind not in get_args(BetaKind):
            refuse("kind", self.kind, f"be one of {', '.join(get_args(BetaKind))}")
        if self.prediction_type not in PREDICTION_TYPES:
            refuse("prediction_type", self.prediction_type, f"be one of {', '.join(PREDICTION_TYPES)}")
        if not 0 < self.dynamic_rescale <= 1:
            refuse("dynamic_rescale", self.dynamic_rescale, "be above 0 and at most 1")
        if self.rescale_zero_terminal_snr and self.prediction_type == "epsilon":
            raise SMCDError(
                "rescale_zero_terminal_snr with prediction_type 'epsilon' leaves x_0 undefined at the last timestep; "
                "use 'v_prediction' or 'sample'",
                argument="rescale_zero_terminal_snr",
                value=True,
            )

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """Product of 1-beta up to each timestep, float64 ``[T]``; samplers use it."""
        return self._finished(np.cumprod(1 - self._betas_float64()), np.float64)

    @cached_property
    def training_alphas_cumprod(self) -> np.ndarray:
        """float32 ``[T]``, the same product from float32 betas, with which the reference adds noise in training.

        Differs from ``alphas_cumprod`` by less than 1e-6 relative, and equals the reference's table bit for bit.
        """
        betas = self._betas_float32()
        # torch.cumprod on CPU accumulates float32 in double and rounds each entry.
        alphas_cumprod = np.cumprod((np.float32(1) - betas).astype(np.float64))
        return self._finished(alphas_cumprod, np.float32)

    @cached_property
    def scale(self) -> np.ndarray:
        """float64 ``[T]``, the factor by which dynamic rescale multiplies clean latents at each timestep."""
        count = min(DYNAMIC_RESCALE_STEPS, self.num_train_timesteps)
        scale = np.full(self.num_train_timesteps, self.dynamic_rescale)
        scale[:count] = np.linspace(1, self.dynamic_rescale, count)
        scale.flags.writeable = False
        return scale

    def signal(self, t: Int[np.ndarray, " n"]) -> np.ndarray:
        """Returns the coefficient of x_0 in x_t at integer timesteps, in float64."""
        return np.sqrt(self.alphas_cumprod[t]) * self.scale[t]

    def noise(self, t: Int[np.ndarray, " n"]) -> np.ndarray:
        """Returns the coefficient of eps in x_t at integer timesteps, in float64."""
        return np.sqrt(1 - self.alphas_cumprod[t])

    def add_noise(
        self, x0: Float[Array, "b ..."], noise: Float[Array, "b ..."], t: Int[Array, " b"]
    ) -> Float[Array, "b ..."]:
        """Returns x_t = signal(t) x_0 + noise(t) noise in float32, at the timestep ``t`` of each example, 0..T-1."""
        alpha, sigma = self._signal_and_noise(x0, t)
        return alpha * self._scaled(x0, t) + sigma * noise.astype(jnp.float32)

    def velocity(
        self, x0: Float[Array, "b ..."], noise: Float[Array, "b ..."], t: Int[Array, " b"]
    ) -> Float[Array, "b ..."]:
        """Returns the velocity sqrt(a_t) noise - sqrt(1-a_t) scale_t x_0 in float32 (arXiv 2202.00512)."""
        alpha, sigma = self._signal_and_noise(x0, t)
        return alpha * noise.astype(jnp.float32) - sigma * self._scaled(x0, t)

    def snr(self, t: Int[Array, " b"]) -> Float[Array, " b"]:
        """Returns the signal-to-noise ratio a_t scale_t^2 / (1-a_t) in float32 for timesteps ``t`` in 0..T-1."""
        ratio = (
            self.alphas_cumprod * self.scale**2 / (1 - self.alphas_cumprod)
        )  # in float64: 1-a loses four digits near the clean end
        return jnp.asarray(ratio.astype(np.float32))[t]

    def _scaled(self, x0: Float[Array, "b ..."], t: Int[Array, " b"]) -> Float[Array, "b ..."]:
        x0 = x0.astype(jnp.float32)
        return x0 if self.dynamic_rescale == 1 else x0 * per_example(jnp.asarray(self.scale, jnp.float32)[t], x0)

    def _signal_and_noise(self, x0, t):
        a_t = per_example(jnp.asarray(self.training_alphas_cumprod)[t], x0)
        return jnp.sqrt(a_t), jnp.sqrt(1 - a_t)

    def _betas_float64(self) -> np.ndarray:
        if self.kind == "cosine":
            return self._cosine_betas()
        start, end = self._curve_ends()
        curve = np.linspace(start, end, self.num_train_timesteps)
        return curve**2 if self.kind == "scaled_linear" else curve

    def _betas_float32(self) -> np.ndarray:
        if self.kind == "cosine":
            return self._cosine_betas().astype(np.float32)
        # torch.linspace in float32 counts from the nearer end with one rounding per point (fused multiply-add).
        start, end = (np.float32(value) for value in self._curve_ends())
        index = np.arange(self.num_train_timesteps)
        step = np.float64((end - start) / np.float32(self.num_train_timesteps - 1))
        from_start = np.float64(start) + step * index
        from_end = np.float64(end) - step * (self.num_train_timesteps - 1 - index)
        curve = np.where(index < self.num_train_timesteps // 2, from_start, from_end).astype(np.float32)
        return curve**2 if self.kind == "scaled_linear" else curve

    def _cosine_betas(self) -> np.ndarray:
        time = np.linspace(0, 1, self.num_train_timesteps + 1)
        level = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.clip(1 - level[1:] / level[:-1], 0, 0.9999)

    def _curve_ends(self) -> tuple[float, float]:
        if self.kind == "scaled_linear":
            return math.sqrt(self.beta_start), math.sqrt(self.beta_end)
        return self.beta_start, self.beta_end

    def _finished(self, alphas_cumprod: np.ndarray, dtype: type) -> np.ndarray:
        """Returns the table, with zero terminal SNR if the schedule has it; read-only because callers share it."""
        if self.rescale_zero_terminal_snr:
            signal = np.sqrt(alphas_cumprod)
            alphas_cumprod = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
        alphas_cumprod = alphas_cumprod.astype(dtype)
        alphas_cumprod.flags.writeable = False
        return alphas_cumprod
