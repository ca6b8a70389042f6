"""Box tracks guide motion, alone and in a loop; Gaussian motion with a known score replaces the network."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smcd_jax.diffusion.samplers import initial_state, make_solver_table
from smcd_jax.diffusion.sampling import initial_noise, on_device, sample
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.models.lvmm.guidance import MotionGuidance
from smcd_jax.motion import Motion

FRAMES, SIDE = 8, 12
UNIT = 0.05  # standard deviation of the displacements
INDEX = np.arange(FRAMES)
COVARIANCE = np.exp(-((INDEX[:, None] - INDEX) ** 2) / 4.5) + 1e-4 * np.eye(FRAMES)
SCHEDULE = NoiseSchedule(kind="cosine")
BOX = np.array([0.25, 0.25, 0.6, 0.6])
FARTHEST = 0.06  # of the width of the picture, thus 0.12 in units of displacement: 2.4 standard deviations


def track(shares) -> np.ndarray:
    """Returns the box moved to the right by shares of FARTHEST, [1, f, 1, 4] for frames 0 to 8."""
    return (BOX + FARTHEST * np.asarray(shares)[:, None] * [1, 0, 1, 0])[None, :, None]


AWAY = track(np.arange(FRAMES + 1) / FRAMES)
# frames 1 and 8 coincide in a loop
AND_BACK = track([0.0, *np.sin(np.pi * np.arange(FRAMES) / (FRAMES - 1))])


def exact_noise(x: jax.Array, t: jax.Array) -> jax.Array:
    """Returns E[eps | x_t] of the Gaussian motion, as one guidance branch."""
    values, vectors = np.linalg.eigh(COVARIANCE)
    a = jnp.asarray(SCHEDULE.alphas_cumprod, jnp.float32)[t.astype(jnp.int32)]
    spread = (a * values + 1 - a)[:, None, None, None]
    along = jnp.einsum("fk,bfyxc->bkyxc", vectors, x, precision="highest") / spread
    return jnp.sqrt(1 - a) * jnp.einsum("fk,bkyxc->bfyxc", vectors, along, precision="highest")[None]


def sampled(boxes: np.ndarray, *, weight: float, loop: bool = False) -> np.ndarray:
    """Returns displacements [f, y, x, 2] of the same noise, guided by the boxes with a weight."""

    def decode(params, latents, inputs):
        return Motion(latents * UNIT, jnp.ones(latents.shape[:-1]))

    guidance = MotionGuidance(decode, UNIT, loop=loop, boxes=weight, weight=1.0, through_network=False)
    context = SimpleNamespace(boxes=jnp.asarray(boxes, jnp.float32), mask=jnp.ones(boxes.shape[:-1]))
    table = make_solver_table(SCHEDULE, sampler="ddim", num_steps=50)
    keys = jax.random.split(jax.random.key(0), 1)
    found = sample(
        exact_noise,
        initial_state(initial_noise(keys, (FRAMES, SIDE, SIDE, 2), num_rows=table.timesteps.size)),
        start=0,
        stop=table.num_steps,
        table=on_device(table),
        weights=jnp.ones(1),
        keys=keys,
        x0_transform=lambda x, estimate, row: guidance(x, estimate, row, params=None, context=context),
    )
    return UNIT * np.asarray(found.latents)[0]


def followed(fields: np.ndarray, boxes: np.ndarray, frame: int) -> float:
    """Returns the motion to the right in the box of a frame, relative to the shift of its track."""
    center = 2 * boxes[0, frame, 0].reshape(2, 2) - 1
    at = np.linspace(-1, 1, SIDE)
    columns, rows = ((at >= low) & (at <= high) for low, high in center.T)
    moved = -fields[frame - 1][rows][:, columns].mean(axis=(0, 1))  # fields point back to the picture
    asked = 2 * (boxes[0, frame, 0, 0] - boxes[0, 0, 0, 0])
    return float(moved[0] / asked)


def seam(fields: np.ndarray) -> float:
    return np.abs(fields[-1] - fields[0]).mean() / np.abs(np.diff(fields, axis=0)).mean()


@pytest.fixture(scope="module")
def free() -> np.ndarray:
    return sampled(AWAY, weight=0.0)


def test_the_motion_in_a_box_follows_its_track(free):
    guided = sampled(AWAY, weight=1.0)
    assert abs(followed(free, AWAY, FRAMES)) < 0.3
    assert all(0.7 < followed(guided, AWAY, frame) < 1.3 for frame in (4, 6, FRAMES))


def test_outside_the_boxes_the_motion_stays_that_of_the_seed(free):
    guided = sampled(AWAY, weight=1.0)
    np.testing.assert_allclose(guided[:, :2], free[:, :2], atol=1e-4 * UNIT)


def test_boxes_and_a_loop_guide_together(free):
    both = sampled(AND_BACK, weight=1.0, loop=True)
    assert seam(both) < 0.2 * seam(free)
    assert all(0.5 < followed(both, AND_BACK, frame) < 1.3 for frame in (4, 5))
