"""Six requests to the shipped model, each sampled in a few steps, that cover every sampler and kind of guidance.

They need only two programs for the denoising loop, because a program depends only on the batch size, the number of
frames, the number of guidance branches and rescaling; steps, samplers and scales are inputs of the program.
"""

from __future__ import annotations

from typing import Any

import numpy as np

PROMPT = "a red ball moving to the right"
CASES = ("ddim", "ddim_eta", "euler", "dpmsolver", "unipc_batch", "ddim_two_videos")


def request(name: str) -> dict[str, Any]:
    """Returns the arguments of a request for `sample` from `tests.snapshots.adapters.open_pipeline`."""
    decode = {"decode_chunk_size": 4}  # one decoder program for all; five frames fill a chunk and part of another
    one = {**decode, "image": _picture(48, 64), "prompt": PROMPT, "num_frames": 4, **_tracks([("red ball",)], frames=4)}
    scales = {"guidance_scale": 5.0, "image_guidance_scale": 1.5, "box_guidance_scale": 2.5, "guidance_rescale": 0.7}
    two = {**decode, "num_frames": 5, **scales}
    return {
        "ddim": {**one, "num_inference_steps": 6, "guidance_scale": 7.5, "seed": 7},
        "ddim_eta": {
            **one,
            **{"num_inference_steps": 5, "guidance_scale": 3.0, "seed": 21, "eta": 0.8},
            "timestep_spacing": "trailing",
        },
        "euler": {
            **one,
            **{"num_inference_steps": 5, "guidance_scale": 4.0, "scheduler": "euler", "seed": 2},
            "negative_prompt": "a blue square",
            "second_latents": _latents(0, (1, 4, 8, 8, 4)),
        },
        "dpmsolver": {
            **one,
            **{"num_inference_steps": 6, "guidance_scale": 2.0, "scheduler": "dpmsolver++", "seed": 2**32 - 1},
        },
        "unipc_batch": {
            **two,
            **_tracks([("red ball", "blue square"), ("green triangle", "dog")], frames=5),
            **{"num_inference_steps": 5, "scheduler": "unipc", "seed": [3, 12]},
            "image": [_picture(32, 32), _picture(40, 40)],
            "prompt": [PROMPT, "a green triangle and a dog"],
            "negative_prompt": ["a yellow circle", "noise"],
        },
        "ddim_two_videos": {
            **two,
            **_tracks([("red ball", "red ball")], frames=3),  # resampled to 5 frames
            **{"num_inference_steps": 4, "num_videos_per_prompt": 2, "seed": 5, "box_guidance_scale": 0.5},
            "image": _picture(32, 32),
            "prompt": PROMPT,
            "second_latents": _latents(1, (2, 5, 8, 8, 4)),
        },
    }[name]


def _picture(height: int, width: int) -> np.ndarray:
    """Returns a uint8 picture of a ball on a gradient."""
    rows, columns = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    picture = np.stack([80 + 60 * rows, 120 + 40 * columns, 160 - 60 * rows * columns], axis=-1)
    picture[(rows - 0.4) ** 2 + (columns - 0.25) ** 2 < 0.15**2] = (220, 40, 30)
    return picture.astype(np.uint8)


def _tracks(labels: list[tuple[str, ...]], *, frames: int) -> dict[str, Any]:
    """Returns objects that move in straight lines; in each example, the first and last frame lack the second object."""
    time = np.linspace(0, 1, frames)[:, None]
    boxes, masks = [], []
    for example, names in enumerate(labels):
        paths, present = [], np.ones((frames, len(names)))
        for index in range(len(names)):
            left, top = 0.1 + 0.5 * time, 0.25 + 0.3 * index + (0.1 * example + 0.1 * index) * time
            paths.append(np.concatenate([left, top, left + 0.3, top + 0.3 - 0.05 * index], axis=-1))
            if index:
                present[[0, -1], index] = 0
        boxes.append(np.stack(paths, axis=1).clip(0, 1))
        masks.append(present)
    return {"boxes": np.stack(boxes), "mask": np.stack(masks), "labels": labels}


def _latents(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
