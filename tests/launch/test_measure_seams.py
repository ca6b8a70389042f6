"""A jump between two windows raises the ratio of frame differences; one inside a window lowers it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launch.measure_seams import seam_figures

ROOT = Path(__file__).resolve().parents[2]


def _video(*, jump: int | None = None) -> np.ndarray:
    levels = 2 * np.arange(16)
    if jump is not None:
        levels[jump:] += 40
    return np.broadcast_to(levels[:, None, None, None], (16, 4, 4, 3)).astype(np.uint8)


# Windows of 8 frames start at 0, 4 and 8: borders are the steps to the frames 4, 8 and 12, and 11 other steps count.
@pytest.mark.parametrize(("jump", "expected"), [(None, 1.0), (8, (2 + 40 / 3) / 2), (7, 2 / (2 + 40 / 11)), (1, 1.0)])
def test_the_ratio_compares_borders_with_the_rest(jump, expected):
    assert seam_figures([_video(jump=jump)], window=8, overlap=4)["ratio"] == pytest.approx(expected)


def test_the_command_reads_folders_of_frames(tmp_path):
    (tmp_path / "clips" / "one").mkdir(parents=True)
    for index, frame in enumerate(_video()):
        Image.fromarray(frame).save(tmp_path / "clips" / "one" / f"{index:04d}.png")
    command = [sys.executable, "launch/measure_seams.py", tmp_path / "clips", "--window", "8", "--window_overlap", "4"]
    subprocess.run([*command, "--output", tmp_path / "seams.json"], cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT)})
    assert json.loads((tmp_path / "seams.json").read_text()) == {
        "clips": 1,
        "at_borders": 2.0,
        "elsewhere": 2.0,
        "ratio": 1.0,
    }
