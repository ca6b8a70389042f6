"""The shipped motion model on held-out scenes: the size of its motion, loops and boxes; its committed figures."""

import json

import numpy as np
import pytest

from data_pipeline.winds import WindConfig, WindWorld
from smcd_jax.model_folder import ModelFolder
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.tracks import BoxTracks
from tests.launch.test_figures import ROOT

FIGURES = json.loads((ROOT / "docs" / "figures" / "lvmm_tiny.json").read_text())
SCENES = 1
STEPS = {"num_inference_steps": 5, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe() -> VideoPipeline:
    return VideoPipeline.from_pretrained("lvmm_tiny")


@pytest.fixture(scope="module")
def scenes():
    world = WindWorld(WindConfig())
    return [(world.render(index, split="test"), world.fields(index, split="test", side=32)) for index in range(SCENES)]


def sampled(pipe, scenes, **options):
    pictures, prompts = [drawn.video[0] for drawn, _ in scenes], [drawn.caption for drawn, _ in scenes]
    return pipe.decoded(pipe(pictures, prompts, seed=list(range(len(scenes))), **STEPS, **options).latents)


def seam(motion) -> float:
    fields = motion.displacement
    return float(np.abs(fields[:, -1] - fields[:, 0]).mean() / np.abs(np.diff(fields, axis=1)).mean())


@pytest.fixture(scope="module")
def free(pipe, scenes):
    return sampled(pipe, scenes)


def test_what_moves_in_the_world_moves(free, scenes):
    length = np.linalg.norm(free.displacement * 31.5, axis=-1).mean(axis=1)  # pixels
    true = np.linalg.norm(np.stack([fields for _, fields in scenes])[:, 1:, ..., :2] * 31.5, axis=-1)
    moving = true.max(axis=1) > 0.5
    assert length[moving].mean() > 3 * length[~moving].mean()
    assert 0.3 < length[moving].mean() / true.mean(axis=1)[moving].mean() < 3


def test_a_loop_closes_and_a_box_moves_its_content(pipe, scenes, free):
    """The box goes towards the middle of the picture, where it fits, and returns, as a loop requires."""
    frames = pipe.config.frames
    path = np.append(0, np.sin(np.pi * np.arange(frames - 1) / (frames - 2)))
    signs = [1 if drawn.boxes[0, 0, ::2].mean() < 0.5 else -1 for drawn, _ in scenes]
    boxes = [
        drawn.boxes[0, 0] + 0.08 * sign * path[:, None] * [1, 0, 1, 0]
        for (drawn, _), sign in zip(scenes, signs, strict=True)
    ]
    tracks = [BoxTracks(one[:, None], np.ones((frames, 1), bool), ("object",)) for one in boxes]
    guided = sampled(pipe, scenes, loop="guided", tracks=tracks)
    assert seam(guided) < 0.3 * seam(free)
    farthest = int(np.argmax(path))
    at = np.linspace(0, 1, 32)
    for motion, box, sign in zip(guided.displacement, boxes, signs, strict=True):
        columns, rows = ((at >= low) & (at <= high) for low, high in box[farthest].reshape(2, 2).T)
        moved = -sign * motion[farthest - 1, rows][:, columns, 0].mean()
        assert moved > 0.5 * 2 * 0.08 * path[farthest]


def test_the_figures_belong_to_the_shipped_weights():
    assert FIGURES["model"] == ModelFolder("lvmm_tiny").digest
    assert FIGURES["seam_guided"] < 0.2 * FIGURES["seam_free"]
