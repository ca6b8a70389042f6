"""Measures loops and interpolations of a DynamiCrafter interpolation model on held-out clips of records.

    python launch/measure_ends.py MODEL RECORDS --output ends.json

Loops start from clips whose object moves and returns, so that their captions describe a motion that a loop can show.
The last-to-first step of a loop is compared with the mean of its other steps, both as mean absolute differences of
pixels in 0..255. An interpolation gets the first and last frame of a clip, and PSNR compares its ends with them. An
interpolation from the first frame to itself shows what a loop hides, its last frame.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.examples import ExampleSize
from data_pipeline.records.reader import RecordFolder
from data_pipeline.sources import VideoSource
from smcd_jax.files import write_json
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.tokenizer import Tokenizer


def main() -> None:
    """Prints the measurements, and writes them to --output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("records", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=64, help="number of clips of the split")
    parser.add_argument("--num_inference_steps", type=int, default=10)
    parser.add_argument("--guidance_scale", type=float, default=1.0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    pipeline = VideoPipeline.from_pretrained(args.model)
    clips, captions = held_out(pipeline.config, args.records, args.split, args.count)
    options = {
        "num_inference_steps": args.num_inference_steps,
        "guidance_scale": args.guidance_scale,
        "output_type": "uint8",
    }
    between = pipeline(
        list(clips[:, 0]), captions, end_image=list(clips[:, -1]), seed=list(range(len(clips))), **options
    ).frames
    figures = {"clips": len(clips), **between_figures(between, clips)}
    chosen = returning(clips)
    pictures, captions = list(clips[chosen, 0]), [captions[index] for index in chosen]
    options["seed"] = chosen
    loops = pipeline(pictures, captions, loop=True, **options).frames
    closed = pipeline(pictures, captions, end_image=pictures, **options).frames
    figures |= {
        "loops": len(chosen),
        **{f"real_{name}": value for name, value in loop_figures(clips[chosen, :-1]).items()},
        **loop_figures(loops),
        **return_figures(closed),
    }
    print(json.dumps(figures, indent=1))
    if args.output:
        write_json(args.output, figures)


def held_out(config: Any, records: Path, split: str, count: int) -> tuple[np.ndarray, list[str]]:
    """Returns the first ``count`` clips of a split, uint8 [n, f, h, w, 3], and their captions."""
    folder = RecordFolder(records, split)
    size = ExampleSize(frames=config.frames, height=config.height, width=config.width, objects=config.max_objects)
    source = VideoSource(folder, size, tokenizer=Tokenizer.published(), token_length=config.text_length)
    clips, captions = [], []
    for index in range(count):
        row = {name: np.zeros(spec.shape, spec.dtype) for name, spec in source.specs().items()}
        source.fill(row, clip=index, start=0, key=np.uint64(index))
        clips.append(row["video"])
        captions.append(folder.annotations(index)["caption"].decode())
    folder.close()
    return np.stack(clips), captions


def returning(clips: np.ndarray) -> list[int]:
    """Returns the indices of clips that move and end where they begin.

    Args:
        clips: Clips, uint8 [n, f, h, w, 3].

    Raises:
        SystemExit: No clip does.
    """
    clips = clips.astype(np.float64)
    steps = np.abs(np.diff(clips, axis=1)).mean(axis=(1, 2, 3, 4))
    ends = np.abs(clips[:, -1] - clips[:, 0]).mean(axis=(1, 2, 3))
    indices = np.flatnonzero(ends < 0.1 * steps).tolist()
    if not indices:
        raise SystemExit("no clip ends where it begins; prepare sprites with swing among their motions")
    return indices


def loop_figures(loops: np.ndarray) -> dict[str, float]:
    """Returns the last-to-first step, the mean step, and the number of loops in which the former is not larger.

    Args:
        loops: Loops, uint8 [n, f, h, w, 3].
    """
    loops = loops.astype(np.float64)
    steps = np.abs(np.diff(loops, axis=1)).mean(axis=(1, 2, 3, 4))
    closing = np.abs(loops[:, -1] - loops[:, 0]).mean(axis=(1, 2, 3))
    return {
        "loop_last_to_first": float(closing.mean()),
        "loop_mean_step": float(steps.mean()),
        "loops_closed": int((closing <= steps).sum()),
    }


def return_figures(videos: np.ndarray) -> dict[str, Any]:
    """Returns every step of interpolations from a picture to itself, and the difference of their ends.

    Args:
        videos: Interpolations, uint8 [n, f, h, w, 3].
    """
    videos = videos.astype(np.float64)
    steps = np.abs(np.diff(videos, axis=1)).mean(axis=(0, 2, 3, 4))
    return {
        "return_steps": [round(float(step), 2) for step in steps],
        "return_last_to_first": float(np.abs(videos[:, -1] - videos[:, 0]).mean()),
    }


def between_figures(videos: np.ndarray, clips: np.ndarray) -> dict[str, float]:
    """Returns the PSNR in dB of first and last frames against the given pictures, and between the two pictures.

    Args:
        videos: Interpolations, uint8 [n, f, h, w, 3].
        clips: Real clips whose ends are the pictures, uint8 [n, f, h, w, 3].
    """
    return {
        "psnr_last_to_second_picture": psnr(videos[:, -1], clips[:, -1]),
        "psnr_first_to_first_picture": psnr(videos[:, 0], clips[:, 0]),
        "psnr_first_picture_to_second": psnr(clips[:, 0], clips[:, -1]),
    }


def psnr(pictures: np.ndarray, others: np.ndarray) -> float:
    """Returns the PSNR in dB of the mean squared error over all pictures, uint8."""
    return float(10 * np.log10(255**2 / np.mean((pictures.astype(np.float64) - others) ** 2)))


if __name__ == "__main__":
    main()
