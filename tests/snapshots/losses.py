"""Training steps on fixed data and noise from NumPy: the loss and gradient norm of every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from tests.snapshots import adapters

STEPS = 20
BATCHES = 4  # number of different batches, used in turn
QUICKLY = {"xla_backend_optimization_level": 0}  # halves the compile time
OBJECTS = 4
TEXTS = ("a red ball moving to the right", "a blue square that grows", "a green triangle leaving the picture", "a dog")
LABELS = ("red ball", "blue square", "green triangle", "dog")

Batch = Mapping[str, np.ndarray]


def cases() -> dict[str, Callable[[], tuple[adapters.Problem, list[Batch]]]]:
    """Returns functions that build a problem and its batches, by name."""
    return {
        "scene": lambda: (
            adapters.denoising_problem("configs/tiny/stage2_scene.py"),
            [denoising_batch(seed, frames=2) for seed in range(BATCHES)],
        ),
        "base": lambda: (
            adapters.denoising_problem("configs/tiny/base.py:pictures"),
            [denoising_batch(seed, frames=1) for seed in range(BATCHES)],
        ),
        "autoencoder": lambda: (
            adapters.autoencoder_problem("configs/tiny/autoencoder.py"),
            [autoencoder_batch(seed) for seed in range(BATCHES)],
        ),
    }


def run(name: str) -> dict[str, list[float]]:
    """Returns the loss and gradient norm of every step, and the loss of each example in the first step."""
    problem, batches = cases()[name]()

    def mean_loss(trained: Any, frozen: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        losses = problem.losses(trained, frozen, batch)
        return losses.mean(), losses

    def update(gradient: np.ndarray, state: Any, vector: jax.Array) -> tuple[jax.Array, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax raises float decays to integer powers
            updates, state = problem.optimizer.update(gradient, state, vector)
        return optax.apply_updates(vector, updates), state

    gradients = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))
    gradients = gradients.lower(problem.trained, problem.frozen, batches[0]).compile(compiler_options=QUICKLY)
    # The optimizer gets all parameters as one vector, which compiles faster; apart from the norm, it works elementwise.
    leaves, tree = jax.tree.flatten(problem.trained)
    ends, shapes = np.cumsum([leaf.size for leaf in leaves])[:-1], [leaf.shape for leaf in leaves]
    vector, update = _as_vector(leaves), jax.jit(update)
    state, trained = jax.jit(problem.optimizer.init)(vector), problem.trained
    found: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    for index in range(STEPS):
        (loss, losses), gradient = gradients(trained, problem.frozen, batches[index % BATCHES])
        found.setdefault("examples", np.asarray(losses).tolist())
        gradient = _as_vector(jax.tree.leaves(gradient))
        found["loss"].append(float(loss))
        found["gradient_norm"].append(float(np.linalg.norm(gradient)))
        vector, state = update(gradient, state, vector)
        parts = np.split(np.asarray(vector), ends)
        trained = jax.tree.unflatten(tree, [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])
    return found


def _as_vector(leaves: list[jax.Array]) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in leaves])


def denoising_batch(seed: int, *, frames: int, count: int = 4) -> Batch:
    """Returns a batch for `adapters.denoising_problem`; each condition is missing from one of the examples."""
    rng = np.random.default_rng(seed)
    latents = smooth_latents(rng, (count, frames, 8, 8, 4))
    corner, size = rng.uniform(0, 0.5, (2, count, 1, OBJECTS, 2))
    motion = rng.uniform(-0.1, 0.1, (count, 1, OBJECTS, 2)) * np.arange(frames).reshape(1, -1, 1, 1)
    low = np.clip(corner + motion, 0, 0.8)
    boxes = np.concatenate([low, np.minimum(low + 0.1 + size, 1)], axis=-1)
    mask = (rng.uniform(size=(count, frames, OBJECTS)) < 0.6).astype(np.float32)
    ids = adapters.token_ids([*TEXTS, *LABELS, " "])
    dropped = rng.permutation(count)
    keep = {}
    for name, row in zip(("text", "boxes", "image_latent", "image_tokens"), dropped, strict=True):
        keep[f"keep_{name}"] = (np.arange(count) != row).astype(np.float32)
    return {
        "latents": latents,
        "noise": rng.standard_normal(latents.shape).astype(np.float32),
        "timesteps": rng.integers(0, 1000, count).astype(np.int32),
        "boxes": boxes.astype(np.float32),
        "mask": mask,
        "token_ids": ids[rng.permutation(len(TEXTS))[:count]],
        "label_ids": ids[len(TEXTS) + rng.integers(0, len(LABELS), (count, OBJECTS))],
        "null_ids": ids[-1:].repeat(count, axis=0),
        **keep,
    }


def smooth_latents(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 waves ``[b, f, h, w, c]`` of unit variance that drift from frame to frame."""
    count, frames, height, width, channels = shape
    frame, row, column = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    waves = np.zeros(shape)
    for _ in range(4):
        rate = rng.uniform(-1, 1, (3, count, channels, 1, 1, 1)) * np.array([0.3, 1, 1]).reshape(3, 1, 1, 1, 1, 1)
        phase = rng.uniform(0, 2 * np.pi, (count, channels, 1, 1, 1))
        wave = np.cos(rate[0] * frame + rate[1] * row + rate[2] * column + phase)
        waves += np.moveaxis(wave, 1, -1) / np.sqrt(2)
    return waves.astype(np.float32)


def autoencoder_batch(seed: int, *, count: int = 4) -> Batch:
    """Returns a batch for `adapters.autoencoder_problem`: rectangles on gradients, and the posterior's noise."""
    rng = np.random.default_rng(seed)
    across, colors = np.linspace(0, 1, 32), rng.uniform(0, 255, (count, 3, 3))
    video = np.empty((count, 1, 32, 32, 3), np.uint8)
    for picture, (start, end, fill) in zip(video[:, 0], colors, strict=True):
        picture[:] = (start + (end - start) * across[:, None])[:, None]
        top, left = rng.integers(0, 20, 2)
        picture[top : top + 12, left : left + 9] = fill
    return {"video": video, "noise": rng.standard_normal((count, 16, 16, 4)).astype(np.float32)}
