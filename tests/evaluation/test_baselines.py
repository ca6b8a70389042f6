"""Baseline videos: the still first frame, and object crops that move along the boxes."""

from __future__ import annotations

import numpy as np

from smcd_jax.evaluation.metrics.baselines import slid_crop, still_first_frame
from smcd_jax.media.cut_and_move import move_boxes
from tests.errors import refused

GREY, RED, BLUE = 120, (250, 0, 0), (0, 0, 250)


def _picture() -> np.ndarray:
    """Returns a grey 32 x 32 picture with a red box at columns 4..12 and a blue one at 20..28, both at rows 8..16."""
    picture = np.full((32, 32, 3), GREY, np.uint8)
    picture[8:16, 4:12] = RED
    picture[8:16, 20:28] = BLUE
    return picture


def _boxes(*pixels) -> np.ndarray:
    """Returns the boxes of one object, [f, 1, 4] in 0..1, from pixels."""
    return np.array(pixels, np.float32)[:, None] / 32


def _red(frame: np.ndarray) -> np.ndarray:
    return (frame[..., 0] > 200) & (frame[..., 1] < 60)


def test_still_video_repeats_the_first_frame():
    video = still_first_frame(_picture(), 5)
    assert video.shape == (5, 32, 32, 3)
    assert (video == _picture()).all()
    with refused("frames", value=0):
        still_first_frame(_picture(), 0)


class TestSlidCrop:
    """`tests/media/test_cut_and_move.py` tests how crops are moved, and how their places are filled."""

    def test_the_video_is_that_of_the_preview(self):
        boxes = _boxes([4, 8, 12, 16], [0, 0, 16, 16], [16, 20, 20, 28])
        video = slid_crop(_picture(), boxes, np.ones((3, 1)))
        np.testing.assert_array_equal(video, move_boxes(_picture(), boxes, np.ones((3, 1))))
        assert (video[0] == _picture()).all()
        assert (video[1, 2:14, 2:14] == RED).all()
        assert not (_red(video[2])[8:16, 4:12]).any()
        assert _red(video[2])[20:28, 16:20].all()

    def test_an_object_that_is_absent_from_the_first_frame_never_appears(self):
        boxes = np.concatenate([_boxes([4, 8, 12, 16], [16, 20, 24, 28]), _boxes([0, 0, 8, 8], [0, 20, 8, 28])], axis=1)
        video = slid_crop(_picture(), boxes, np.array([[1, 0], [1, 1]]))
        np.testing.assert_array_equal(video, slid_crop(_picture(), boxes[:, :1], np.ones((2, 1))))
        absent = slid_crop(_picture(), boxes, np.array([[0, 0], [1, 1]]))
        assert (absent == _picture()).all()

    def test_an_absent_object_is_not_drawn(self):
        boxes = _boxes([4, 8, 12, 16], [16, 20, 24, 28])
        assert not _red(slid_crop(_picture(), boxes, np.array([[1], [0]]))[1]).any()

    def test_inconsistent_shapes_are_refused(self):
        with refused("boxes", value=(2, 1, 4)):
            slid_crop(_picture(), np.zeros((2, 1, 4)), np.ones((3, 1)))
        with refused("first_frame"):
            slid_crop(_picture() / 255, np.zeros((2, 1, 4)), np.ones((2, 1)))
