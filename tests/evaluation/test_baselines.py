"""Baseline videos: the still first frame, and object crops that move along the boxes."""

from __future__ import annotations

import numpy as np

from smcd_jax.evaluation.metrics.baselines import slid_crop, still_first_frame
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


def _where(frame: np.ndarray, color) -> np.ndarray:
    return (np.abs(frame.astype(int) - color).max(axis=-1) <= 2).nonzero()


def _extent(frame: np.ndarray, color) -> tuple[int, int, int, int]:
    rows, columns = _where(frame, color)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_still_video_repeats_the_first_frame():
    video = still_first_frame(_picture(), 5)
    assert video.shape == (5, 32, 32, 3)
    assert (video == _picture()).all()
    with refused("frames", value=0):
        still_first_frame(_picture(), 0)


class TestSlidCrop:
    def test_the_crop_is_resized_to_each_box(self):
        boxes = _boxes([4, 8, 12, 16], [0, 0, 16, 16], [16, 20, 20, 28])
        video = slid_crop(_picture(), boxes, np.ones((3, 1)))
        assert (video[0] == _picture()).all()
        assert _extent(video[1], RED) == (0, 0, 16, 16)
        assert _extent(video[2], RED) == (16, 20, 20, 28)
        assert len(_where(video[2], RED)[0]) == 32

    def test_the_video_shows_the_object_once(self):
        boxes = _boxes([4, 8, 12, 16], [16, 20, 20, 28])
        video = slid_crop(_picture(), boxes, np.ones((2, 1)))
        assert (video[0] == _picture()).all()
        assert _extent(video[1], RED) == (16, 20, 20, 28)
        assert (video[1, 8:16, 4:12] == GREY).all()

    def test_a_vacated_place_at_the_border_is_filled_from_the_other_sides(self):
        picture = np.full((32, 32, 3), GREY, np.uint8)
        picture[:10, :10] = RED
        video = slid_crop(picture, _boxes([0, 0, 10, 10], [20, 20, 30, 30]), np.ones((2, 1)))
        assert (video[1, :10, :10] == GREY).all()

    def test_absent_objects_are_not_drawn(self):
        boxes = _boxes([4, 8, 12, 16], [16, 20, 20, 28])
        assert len(_where(slid_crop(_picture(), boxes, np.array([[1], [0]]))[1], RED)[0]) == 0
        # an object that is absent from the first frame has no crop
        assert (slid_crop(_picture(), boxes, np.array([[0], [1]]))[1] == _picture()).all()

    def test_later_objects_are_on_top(self):
        boxes = np.concatenate(
            [_boxes([4, 8, 12, 16], [0, 20, 8, 28]), _boxes([20, 8, 28, 16], [4, 20, 12, 28])], axis=1
        )
        video = slid_crop(_picture(), boxes, np.ones((2, 2)))
        assert (video[1, 20:28, 0:4] == RED).all()
        assert (video[1, 20:28, 4:12] == BLUE).all()

    def test_boxes_beyond_the_border_are_cut_and_thin_boxes_stay_visible(self):
        boxes = _boxes([4, 8, 12, 16], [28, 20, 40, 28], [31.8, 0, 32, 8], [10.1, 20, 10.2, 28])
        video = slid_crop(_picture(), boxes, np.ones((4, 1)))
        assert _extent(video[1], RED) == (28, 20, 32, 28)
        assert _extent(video[2], RED) == (31, 0, 32, 8)
        assert _extent(video[3], RED) == (10, 20, 11, 28)

    def test_inconsistent_shapes_are_refused(self):
        with refused("boxes", value=(2, 1, 4)):
            slid_crop(_picture(), np.zeros((2, 1, 4)), np.ones((3, 1)))
        with refused("first_frame"):
            slid_crop(_picture() / 255, np.zeros((2, 1, 4)), np.ones((2, 1)))
