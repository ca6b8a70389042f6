"""Guidance of motion by energies of its fields: a seamless loop, and box tracks.

The loop is LVMM's motion self-guidance: position and velocity of the last frame agree with those of the first, as in
Generative Image Dynamics (arXiv 2309.07906). A box track also describes motion: each box shows the content of the first
box. The energies are summed, so both can be combined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from smcd_jax.diffusion.energy import energy_guidance
from smcd_jax.motion import Motion
from smcd_jax.nn.warp import corner_grid

_LARGEST_LATENT = 4.0  # limit of decoded latents, in standard deviations


def loop_energy(fields: Float[Array, "b f h w c"]) -> Float[Array, " b"]:
    """Returns the differences of position and of velocity between the last and the first frame."""
    position = fields[:, -1] - fields[:, 0]
    velocity = (fields[:, -1] - fields[:, -2]) - (fields[:, 1] - fields[:, 0])
    return jnp.abs(position).mean(axis=(1, 2, 3)) + jnp.abs(velocity).mean(axis=(1, 2, 3))


def box_energy(
    displacement: Float[Array, "b f h w 2"], boxes: Float[Array, "b g n 4"], mask: Float[Array, "b g n"]
) -> Float[Array, " b"]:
    """Returns how far the fields inside the boxes are from moving the first box onto each later box.

    Args:
        displacement: Displacement of frames 1 to f, in units in which the picture spans -1..1.
        boxes: Boxes of frames 0 to f, xyxy in 0..1.
        mask: 1 where an object is present.
    """
    corners = (2 * boxes - 1).reshape(*boxes.shape[:3], 2, 2)
    center, size = corners.mean(axis=-2), corners[..., 1, :] - corners[..., 0, :]
    first = {"center": center[:, :1], "size": size[:, :1]}
    grid = corner_grid(*displacement.shape[2:4])

    def at(x: Array) -> Array:
        return x[:, :, :, None, None]  # [b f n 1 1 2]

    offset = grid - at(center[:, 1:])
    ratio = first["size"] / jnp.maximum(size[:, 1:], 1e-3)
    wanted = at(ratio) * offset + at(jnp.broadcast_to(first["center"], center[:, 1:].shape)) - grid
    seen = (mask[:, 1:] * mask[:, :1]).astype(displacement.dtype)
    covered = jnp.all(jnp.abs(offset) <= at(size[:, 1:]) / 2, axis=-1).astype(displacement.dtype)
    inside = covered * seen[..., None, None]
    error = jnp.abs(displacement[:, :, None] - wanted).sum(axis=-1) * inside
    return error.sum(axis=(1, 2, 3, 4)) / jnp.maximum(inside.sum(axis=(1, 2, 3, 4)), 1)


@dataclasses.dataclass(frozen=True)
class MotionGuidance:
    """Guidance of the sampled motion, the result of `VideoModel.x0_transform`.

    Attributes:
        decode: Function from parameters, latents and inputs to a `Motion`.
        unit: Displacement by which fields are divided in the energies.
        loop: Whether the motion is guided to a seamless loop.
        boxes: Weight of the box energy relative to the loop energy, for requests with tracks.
        weight: Root mean square of the guidance as a multiple of the noise level.
        through_network: Whether the gradient passes through the network.
    """

    decode: Callable[..., Motion]
    unit: float
    loop: bool
    boxes: float
    weight: float
    through_network: bool

    def __call__(self, x: Array, estimate_x0: Any, row: Any, *, params: Any, context: Any) -> Float[Array, "b f h w c"]:
        """Returns the clean latents after a step toward lower energy."""
        count, boxes = len(x), self.boxes if context.boxes is not None else 0.0
        if not (self.loop or boxes):
            return estimate_x0(x)

        def energy(latents: Float[Array, "b f h w c"]) -> Float[Array, " b"]:
            motion = self.decode(params, jnp.clip(latents, -_LARGEST_LATENT, _LARGEST_LATENT), None)
            total, displacement = jnp.zeros(count), motion.displacement / self.unit
            if self.loop:
                weight = 2 * motion.confidence[..., None] - 1
                total = total + loop_energy(jnp.concatenate([displacement, weight], axis=-1))
            if boxes:
                apart = box_energy(motion.displacement, context.boxes[:count], context.mask[:count])
                total = total + boxes * apart / self.unit
            return total

        return energy_guidance(energy, scale=self.weight, through_network=self.through_network)(x, estimate_x0, row)
