"""Motion as the lowest frequencies of each pixel over time, the representation that LVMM's published code diffuses.

No model of this package uses it; it is for comparison with that code. A clip rebuilt from these coefficients is
periodic, so it loops exactly, and motion that is not periodic is distorted.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def to_frequencies(motion: Float[Array, "b f h w c"], bins: int) -> Float[Array, "b k h w d"]:
    """Returns the lowest bins of the unnormalised Fourier transform over frames: real parts, then imaginary parts.

    Args:
        motion: Motion fields.
        bins: Number k of bins, from 1 to f // 2 + 1. Bin 0 holds f times the mean over frames.
    """
    lowest = jnp.fft.rfft(motion, axis=1)[:, :bins]
    return jnp.concatenate([lowest.real, lowest.imag], axis=-1)


def from_frequencies(coefficients: Float[Array, "b k h w d"], frames: int) -> Float[Array, "b f h w c"]:
    """Returns the motion with these lowest bins and zeros in all others.

    Args:
        coefficients: Real parts, then imaginary parts, as `to_frequencies` returns them. The imaginary part of bin 0,
            and of bin f / 2 where it is present, has no effect.
        frames: Number of frames f.
    """
    real, imaginary = jnp.split(coefficients, 2, axis=-1)
    return jnp.fft.irfft(jax.lax.complex(real, imaginary), n=frames, axis=1)
