"""AO and SR by the GOT-10k rules, on cases computed by hand, and the rank correlation of displacements."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from smcd_jax.evaluation.metrics.grounding import box_iou, clip_overlap, displacement_correlation, grounding_scores
from tests.errors import refused

WHOLE = [0.0, 0.0, 1.0, 1.0]
HALF = [0.0, 0.0, 0.5, 1.0]
NOWHERE = [np.nan] * 4


def _strip(share: float) -> list[float]:
    """Returns a box that covers this fraction of `WHOLE`."""
    return [0.0, 0.0, share, 1.0]


def _clip(shares, *, present=None, **options):
    """Returns the overlap of one object whose true box is the whole picture, found with these IoUs after frame 0."""
    found = np.array([[_strip(1)], *([_strip(share)] for share in shares)])
    mask = np.ones((len(found), 1)) if present is None else np.array(present)[:, None]
    return clip_overlap(found, np.broadcast_to(WHOLE, found.shape), mask, **options)


class TestOverlap:
    @pytest.mark.parametrize(
        ("first", "second", "iou"),
        [
            (WHOLE, WHOLE, 1),
            (HALF, WHOLE, 0.5),
            ([0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], 1 / 3),
            ([0, 0, 0.25, 0.25], [0.5, 0.5, 1, 1], 0),
            ([0, 0, 0.5, 1], [0.5, 0, 1, 1], 0),  # touching
            ([0.3, 0, 0.3, 1], WHOLE, 0),  # without area
            ([0.3, 0, 0.3, 1], [0.3, 0, 0.3, 1], 0),
            ([0.8, 0, 0.2, 1], WHOLE, 0),  # x2 < x1
            (NOWHERE, WHOLE, 0),
        ],
    )
    def test_boxes(self, first, second, iou):
        assert box_iou(np.array(first), np.array(second)) == pytest.approx(iou, abs=1e-12)
        assert box_iou(np.array(second), np.array(first)) == pytest.approx(iou, abs=1e-12)

    def test_parts_outside_the_picture_are_cut_off_both_boxes(self):
        inside, beyond = np.array([0.5, 0.5, 1, 1]), np.array([0.5, 0.5, 2, 3])
        assert box_iou(inside, beyond) == 1
        assert box_iou(beyond, inside) == 1
        assert box_iou(np.array([-3, -2, 0.5, 0.5]), np.array([0, 0, 0.5, 0.5])) == 1
        assert box_iou(np.array([1.5, 0, 2, 1]), np.array([1.5, 0, 2, 1])) == 0

    def test_the_published_toolkit_keeps_the_width_of_a_box_beyond_the_left(self):
        # the toolkit clips x from -0.5 to 0 but keeps the width of 1, which is twice the width of the visible part
        beyond = np.array([-0.5, 0, 0.5, 1])
        assert box_iou(beyond, np.array(HALF)) == 1
        assert box_iou(beyond, np.array(HALF), clipping="toolkit") == 0.5
        assert box_iou(np.array([0.5, 0.5, 2, 3]), np.array([0.5, 0.5, 1, 1]), clipping="toolkit") == 1

    def test_float32_boxes_lose_no_precision(self):
        box = np.array([0.1, 0.2, 0.7, 0.9], np.float32)
        assert box_iou(box, box) == 1

    def test_another_clipping_is_refused(self):
        with refused("clipping", value="got10k"):
            box_iou(np.array(WHOLE), np.array(WHOLE), clipping="got10k")


class TestCountedFrames:
    def test_the_first_frame_does_not_count(self):
        scores = grounding_scores([_clip([0.2, 0.4])])
        assert scores.ao == pytest.approx(0.3)
        assert scores.frames == 2

    def test_frames_without_the_object_do_not_count(self):
        clip = _clip([0.2, 0.9, 0.4], present=[1, 1, 0, 1])
        np.testing.assert_array_equal(np.isnan(clip.ious[:, 0]), [True, False, True, False])
        assert grounding_scores([clip]).ao == pytest.approx(0.3)

    def test_the_first_frame_of_an_object_that_enters_does_not_count(self):
        clip = _clip([0.9, 0.2, 0.4], present=[0, 1, 1, 1])
        assert grounding_scores([clip]).ao == pytest.approx(0.3)

    def test_an_object_that_returns_counts_immediately(self):
        clip = _clip([0.9, 0.9, 0.2], present=[1, 0, 0, 1])
        assert grounding_scores([clip]).ao == pytest.approx(0.2)

    def test_frames_with_cover_0_do_not_count(self):
        clip = _clip([0.2, 0.9, 0.4], cover=np.array([[8], [1], [0], [5]]))
        assert grounding_scores([clip]).ao == pytest.approx(0.3)

    def test_a_frame_in_which_the_object_was_not_found_counts_as_0(self):
        found = np.array([[WHOLE], [WHOLE], [NOWHERE]])
        clip = clip_overlap(found, np.broadcast_to(WHOLE, found.shape), np.ones((3, 1)))
        assert grounding_scores([clip]).ao == 0.5

    def test_boxes_of_absent_objects_are_not_read(self):
        boxes = np.array([[WHOLE], [WHOLE], [NOWHERE]])
        clip = clip_overlap(boxes, boxes, np.array([[1], [1], [0]]))
        assert grounding_scores([clip]).ao == 1

    def test_a_true_box_without_area_is_refused_with_its_place(self):
        boxes = np.broadcast_to(WHOLE, (3, 2, 4)).copy()
        boxes[2, 1] = [1.5, 0, 2, 1]
        with refused("boxes", value=(2, 1)):
            clip_overlap(boxes, boxes, np.ones((3, 2)))

    @pytest.mark.parametrize("wrong", ["found", "mask", "cover", "labels"])
    def test_inconsistent_shapes_are_refused(self, wrong):
        boxes = np.broadcast_to(WHOLE, (3, 2, 4))
        given = {"found": boxes, "mask": np.ones((3, 2)), "cover": np.ones((3, 2)), "labels": ("a", "b")}
        given[wrong] = ("a",) if wrong == "labels" else given[wrong][:2]
        with refused(wrong):
            clip_overlap(given["found"], boxes, given["mask"], labels=given["labels"], cover=given["cover"])


class TestScores:
    def test_success_requires_an_iou_above_the_threshold(self):
        scores = grounding_scores([_clip([0.5, 0.75, 0.5 + 1e-9, 0.75 + 1e-9])])
        assert scores.sr50 == 0.75
        assert scores.sr75 == 0.25

    def test_frames_are_pooled_over_clips_of_different_length(self):
        scores = grounding_scores([_clip([1, 1, 1]), _clip([0])])
        assert scores.ao == scores.sr50 == scores.sr75 == 0.75
        assert (scores.frames, scores.sequences) == (4, 2)

    def test_balanced_scores_are_means_over_classes_of_means_over_sequences(self):
        clips = [
            _clip([1, 1, 1], labels=("cat",)),
            _clip([0.6], labels=("cat",)),
            _clip([0.2, 0.2], labels=("car",)),
        ]
        scores = grounding_scores(clips)
        assert scores.ao == pytest.approx(4 / 6)
        assert scores.mao == pytest.approx(((1 + 0.6) / 2 + 0.2) / 2)
        assert scores.msr50 == pytest.approx((1 + 0) / 2)
        assert scores.msr75 == pytest.approx((0.5 + 0) / 2)
        assert scores.classes == 2

    def test_without_labels_there_are_no_balanced_scores(self):
        scores = grounding_scores([_clip([1])])
        assert scores.mao is scores.msr50 is scores.msr75 is None
        assert scores.classes == 0

    def test_labels_for_some_clips_only_are_refused(self):
        with refused("labels"):
            grounding_scores([_clip([1], labels=("cat",)), _clip([1])])

    def test_overlap_by_the_number_of_objects_in_the_clip_without_padding(self):
        found = np.broadcast_to(WHOLE, (2, 3, 4)).copy()
        found[1, 1] = HALF
        mask = np.array([[1, 1, 0], [1, 1, 0]])
        scores = grounding_scores([_clip([0.2]), clip_overlap(found, np.broadcast_to(WHOLE, found.shape), mask)])
        assert scores.ao_by_objects == {1: pytest.approx(0.2), 2: pytest.approx(0.75)}
        assert (scores.frames, scores.sequences) == (3, 3)

    def test_clips_without_a_counted_frame_are_refused(self):
        with refused("clips", value=0):
            grounding_scores([])
        with refused("clips", value=1):
            grounding_scores([_clip([])])


def _moves(centers, size=0.1):
    """Returns boxes [f, 1, 4] of one object with these centres."""
    centers = np.array(centers, np.float64)
    return np.concatenate([centers - size / 2, centers + size / 2], axis=1)[:, None]


class TestDisplacement:
    rng = np.random.default_rng(0)
    requested = tuple(_moves(ends) for ends in rng.uniform(0.2, 0.8, (20, 2, 2)))
    there = (np.ones((2, 1)),) * 20

    def test_objects_that_follow_their_boxes_have_correlation_1(self):
        assert displacement_correlation(self.requested, self.requested, self.there) == (pytest.approx(1), 20, 0)

    def test_objects_that_move_the_opposite_way_have_correlation_minus_1(self):
        back = [boxes[::-1] for boxes in self.requested]
        assert displacement_correlation(self.requested, back, self.there).rank_correlation == pytest.approx(-1)

    def test_agrees_with_scipy_where_displacements_are_equal(self):
        # centres and sizes are multiples of 1/8, so that equal displacements are bitwise equal
        centers = np.round(self.rng.uniform(2, 6, (20, 2, 2))) / 8
        found = [_moves(ends, size=0.25) for ends in centers]
        requested = [_moves(ends + self.rng.normal(0, 0.05, (2, 2))) for ends in centers]
        moves = [np.diff((boxes[..., :2] + boxes[..., 2:])[:, 0], axis=0).ravel() for boxes in [*requested, *found]]
        expected = spearmanr(np.ravel(moves[:20]), np.ravel(moves[20:])).statistic
        assert 0.5 < expected < 0.99
        assert displacement_correlation(requested, found, self.there).rank_correlation == pytest.approx(
            expected, abs=1e-12
        )

    def test_a_still_video_has_no_correlation(self):
        still = [np.repeat(boxes[:1], 2, axis=0) for boxes in self.requested]
        result = displacement_correlation(self.requested, still, self.there)
        assert math.isnan(result.rank_correlation)
        assert (result.objects, result.missing) == (20, 0)

    def test_first_and_last_frame_are_those_with_the_object(self):
        requested = [np.concatenate([_moves([[0.1, 0.1]]), boxes, _moves([[0.9, 0.1]])]) for boxes in self.requested]
        found = [np.concatenate([_moves([[0.9, 0.9]]), boxes, _moves([[0.2, 0.7]])]) for boxes in self.requested]
        masks = [np.array([[0], [1], [1], [0]])] * 20
        assert displacement_correlation(requested, found, masks).rank_correlation == pytest.approx(1)

    def test_objects_that_were_not_found_are_counted(self):
        found = [boxes.copy() for boxes in self.requested]
        found[3][1] = np.nan
        assert displacement_correlation(self.requested, found, self.there) == (pytest.approx(1), 19, 1)

    def test_an_object_in_one_frame_has_no_displacement(self):
        there = [np.array([[1], [0]]), *self.there[1:]]
        assert displacement_correlation(self.requested, self.requested, there).objects == 19
