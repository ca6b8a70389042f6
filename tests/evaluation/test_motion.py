"""Motion inside and outside the boxes: zero for a still video, otherwise proportional to the movement."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from smcd_jax.evaluation.metrics.motion import motion_magnitude
from tests.errors import refused

pytest.importorskip("cv2")

FRAMES = 4


def _texture(seed: int, side: int) -> np.ndarray:
    grid = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC))


def _clip(step: int, *, scale: int = 1, pan: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns a 64 x 64 video and the boxes of a textured 24 x 24 square.

    The square moves right by `step` pixels per frame, and the background moves left by `pan`.
    """
    behind, square = _texture(0, 128 * scale), _texture(1, 24 * scale)
    video = np.stack([behind[: 64 * scale, pan * scale * f : (64 + pan * f) * scale] for f in range(FRAMES)])
    boxes = np.zeros((FRAMES, 1, 4), np.float32)
    for frame in range(FRAMES):
        x = 10 + step * frame
        video[frame, 20 * scale : 44 * scale, x * scale : (x + 24) * scale] = square
        boxes[frame, 0] = np.array([x, 20, x + 24, 44]) / 64
    return video, boxes


def test_a_still_video_has_no_motion():
    video, boxes = _clip(0)
    assert motion_magnitude(video, boxes, np.ones((FRAMES, 1))) == pytest.approx(
        (0, 0), abs=1e-3
    )  # in the tests below, it is at least 0.03


@pytest.mark.parametrize("step", [2, 4])
def test_a_moving_object_moves_inside_its_boxes_only(step):
    video, boxes = _clip(step)
    motion = motion_magnitude(video, boxes, np.ones((FRAMES, 1)))
    assert motion.inside == pytest.approx(step / 64, rel=0.2)  # optical flow is smooth, so a little lower at the edges
    assert motion.outside < 0.25 * motion.inside


def test_uncovered_background_does_not_count_as_outside():
    video, boxes = _clip(6)
    # it would be 0.25 if pixels that the object is about to cover were counted
    assert motion_magnitude(video, boxes, np.ones((FRAMES, 1))).outside * 64 < 0.2


def test_a_moving_camera_moves_outside():
    video, boxes = _clip(0, pan=3)
    motion = motion_magnitude(video, boxes, np.ones((FRAMES, 1)))
    assert motion.outside == pytest.approx(3 / 64, rel=0.25)
    assert motion.inside < 0.5 * motion.outside


def test_the_value_does_not_depend_on_the_resolution():
    values = [motion_magnitude(*_clip(3, scale=scale), np.ones((FRAMES, 1))).inside for scale in (1, 3)]
    assert values[1] == pytest.approx(values[0], rel=0.1)


def test_the_unit_is_the_shorter_side():
    video, boxes = _clip(3)
    square = motion_magnitude(video, boxes, np.ones((FRAMES, 1)))
    border = np.broadcast_to(_texture(2, 64), video.shape)
    wide = motion_magnitude(np.concatenate([video, border], axis=2), boxes * [0.5, 1, 0.5, 1], np.ones((FRAMES, 1)))
    assert wide.inside == pytest.approx(square.inside, rel=0.1)


def test_without_a_box_all_pixels_are_outside_and_under_a_full_box_all_are_inside():
    video, boxes = _clip(3)
    bare = motion_magnitude(video, boxes, np.zeros((FRAMES, 1)))
    assert math.isnan(bare.inside)
    assert bare.outside > 0
    covered = motion_magnitude(video, np.broadcast_to([0.0, 0, 1, 1], boxes.shape), np.ones((FRAMES, 1)))
    assert math.isnan(covered.outside)
    assert covered.inside == pytest.approx(bare.outside)


def test_measuring_again_gives_the_same_result():
    video, boxes = _clip(3, pan=1)
    assert len({motion_magnitude(video, boxes, np.ones((FRAMES, 1))) for _ in range(2)}) == 1


def test_a_single_frame_is_refused():
    video, boxes = _clip(3)
    with refused("frames", value=1):
        motion_magnitude(video[:1], boxes[:1], np.ones((1, 1)))
    with refused("boxes", value=(3, 1, 4)):
        motion_magnitude(video, boxes[:3], np.ones((3, 1)))
