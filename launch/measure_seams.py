"""Measures the seams of long videos: frame differences where a window begins or ends, and elsewhere.

    python launch/measure_seams.py outputs/long_clips/clips --window 8 --window_overlap 4 --output seams.json

The folder holds one folder of PNG frames per clip, as `smcd evaluate --num_frames N` writes it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from smcd_jax.diffusion.windows import make_windows
from smcd_jax.files import write_json
from smcd_jax.media import read_video


def main() -> None:
    """Prints the figures, and writes them to --output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--window_overlap", type=int, required=True)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    figures = measure(args.clips, window=args.window, overlap=args.window_overlap)
    print(json.dumps(figures, indent=1))
    if args.output:
        write_json(args.output, figures)


def measure(clips: Path, *, window: int, overlap: int) -> dict[str, float]:
    """Returns the figures of all videos in a folder, with their number.

    Raises:
        SMCDError: A video cannot be read.
        SystemExit: The folder contains no videos.
    """
    folders = sorted(path for path in clips.iterdir() if path.is_dir())
    if not folders:
        raise SystemExit(f"{clips}: no folders of frames; pass the folder clips of an evaluation")
    videos = (read_video(folder)[0] for folder in folders)
    return {"clips": len(folders), **seam_figures(videos, window=window, overlap=overlap)}


def seam_figures(videos: Iterable[UInt8[np.ndarray, "f h w 3"]], *, window: int, overlap: int) -> dict[str, float]:
    """Returns the mean absolute difference of neighbouring frames at window borders and elsewhere, 0 to 255.

    A border lies before the first frame of a window and after its last one. The step from the first frame to the second
    counts in neither mean, because the first frame is the given picture.

    Args:
        videos: Videos of equal length, longer than a window.
        window: Number of frames per window.
        overlap: Number of frames that neighbouring windows share.
    """
    steps = np.mean(
        [np.abs(np.diff(video.astype(np.float64), axis=0)).mean(axis=(1, 2, 3)) for video in videos], axis=0
    )
    windows = make_windows(len(steps) + 1, window=window, overlap=overlap)
    ends = np.concatenate([windows.frames[:, 0] - 1, windows.frames[:, -1]])
    borders = np.isin(np.arange(len(steps)), ends)
    inner = ~borders
    inner[0] = False
    at_borders, elsewhere = float(steps[borders].mean()), float(steps[inner].mean())
    return {"at_borders": at_borders, "elsewhere": elsewhere, "ratio": at_borders / elsewhere}


if __name__ == "__main__":
    main()
