"""2x2 matrices in closed form: principal axes of covariances, inverses, and the sign of an affine map."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

VARIANCE_FLOOR = 1e-10  # smallest principal variance; a heat map with a single nonzero pixel has variance 0
ANISOTROPY_FLOOR = 1e-5  # half difference of the variances below which the gradient of the axes is bounded
_DETERMINANT_FLOOR = 1e-20


@jax.custom_jvp
def _axis_angle(difference: Float[Array, "*k"], covariance: Float[Array, "*k"]) -> Float[Array, "*k"]:
    return jnp.arctan2(covariance, difference) / 2


@_axis_angle.defjvp
def _axis_angle_jvp(values: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    difference, covariance = values
    squared = jnp.maximum(difference**2 + covariance**2, ANISOTROPY_FLOOR**2)
    change = (difference * tangents[1] - covariance * tangents[0]) / (2 * squared)
    return _axis_angle(*values), change


def principal_axes(
    covariance: Float[Array, "*k 2 2"],
) -> tuple[Float[Array, "*k 2 2"], Float[Array, "*k 2"]]:
    """Returns principal axes and variances of symmetric matrices, with the signs of LAPACK's singular vectors.

    The axes are a reflection (determinant -1), except for exactly diagonal matrices, where they are the identity or the
    exchange of both axes. Where the variances are nearly equal, the direction is arbitrary and its gradient is limited
    by `ANISOTROPY_FLOOR`.

    Args:
        covariance: Symmetric positive semidefinite matrices.

    Returns:
        Unit vectors as columns, that of the largest variance first, and the variances in descending order.
    """
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    difference = (a - c) / 2
    squared = difference**2 + b**2
    safe = jnp.where(squared > 0, squared, 1)
    radius = jnp.where(squared > 0, jnp.sqrt(safe), 0)
    variances = jnp.stack([(a + c) / 2 + radius, (a + c) / 2 - radius], axis=-1)
    angle = _axis_angle(difference, b)
    sign = jnp.where((b > 0) & (a * c > a**2 + 2 * b**2), 1, -1).astype(covariance.dtype)
    x, y = sign * jnp.cos(angle), sign * jnp.sin(angle)
    axes = _matrix(x, y, y, -x)
    straight = jnp.eye(2, dtype=covariance.dtype)
    diagonal = jnp.where((a >= c)[..., None, None], straight, straight[::-1])
    return jnp.where((b == 0)[..., None, None], diagonal, axes), variances


def affine_of_covariance(covariance: Float[Array, "*k 2 2"]) -> Float[Array, "*k 2 2"]:
    """Returns the affine map of a region: its principal axes, scaled by the standard deviations along them."""
    axes, variances = principal_axes(covariance)
    return axes * jnp.sqrt(jnp.maximum(variances, VARIANCE_FLOOR))[..., None, :]


def inverse(matrix: Float[Array, "*k 2 2"]) -> Float[Array, "*k 2 2"]:
    """Returns inverses of 2x2 matrices; determinants of magnitude below 1e-20 are replaced by 1e-20."""
    a, b, c, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 0], matrix[..., 1, 1]
    determinant = a * d - b * c
    tiny = jnp.abs(determinant) < _DETERMINANT_FLOOR
    floor = jnp.where(determinant < 0, -_DETERMINANT_FLOOR, _DETERMINANT_FLOOR).astype(matrix.dtype)
    return _matrix(d, -b, -c, a) / jnp.where(tiny, floor, determinant)[..., None, None]


def without_axis_swap(matrix: Float[Array, "*k 2 2"]) -> Float[Array, "*k 2 2"]:
    """Returns each matrix with the sign that makes its first entry positive; a first entry of 0 keeps the sign."""
    sign = jnp.where(matrix[..., :1, :1] < 0, -1, 1).astype(matrix.dtype)
    return matrix * sign


def multiply(left: Float[Array, "*k n m"], right: Float[Array, "*k m p"]) -> Float[Array, "*k n p"]:
    """Returns products of small matrices at full precision, by elementwise operations."""
    return (left[..., :, :, None] * right[..., None, :, :]).sum(axis=-2)


def _matrix(a: Array, b: Array, c: Array, d: Array) -> Float[Array, "*k 2 2"]:
    return jnp.stack([jnp.stack([a, b], axis=-1), jnp.stack([c, d], axis=-1)], axis=-2)
