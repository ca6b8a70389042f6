"""Random smooth warps for the equivariance losses: regions must move with the picture."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from smcd_jax.nn.warp import corner_grid, grid_sample


class Warp(NamedTuple):
    """One smooth warp of coordinates for each example: an affine map plus a thin plate spline.

    Attributes:
        theta: Affine maps on (x, y, 1).
        weights: Weights of the control points, which lie on a square grid with corners at -1 and 1.
    """

    theta: Float[Array, "b 2 3"]
    weights: Float[Array, "b p"]


def draw_warp(
    key: PRNGKeyArray, count: int, *, sigma_affine: float = 0.05, sigma_spline: float = 0.005, points: int = 5
) -> Warp:
    """Returns one random warp per example.

    Args:
        key: Random key.
        count: Number of examples.
        sigma_affine: Standard deviation of each entry of the affine map around the identity.
        sigma_spline: Standard deviation of the weights of the control points.
        points: Number of control points along one axis.
    """
    affine, spline = jax.random.split(key)
    theta = jnp.eye(2, 3) + sigma_affine * jax.random.normal(affine, (count, 2, 3))
    return Warp(theta, sigma_spline * jax.random.normal(spline, (count, points**2)))


def warp_points(warp: Warp, points: Float[Array, "b *n 2"]) -> Float[Array, "b *n 2"]:
    """Returns warped coordinates.

    The spline adds the same number to x and y. Distances are |dx| + |dy|, as in the official code; a standard thin
    plate spline uses Euclidean distances.
    """
    return jax.vmap(_warped)(warp, points)


def _warped(warp: Warp, at: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    side = math.isqrt(warp.weights.shape[-1])
    controls = corner_grid(side, side, at.dtype).reshape(-1, 2)
    linear = (warp.theta[:, :2] * at[..., None, :]).sum(axis=-1) + warp.theta[:, 2]
    distance = jnp.abs(at[..., None, :] - controls).sum(axis=-1)
    spline = (warp.weights * distance**2 * jnp.log(distance + 1e-6)).sum(axis=-1)
    return linear + spline[..., None]


def warp_jacobian(warp: Warp, points: Float[Array, "b n 2"]) -> Float[Array, "b n 2 2"]:
    """Returns the Jacobian of the warp at each point; rows are output coordinates."""
    of_point = jax.vmap(jax.jacfwd(_warped, argnums=1), in_axes=(None, 0))
    return jax.vmap(of_point)(warp, points)


def warp_frames(warp: Warp, frames: Float[Array, "b h w c"], *, align_corners: bool = True) -> Float[Array, "b h w c"]:
    """Returns pictures sampled at the warped coordinates of their pixels, reflected at the border.

    Args:
        warp: One warp per picture.
        frames: Pictures.
        align_corners: Argument of `smcd_jax.nn.warp.grid_sample`.
    """
    grid = corner_grid(*frames.shape[1:3], warp.theta.dtype)
    at = warp_points(warp, jnp.broadcast_to(grid, (frames.shape[0], *grid.shape)))
    return grid_sample(frames, at, padding="reflection", align_corners=align_corners)
