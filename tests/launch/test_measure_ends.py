"""Metrics for loops and interpolations, on videos with known values."""

from __future__ import annotations

import numpy as np
import pytest

from launch.measure_ends import between_figures, loop_figures, psnr


def video_of(levels: list[int]) -> np.ndarray:
    return np.broadcast_to(np.array(levels, np.uint8)[None, :, None, None, None], (1, len(levels), 4, 4, 3))


def test_a_loop_is_closed_if_its_last_step_is_no_larger_than_the_others():
    closed, jumps = loop_figures(video_of([0, 10, 20, 10])), loop_figures(video_of([0, 10, 20, 30]))
    assert (closed["loop_last_to_first"], closed["loop_mean_step"], closed["loops_closed"]) == (10, 10, 1)
    assert (jumps["loop_last_to_first"], jumps["loop_mean_step"], jumps["loops_closed"]) == (30, 10, 0)


def test_psnr_of_both_ends():
    found = between_figures(video_of([1, 50, 110]), video_of([0, 0, 100]))
    assert found["psnr_first_to_first_picture"] == pytest.approx(20 * np.log10(255))
    assert found["psnr_last_to_second_picture"] == pytest.approx(20 * np.log10(25.5))
    assert found["psnr_first_picture_to_second"] == psnr(video_of([0]), video_of([100]))
