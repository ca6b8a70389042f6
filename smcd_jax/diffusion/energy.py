"""Guidance by an energy of the predicted clean latents, as an ``x0_transform`` of the sampling loop.

The score gains -grad(scale E), so the predicted noise gains scale sigma grad E and the sample moves to lower energy
(Generative Image Dynamics, Li et al. 2023, arXiv 2309.07906, use it for seamless loops). The gradient is taken at the
predicted x_0, or through the network that predicts it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.diffusion.samplers import SolverTable
from smcd_jax.diffusion.sampling import EstimateX0, X0Transform

Energy = Callable[[Float[Array, "b ..."]], Float[Array, " b"]]


def energy_guidance(
    energy: Energy, *, scale: float = 1.0, min_alpha_cumprod: float = 0.05, through_network: bool = False
) -> X0Transform:
    """Returns guidance that lowers an energy; each example's gradient is normalised to a root mean square of 1.

    Args:
        energy: Function from clean latents ``[b, ...]`` to the energy of each example, ``[b]``.
        scale: Root mean square of the guidance as a multiple of the noise level.
        min_alpha_cumprod: Smallest a_t, in 0..1, at which guidance is applied; below it, x_0 is mostly a guess.
        through_network: Whether the gradient is taken at x through the network, and not at the predicted x_0 alone. It
            needs a backward pass through the network and damps motion more.
    """

    def transform(x: Float[Array, "b ..."], estimate_x0: EstimateX0, row: SolverTable) -> Float[Array, "b ..."]:
        x0 = estimate_x0(x)
        if through_network:
            gradient = jax.grad(lambda x: energy(estimate_x0(x)).sum())(x)
        else:
            gradient = jax.grad(lambda x0: energy(x0).sum())(x0)
        axes = tuple(range(1, x0.ndim))
        gradient = gradient / (jnp.sqrt(jnp.mean(jnp.square(gradient), axis=axes, keepdims=True)) + 1e-8)
        is_on = row.sigma**2 < 1 - min_alpha_cumprod
        # x = alpha x_0 + sigma e with x fixed, so adding d to e subtracts (sigma / alpha) d from x_0
        return x0 - jnp.where(is_on, scale * row.sigma**2 / jnp.where(is_on, row.alpha, 1.0), 0.0) * gradient

    return transform
