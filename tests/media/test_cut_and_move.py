"""Layers cut from a picture, their composition along boxes, and the filled holes behind them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from smcd_jax.errors import SMCDError
from smcd_jax.media.cut_and_move import cut_layers, move_boxes, preview_picture
from smcd_jax.media.inpainting import diffuse, fill_holes

HEIGHT, WIDTH = 60, 80
BOX = np.array([20, 15, 36, 35]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]


@pytest.fixture
def picture() -> np.ndarray:
    """Returns smooth noise with a red rectangle at BOX."""
    noise = np.random.default_rng(0).uniform(60, 160, (HEIGHT, WIDTH, 3))
    picture = ndimage.gaussian_filter(noise, (2, 2, 0)).astype(np.uint8)
    picture[15:35, 20:36] = (250, 10, 10)
    return picture


def moved(picture: np.ndarray, *boxes: np.ndarray, mask=None) -> np.ndarray:
    boxes = np.stack(boxes)[:, None]
    return move_boxes(picture, boxes, np.ones(boxes.shape[:2]) if mask is None else np.array(mask)[:, None])


def red(frame: np.ndarray) -> np.ndarray:
    return (frame[..., 0] > 200) & (frame[..., 1] < 60)


class TestMove:
    def test_a_frame_at_the_first_box_equals_the_picture(self, picture):
        frames = moved(picture, BOX, BOX + 0.3, BOX)
        np.testing.assert_array_equal(frames[0], picture)
        np.testing.assert_array_equal(frames[2], picture)

    def test_a_moved_box_shows_the_object_there_and_background_behind(self, picture):
        shift = [24 / WIDTH, 18 / HEIGHT] * 2
        frame = moved(picture, BOX, BOX + shift)[1]
        np.testing.assert_array_equal(frame[33:53, 44:60], picture[15:35, 20:36])
        assert red(frame).sum() == 320
        assert not red(frame[:33]).any()

    def test_a_box_of_twice_the_size_shows_the_object_twice_as_large(self, picture):
        frame = moved(picture, BOX, _box(30, 10, 62, 50))[1]
        assert red(frame).sum() == pytest.approx(4 * 320, rel=0.1)
        assert red(frame)[12:48, 32:60].all()

    def test_positions_between_pixels_are_interpolated(self, picture):
        frame = moved(picture, BOX, _box(40.5, 15, 56.5, 35))[1].astype(int)
        assert frame[25, 41, 0] == 250
        assert frame[25, 56, 0] < 250  # the object covers half of this pixel

    def test_a_box_that_leaves_the_picture_is_cut(self, picture):
        frames = moved(picture, BOX, _box(72, 15, 88, 35), _box(200, 15, 216, 35))
        assert red(frames[1]).sum() == 8 * 20
        assert not red(frames[2]).any()

    def test_absent_objects_are_hidden_and_late_ones_rest_before_they_appear(self, picture):
        frames = moved(picture, np.zeros(4), BOX, BOX + 0.1, mask=[0, 1, 0])
        np.testing.assert_array_equal(frames[0], picture)
        assert not red(frames[2]).any()

    def test_later_objects_lie_on_top(self, picture):
        picture[40:50, 50:60] = (10, 10, 250)
        boxes = np.stack([[BOX, _box(50, 40, 60, 50)], [_box(48, 38, 64, 58), _box(50, 40, 60, 50)]])
        frame = move_boxes(picture, boxes, np.ones((2, 2)))[1]
        assert (frame[40:50, 50:60] == (10, 10, 250)).all()
        assert red(frame)[38, 55]

    @pytest.mark.parametrize("mask", [[0, 0], [1]])
    def test_an_object_that_never_appears_is_refused(self, picture, mask):
        with pytest.raises(SMCDError) as caught:
            move_boxes(picture, np.stack([BOX, BOX])[:, None], np.array(mask)[:, None])
        assert caught.value.argument == "boxes"

    @pytest.mark.parametrize("box", [[0.5, 0.1, 0.5, 0.2], [1.1, 0, 1.2, 1], [np.nan, 0, 1, 1]])
    def test_a_first_box_without_area_in_the_picture_is_refused(self, picture, box):
        with pytest.raises(SMCDError) as caught:
            cut_layers(picture, [box])
        assert caught.value.argument == "boxes"


class TestPreviewSize:
    def test_large_pictures_are_reduced_and_others_kept(self, picture):
        assert preview_picture(np.zeros((1000, 4096, 3), np.uint8)).shape == (250, 1024, 3)
        np.testing.assert_array_equal(preview_picture(picture), picture)


class TestFill:
    def test_only_the_hole_changes(self, picture):
        hole = red(picture)
        filled = fill_holes(picture, hole)
        np.testing.assert_array_equal(filled[~hole], picture[~hole])
        assert not red(filled).any()

    def test_a_repeated_pattern_is_continued(self):
        rows, columns = np.indices((64, 64))
        pattern = np.repeat((128 + 100 * np.sin(columns * np.pi / 4) * np.cos(rows * np.pi / 8))[..., None], 3, axis=2)
        picture = pattern.astype(np.uint8)
        hole = np.zeros((64, 64), bool)
        hole[20:36, 24:44] = True
        broken = np.where(hole[..., None], 0, picture).astype(np.uint8)
        error = np.abs(fill_holes(broken, hole).astype(int) - picture)[hole]
        assert error.mean() < 3  # out of 255; filling with the mean of the surroundings has an error of 40

    def test_a_hole_larger_than_any_source_mirrors_its_surroundings(self, picture):
        hole = np.zeros((HEIGHT, WIDTH), bool)
        hole[:, 10:70] = True
        filled = fill_holes(picture, hole)
        np.testing.assert_array_equal(filled[:, 10:18], picture[:, 8:0:-1])

    def test_a_hole_over_the_whole_picture_is_filled_with_one_colour(self, picture):
        filled = fill_holes(picture, np.ones((HEIGHT, WIDTH), bool))
        assert len(np.unique(filled.reshape(-1, 3), axis=0)) == 1

    def test_diffusion_continues_a_ramp(self):
        ramp = np.broadcast_to(np.arange(48, dtype=np.float32)[None, :, None], (32, 48, 1)).copy()
        hole = np.zeros((32, 48), bool)
        hole[8:24, 12:36] = True
        assert np.abs(diffuse(np.where(hole[..., None], 0, ramp), hole) - ramp).max() < 1.5


def _box(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([x1, y1, x2, y2]) / [WIDTH, HEIGHT, WIDTH, HEIGHT]
