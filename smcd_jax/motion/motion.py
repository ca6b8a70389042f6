"""Motion fields, and operations on them that need no model: slow motion, scaling and loops.

Every field refers to the picture itself, so fields can be interpolated without drift, and one motion can move another
picture. The operations are those of LVMM (CVPR 2024).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import numpy as np
from jaxtyping import Array, Float

Interpolation = Literal["linear", "cubic"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)


@dataclasses.dataclass(frozen=True)
class Motion:
    """The motion of b pictures over f frames; a pytree.

    Attributes:
        displacement: Displacement (x, y) from each point of a frame to its place in the picture, in units in which the
            picture spans -1..1. The grid's corners are the centers of the corner pixels.
        confidence: 1 where the point is visible at that place, 0 where the renderer has to paint it.
        loop: Whether the first frame follows the last one.
    """

    displacement: Float[Array, "b f h w 2"]
    confidence: Float[Array, "b f h w"]
    loop: bool = False

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.displacement.shape[1]

    @property
    def hidden_share(self) -> float:
        """Share of the points of all frames whose confidence is below 0.5, 0..1; the renderer paints these points."""
        return float((np.asarray(self.confidence) < 0.5).mean())

    @property
    def mean_step(self) -> float:
        """Mean absolute change of the displacement from frame to frame."""
        return float(np.abs(np.diff(np.asarray(self.displacement, np.float32), axis=1)).mean())

    @property
    def seam(self) -> float:
        """Mean absolute change from the last frame to the first, as a multiple of `mean_step`."""
        fields = np.asarray(self.displacement, np.float32)
        return float(np.abs(fields[:, -1] - fields[:, 0]).mean()) / max(self.mean_step, 1e-12)

    def from_still(self) -> Motion:
        """Returns the motion with the still picture prepended: zero displacement, and confidence 1."""
        still = np.zeros_like(np.asarray(self.displacement)[:, :1])
        return dataclasses.replace(
            self,
            displacement=np.concatenate([still, self.displacement], axis=1),
            confidence=np.concatenate([np.ones_like(still[..., 0]), self.confidence], axis=1),
        )

    def frames(self, start: int, stop: int) -> Motion:
        """Returns the frames from ``start`` up to but not including ``stop``."""
        return dataclasses.replace(
            self, displacement=self.displacement[:, start:stop], confidence=self.confidence[:, start:stop]
        )

    def closed(self) -> Motion:
        """Returns the motion as a loop, without its last frame, which must coincide with the first."""
        return dataclasses.replace(self.frames(0, self.num_frames - 1), loop=True)

    def back_and_forth(self) -> Motion:
        """Returns a loop that plays the motion forward and then backward: f frames become 2 f - 2."""
        displacement, confidence = (
            np.concatenate([x, x[:, -2:0:-1]], axis=1) for x in (self.displacement, self.confidence)
        )
        return Motion(displacement, confidence, loop=True)

    def scaled(self, strength: float) -> Motion:
        """Returns the motion with its displacements multiplied by ``strength``."""
        displacement = np.asarray(self.displacement, np.float32) * np.float32(strength)
        return dataclasses.replace(self, displacement=displacement)

    def slow(self, factor: int, interpolation: Interpolation = "linear") -> Motion:
        """Returns the motion slowed down: f frames become factor (f - 1) + 1, or factor f in a loop.

        Args:
            factor: Number of steps between two frames, at least 1.
            interpolation: "linear", as in the paper, or "cubic" (Catmull-Rom), whose velocity is continuous.
        """
        count = self.num_frames * factor if self.loop else (self.num_frames - 1) * factor + 1
        times = np.arange(count) / factor
        between = {"linear": _linear, "cubic": _cubic}[interpolation]
        fields = np.concatenate([self.displacement, np.asarray(self.confidence)[..., None]], axis=-1)
        moved = between(fields.astype(np.float32), times, loop=self.loop)
        return dataclasses.replace(self, displacement=moved[..., :2], confidence=np.clip(moved[..., 2], 0, 1))


jax.tree_util.register_dataclass(Motion, data_fields=["displacement", "confidence"], meta_fields=["loop"])


def _linear(fields: Float[np.ndarray, "b f h w c"], times: np.ndarray, *, loop: bool) -> np.ndarray:
    index, part = _split(times)
    return (1 - part) * _at(fields, index, loop=loop) + part * _at(fields, index + 1, loop=loop)


def _cubic(fields: Float[np.ndarray, "b f h w c"], times: np.ndarray, *, loop: bool) -> np.ndarray:
    index, t = _split(times)
    p0, p1, p2, p3 = (_at(fields, index + offset, loop=loop) for offset in (-1, 0, 1, 2))
    return p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))


def _split(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    index = np.floor(times).astype(int)
    return index, (times - index).astype(np.float32).reshape(1, -1, 1, 1, 1)


def _at(fields: np.ndarray, index: np.ndarray, *, loop: bool) -> np.ndarray:
    """Returns frames by index; indices beyond the ends go around a loop, or continue with the step at the end."""
    count = fields.shape[1]
    if loop:
        return fields[:, index % count]
    inside = np.clip(index, 0, count - 1)
    beyond = (index - inside).astype(np.float32).reshape(1, -1, 1, 1, 1)
    if count == 1:
        return fields[:, inside]
    step = np.where(beyond < 0, fields[:, 1:2] - fields[:, :1], fields[:, -1:] - fields[:, -2:-1])
    return fields[:, inside] + beyond * step
