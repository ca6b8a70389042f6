"""Trackers follow moving objects deterministically and refuse objects that they cannot track."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.metrics.grounding import box_iou
from smcd_jax.evaluation.trackers.learned_tracker import VitTracker
from smcd_jax.evaluation.trackers.object_trackers import SHORTER_SIDE, TRACKERS, OpenCVTracker, enlarged, track_objects
from tests.errors import refused
from tests.evaluation.onnx_tracker import write_red_tracker

cv2 = pytest.importorskip("cv2")

FRAMES, SIDE = 4, 64


def _moving_square(*, seed: int = 0, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Returns video and boxes of a patterned 16 x 16 square that moves by 4 pixels right and 2 down per frame."""
    rng = np.random.default_rng(seed)
    pattern = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    video = np.repeat(rng.integers(170, 190, (1, side, side, 3)).astype(np.uint8), FRAMES, axis=0)
    boxes = np.zeros((FRAMES, 4), np.float32)
    for frame in range(FRAMES):
        x, y = 10 + 4 * frame, 12 + 2 * frame
        video[frame, y : y + 16, x : x + 16] = pattern
        boxes[frame] = np.array([x, y, x + 16, y + 16]) / side
    return video, boxes


@pytest.fixture(scope="module", params=TRACKERS)
def tracker(request) -> OpenCVTracker:
    return OpenCVTracker(request.param)


class TestTracking:
    def test_a_tracker_follows_a_square(self, tracker):
        video, boxes = _moving_square()
        found = tracker.track(video, boxes[0])
        np.testing.assert_array_equal(found[0], boxes[0])
        assert found.dtype == np.float32
        # a box that stayed in place would have an IoU of 0.08 with the last box
        assert box_iou(found, boxes).min() > 0.7

    def test_the_box_stays_in_a_still_video(self, tracker):
        video, boxes = _moving_square()
        found = tracker.track(np.repeat(video[:1], FRAMES, axis=0), boxes[0])
        assert box_iou(found, np.repeat(boxes[:1], FRAMES, axis=0)).min() > 0.75

    def test_tracking_again_gives_the_same_boxes(self, tracker):
        video, boxes = _moving_square()
        once = tracker.track(video, boxes[0])
        tracker.track(_moving_square(seed=1)[0], boxes[2])
        cv2.setRNGSeed(7)
        np.testing.assert_array_equal(tracker.track(video, boxes[0]), once)

    def test_opencv_receives_frames_in_bgr_order(self):
        frames = np.zeros((1, 4, 4, 3), np.uint8)
        frames[..., 0] = 255
        np.testing.assert_array_equal(enlarged(cv2, frames, 4)[0, 0, 0], [0, 0, 255])

    def test_tracking_restores_the_settings_of_opencv(self, tracker):
        video, boxes = _moving_square()
        before = cv2.getNumThreads()
        try:
            cv2.setNumThreads(2)
            tracker.track(video, boxes[0])
            assert cv2.getNumThreads() == 2
        finally:
            cv2.setNumThreads(before)

    def test_small_pictures_are_enlarged_by_a_whole_factor_and_large_ones_are_not(self):
        assert enlarged(cv2, np.zeros((1, 64, 96, 3), np.uint8), SHORTER_SIDE).shape == (1, 256, 384, 3)
        assert enlarged(cv2, np.zeros((1, 100, 96, 3), np.uint8), SHORTER_SIDE).shape == (1, 300, 288, 3)
        assert enlarged(cv2, np.zeros((1, 320, 512, 3), np.uint8), SHORTER_SIDE).shape == (1, 320, 512, 3)

    def test_a_box_as_high_as_the_picture_is_tracked(self, tracker):
        video, _ = _moving_square()
        assert np.isfinite(tracker.track(video, np.array([0.1, -0.1, 0.5, 1.1]))).all()


class TestObjects:
    def test_each_object_is_followed_from_its_first_frame(self, tracker):
        video, boxes = _moving_square()
        two = np.stack([boxes, boxes], axis=1)
        mask = np.ones((FRAMES, 2), bool)
        mask[:2, 1] = False
        two[:2, 1] = 0
        found = track_objects(tracker, video, two, mask)
        np.testing.assert_array_equal(found[:, 0], tracker.track(video, boxes[0]))
        assert np.isnan(found[:2, 1]).all()
        np.testing.assert_array_equal(found[2:, 1], tracker.track(video[2:], boxes[2]))

    def test_later_true_boxes_are_not_read(self, tracker):
        video, boxes = _moving_square()
        wrong = boxes[:, None].copy()
        wrong[1:] = [0, 0, 0.1, 0.1]
        found = track_objects(tracker, video, wrong, np.ones((FRAMES, 1), bool))
        np.testing.assert_array_equal(found[:, 0], tracker.track(video, boxes[0]))

    def test_an_object_that_is_never_present_is_never_found(self, tracker):
        video, boxes = _moving_square()
        assert np.isnan(track_objects(tracker, video, boxes[:, None], np.zeros((FRAMES, 1), bool))).all()

    def test_fewer_frames_than_boxes_is_an_error(self, tracker):
        video, boxes = _moving_square()
        with refused("boxes", value=(4, 1, 4)):
            track_objects(tracker, video[:3], boxes[:, None], np.ones((FRAMES, 1), bool))

    def test_any_object_with_the_protocol_is_accepted(self):
        class Still:
            name, version, weights_sha256 = "still", "1", None

            def track(self, frames, first_box):
                return np.repeat(np.asarray(first_box, np.float32)[None], len(frames), axis=0)

        video, boxes = _moving_square()
        found = track_objects(Still(), video, boxes[:, None], np.ones((FRAMES, 1), bool))
        np.testing.assert_array_equal(found[:, 0], np.repeat(boxes[:1], FRAMES, axis=0))


@pytest.fixture(scope="module")
def red_file(tmp_path_factory):
    return write_red_tracker(tmp_path_factory.mktemp("onnx") / "red.onnx")


@pytest.fixture(scope="module")
def red_square():
    """Like `_moving_square`, but the square is red on grey and leaves the picture on the right."""
    video = np.full((12, SIDE, SIDE, 3), 100, np.uint8)
    boxes = np.zeros((12, 4), np.float32)
    for frame in range(12):
        x, y = 10 + 4 * frame, 12 + 2 * frame
        video[frame, y : y + 16, x : x + 16] = [250, 20, 20]
        boxes[frame] = np.array([x, y, min(x + 16, SIDE), y + 16]) / SIDE
    return video, boxes


class TestLearned:
    """A tracker file that follows red objects; its search picture is four times as wide and high as the object."""

    def test_the_tracker_follows_with_the_resolution_of_its_cells(self, red_file, red_square):
        video, boxes = red_square
        found = VitTracker(str(red_file)).track(video, boxes[0])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found[0], boxes[0])
        # an error of half a cell is 1/8 of the square: the IoU is (7/8)^2 / (2 - (7/8)^2)
        assert box_iou(found, boxes)[:10].min() >= 0.62
        assert found.max() <= 1

    def test_the_result_depends_neither_on_the_last_clip_nor_on_the_seed(self, red_file, red_square):
        video, boxes = red_square
        tracker = VitTracker(str(red_file))
        once = tracker.track(video, boxes[0])
        tracker.track(video[::-1], boxes[-1])
        cv2.setRNGSeed(7)
        np.testing.assert_array_equal(tracker.track(video, boxes[0]), once)

    def test_red_is_the_first_channel_of_the_network_input(self, red_file, red_square):
        video, boxes = red_square
        found = VitTracker(str(red_file)).track(video[..., ::-1], boxes[0])
        assert box_iou(found, boxes)[3] == 0

    def test_an_object_without_a_size_is_lost_in_that_frame(self, tmp_path, red_square):
        video, boxes = red_square
        tracker = VitTracker(str(write_red_tracker(tmp_path / "x.onnx", side=0)))
        assert np.isnan(tracker.track(video[:3], boxes[0])[1:]).all()

    def test_two_files_have_two_names(self, red_file, tmp_path):
        other = VitTracker(str(write_red_tracker(tmp_path / "x.onnx", side=0.5)))
        tracker = VitTracker(str(red_file))
        assert tracker.weights_sha256 == hashlib.sha256(red_file.read_bytes()).hexdigest()
        assert tracker.name == f"vit-{tracker.weights_sha256[:8]}@256"
        assert other.name != tracker.name

    def test_a_missing_or_wrong_file_is_refused_in_one_line(self, tmp_path):
        for missing in ("x.onnx", ""):
            with refused("trackers", path=missing):
                VitTracker(missing)
        (tmp_path / "text.onnx").write_text("version https://git-lfs.github.com/spec/v1")
        other = write_red_tracker(tmp_path / "other.onnx", search="picture")
        for path in (tmp_path / "text.onnx", other):
            with refused("trackers", path=path):
                VitTracker(str(path))

    def test_frames_and_boxes_are_checked(self, red_file):
        tracker = VitTracker(str(red_file))
        with refused("frames"):
            tracker.track(np.zeros((2, 64, 64, 3), np.float32), np.array([0.1, 0.1, 0.5, 0.5]))
        with refused("first_box"):
            tracker.track(np.zeros((2, 64, 64, 3), np.uint8), np.array([0.5, 0.5, 0.5, 0.8]))


class TestRefusals:
    def test_a_tracker_has_a_name_and_a_version(self, tracker):
        assert tracker.name in ("csrt@256", "medianflow@256")
        assert tracker.version == f"OpenCV {cv2.__version__}"

    @pytest.mark.parametrize(
        "box", [[0.5, 0.5, 0.5, 0.8], [0.5, 0.5, 0.51, 0.8], [1.2, 0, 1.5, 1], [np.nan, 0, 1, 1], [0.8, 0.1, 0.2, 0.9]]
    )
    def test_a_first_box_without_area_is_refused(self, tracker, box):
        with refused("first_box"):
            tracker.track(_moving_square()[0], np.array(box))

    def test_frames_must_be_uint8_rgb(self, tracker):
        with refused("frames"):
            tracker.track(np.zeros((2, 64, 64, 3), np.float32), np.array([0.1, 0.1, 0.5, 0.5]))

    def test_an_unknown_tracker_is_refused(self):
        with refused("trackers", value="goturn"):
            OpenCVTracker("goturn")

    def test_without_opencv_the_message_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(SMCDError, match=r"pip install 'smcd_jax\[eval\]'"):
            OpenCVTracker("csrt")

    def test_another_build_of_opencv_is_refused_with_the_missing_class(self, monkeypatch):
        monkeypatch.delattr(cv2, "TrackerCSRT_create")
        with refused("cv2", value="TrackerCSRT_create"):
            OpenCVTracker("csrt")

    def test_an_error_of_opencv_is_one_line(self, tracker, monkeypatch):
        def fail(*_):
            raise cv2.error("(-215:Assertion failed)\n in function 'init'")

        class Broken:
            init = fail

        monkeypatch.setattr(tracker, "_create", Broken)
        with refused("trackers", value=tracker.name):
            tracker.track(_moving_square()[0], np.array([0.1, 0.1, 0.5, 0.5]))
