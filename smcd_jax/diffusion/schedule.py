"""The noise schedule: how much signal is left at each training timestep, and noising a clean latent to one of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from smcd_jax.diffusion.prediction import PREDICTION_TYPES, PredictionType, per_example
from smcd_jax.errors import SMCDError

BetaKind = Literal["scaled_linear", "linear"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The variance-preserving schedule a network was trained with, and what that network predicts.

    Defaults are those of Stable Diffusion, ModelScope and SMCD: 1000 steps, betas linear in their square root
    ("scaled_linear"; "linear" is linear in beta itself), noise prediction. Hashable, so usable as a static argument of
    ``jax.jit``.

    Attributes:
        num_train_timesteps: T, at least 2; timesteps run from 0 (nearly clean) to T-1.
        beta_start: variance added at timestep 0, in (0, 1).
        beta_end: variance added at timestep T-1, from ``beta_start`` to below 1.
        kind: which curve joins the two.
        rescale_zero_terminal_snr: shift and scale sqrt(a) so that the last timestep is pure noise (Lin et al. 2023,
            arXiv 2305.08891, algorithm 1). Refused with noise prediction, which leaves x_0 undefined at a = 0.
        prediction_type: what the network's output means.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    kind: BetaKind = "scaled_linear"
    rescale_zero_terminal_snr: bool = False
    prediction_type: PredictionType = "epsilon"

    def __post_init__(self):
        if self.num_train_timesteps < 2:
            raise SMCDError(f"noise schedule: num_train_timesteps is {self.num_train_timesteps}, use 2 or more")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise SMCDError(
                f"noise schedule: beta_start {self.beta_start} and beta_end {self.beta_end} must satisfy "
                "0 < beta_start <= beta_end < 1"
            )
        if self.kind not in ("scaled_linear", "linear"):
            raise SMCDError(f"noise schedule: unknown kind {self.kind!r}, use 'scaled_linear' or 'linear'")
        if self.prediction_type not in PREDICTION_TYPES:
            raise SMCDError(
                f"noise schedule: unknown prediction_type {self.prediction_type!r}, "
                f"use one of {', '.join(PREDICTION_TYPES)}"
            )
        if self.rescale_zero_terminal_snr and self.prediction_type == "epsilon":
            raise SMCDError(
                "noise schedule: rescale_zero_terminal_snr with prediction_type 'epsilon' leaves x_0 undefined "
                "at the last timestep, use 'v_prediction' or 'sample'"
            )

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """float64 ``[T]``, the product of 1-beta up to each timestep: what samplers compute from."""
        return self._finished(np.cumprod(1 - self._betas_float64()), np.float64)

    @cached_property
    def training_alphas_cumprod(self) -> np.ndarray:
        """float32 ``[T]``, the same product from float32 betas: what the reference noises its training latents with.

        Differs from ``alphas_cumprod`` by less than 1e-6 relative, and equals the reference's table bit for bit.
        """
        betas = self._betas_float32()
        # torch.cumprod on CPU accumulates float32 in double and rounds each entry.
        alphas_cumprod = np.cumprod((np.float32(1) - betas).astype(np.float64))
        return self._finished(alphas_cumprod, np.float32)

    def add_noise(
        self, x0: Float[Array, "b ..."], noise: Float[Array, "b ..."], t: Int[Array, " b"]
    ) -> Float[Array, "b ..."]:
        """x_t = sqrt(a_t) x_0 + sqrt(1-a_t) noise in float32, one timestep ``t`` in 0..T-1 an example."""
        alpha, sigma = self._signal_and_noise(x0, t)
        return alpha * x0.astype(jnp.float32) + sigma * noise.astype(jnp.float32)

    def velocity(
        self, x0: Float[Array, "b ..."], noise: Float[Array, "b ..."], t: Int[Array, " b"]
    ) -> Float[Array, "b ..."]:
        """The velocity sqrt(a_t) noise - sqrt(1-a_t) x_0 in float32 (arXiv 2202.00512), ``t`` as in ``add_noise``."""
        alpha, sigma = self._signal_and_noise(x0, t)
        return alpha * noise.astype(jnp.float32) - sigma * x0.astype(jnp.float32)

    def snr(self, t: Int[Array, " b"]) -> Float[Array, " b"]:
        """Signal-to-noise ratio a_t / (1-a_t) in float32 for timesteps ``t`` in 0..T-1."""
        ratio = self.alphas_cumprod / (1 - self.alphas_cumprod)  # in float64: 1-a loses four digits near the clean end
        return jnp.asarray(ratio.astype(np.float32))[t]

    def _signal_and_noise(self, x0, t):
        a_t = per_example(jnp.asarray(self.training_alphas_cumprod)[t], x0)
        return jnp.sqrt(a_t), jnp.sqrt(1 - a_t)

    def _betas_float64(self) -> np.ndarray:
        start, end = self._curve_ends()
        curve = np.linspace(start, end, self.num_train_timesteps)
        return curve**2 if self.kind == "scaled_linear" else curve

    def _betas_float32(self) -> np.ndarray:
        # torch.linspace in float32 counts from the nearer end with one rounding a point (fused multiply-add).
        start, end = (np.float32(value) for value in self._curve_ends())
        index = np.arange(self.num_train_timesteps)
        step = np.float64((end - start) / np.float32(self.num_train_timesteps - 1))
        from_start = np.float64(start) + step * index
        from_end = np.float64(end) - step * (self.num_train_timesteps - 1 - index)
        curve = np.where(index < self.num_train_timesteps // 2, from_start, from_end).astype(np.float32)
        return curve**2 if self.kind == "scaled_linear" else curve

    def _curve_ends(self) -> tuple[float, float]:
        if self.kind == "scaled_linear":
            return math.sqrt(self.beta_start), math.sqrt(self.beta_end)
        return self.beta_start, self.beta_end

    def _finished(self, alphas_cumprod: np.ndarray, dtype: type) -> np.ndarray:
        """The table with its terminal SNR rescaled where asked for, and read-only because every caller shares it."""
        if self.rescale_zero_terminal_snr:
            signal = np.sqrt(alphas_cumprod)
            alphas_cumprod = ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
        alphas_cumprod = alphas_cumprod.astype(dtype)
        alphas_cumprod.flags.writeable = False
        return alphas_cumprod
