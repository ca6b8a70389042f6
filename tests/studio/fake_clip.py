"""A mock of sampling for server tests; the real code still checks inputs and writes files."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from smcd_jax.pipeline.clip import Clip
from smcd_jax.runtime.progress import Progress


class FakeClip:
    """A mock of `make_clip` that produces black frames, step by step while its gate is open.

    Attributes:
        gate: Event that must be set for a step to run.
        steps: Number of steps.
        pause: Duration of a step in seconds.
        prompts: Prompts of the clips made so far.
    """

    def __init__(self, *, steps: int = 2, pause: float = 0.0):
        self.gate = threading.Event()
        self.gate.set()
        self.steps, self.pause = steps, pause
        self.prompts: list[str] = []

    def __call__(self, pipeline: Any, clip: Clip, *, progress: Progress) -> Mapping[str, float]:
        """See `smcd_jax.pipeline.clip_run.make_clip`."""
        with progress.stage("denoise", self.steps, "step") as advance:
            for _ in range(self.steps):
                self.gate.wait(60)
                time.sleep(self.pause)
                advance()
        frames = np.zeros((clip.files.count, clip.options.num_frames, 32, 32, 3), np.uint8)
        descriptions = [{**clip.description, "seed": clip.options.seed + index} for index in range(len(frames))]
        with progress.stage("write"):
            clip.files.write(frames, clip.tracks, descriptions, fps=clip.fps)
        self.prompts.append(clip.description["prompt"])
        return {}
