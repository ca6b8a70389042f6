"""Drawing of boxes and labels changes only the intended pixels."""

from __future__ import annotations

import numpy as np
import pytest

from smcd_jax import media
from tests.errors import refused
from tests.media.samples import noise


def test_drawing_changes_only_the_border_and_the_label():
    frames = noise(2, 256, 256, 3)
    before = frames.copy()
    boxes = np.array([[[0.25, 0.5, 0.75, 0.875]], [[0.25, 0.5, 0.75, 0.875]]], np.float32)
    drawn = media.draw_boxes(frames, boxes, np.array([[1], [0]]), ["cat"], colors=[(255, 0, 255)])
    np.testing.assert_array_equal(frames, before)
    assert not np.shares_memory(drawn, frames)
    np.testing.assert_array_equal(drawn[1], frames[1])  # the object is absent from frame 1
    for line in (drawn[0, 128, 64:192], drawn[0, 223, 64:192], drawn[0, 128:224, 64], drawn[0, 128:224, 191]):
        assert (line == (255, 0, 255)).all()
    changed = (drawn[0] != frames[0]).any(-1)
    assert not changed[131:221, 67:189].any()  # inside the lines, which are at most three pixels wide
    changed[128:224, 64:192] = False
    label = np.argwhere(changed)  # the rest is a label of three letters above the box's left corner
    assert label.min(0).tolist()[1] == 64
    assert label.max(0).tolist()[0] == 127
    assert np.ptp(label, axis=0).max() < 30
    assert len(label) > 150


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_a_label_is_legible_at_every_size(size):
    """Wherever the box is, letters are black and at least six pixels high, on a tag in the object's colour."""
    frames = np.full((1, size, size, 3), 60, np.uint8)
    color = media.object_colors(1)[0]
    widths = []
    for corner in ([0.4, 0.5, 0.9, 0.9], [0, 0, 0.3, 0.3], [0.9, 0.9, 1, 1]):
        box = np.array([[corner]], np.float32)
        plain = media.draw_boxes(frames, box, np.ones((1, 1)), [""])
        drawn = media.draw_boxes(frames, box, np.ones((1, 1)), ["HHH"])
        tag = np.argwhere((drawn != plain).any(-1)[0])
        (top, left), (bottom, right) = tag.min(0), tag.max(0) + 1
        pixels = drawn[0, top:bottom, left:right]
        ink = np.argwhere(pixels.astype(int).sum(-1) < 150)
        assert (pixels == color).all(-1).mean() > 0.3
        assert np.ptp(ink[:, 0]) + 1 >= max(6, size // 50)
        assert np.ptp(ink[:, 0]) + 1 < size / 6  # small compared with the picture
        widths.append(right - left)
    assert min(widths) > 0.7 * max(widths)  # the box's line may hide the edge of the tag


def test_lines_grow_with_the_picture():
    widths = []
    for size in (64, 1024):
        frames = np.zeros((1, size, size, 3), np.uint8)
        drawn = media.draw_boxes(frames, np.array([[[0.25, 0.25, 0.75, 0.75]]]), np.ones((1, 1)), [""])
        widths.append(int(drawn[0, size // 2, : size // 2].any(-1).sum()))
    assert widths == [1, 7]


@pytest.mark.parametrize(
    "label", ["日本のロケット", "ракета", "صاروخ", "🚀", "a\nb\tc", "\x00", "e\u0301", "very " * 99]
)
def test_any_label_can_be_drawn(label):
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    drawn = media.draw_boxes(frames, np.array([[[0.2, 0.5, 0.8, 0.9]]]), np.ones((1, 1)), [label])
    assert drawn.shape == frames.shape
    assert drawn.any()


def test_a_label_stays_on_one_line():
    frames, boxes = np.zeros((1, 64, 64, 3), np.uint8), np.array([[[0.2, 0.5, 0.8, 0.9]]])
    broken, plain = (media.draw_boxes(frames, boxes, np.ones((1, 1)), [label]) for label in ("a\nb\r\tc", "a b  c"))
    np.testing.assert_array_equal(broken, plain)


def test_boxes_at_and_beyond_the_edge_are_drawn_clipped():
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    color = [(9, 9, 9)]
    whole = media.draw_boxes(frames, np.array([[[-3.0, -1, 2, 5]]]), np.ones((1, 1)), [""], colors=color)
    np.testing.assert_array_equal(
        whole, media.draw_boxes(frames, np.array([[[0, 0, 1.0, 1]]]), np.ones((1, 1)), [""], colors=color)
    )
    point = media.draw_boxes(frames, np.array([[[1.0, 1, 1, 1]]]), np.ones((1, 1)), [""], colors=color)
    np.testing.assert_array_equal(np.argwhere(point[0].any(-1)), [[31, 31]])


def test_a_later_box_does_not_cross_an_earlier_label():
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    boxes = np.array([[[0.2, 0.5, 0.6, 0.9], [0.22, 0.2, 0.3, 0.7]]])
    alone = media.draw_boxes(frames, boxes, np.array([[1, 0]]), ["under", ""])
    both = media.draw_boxes(frames, boxes, np.array([[1, 1]]), ["under", ""])
    tag = slice(52, 62), slice(26, 50)
    assert alone[0][tag].any(-1).all()
    np.testing.assert_array_equal(both[0][tag], alone[0][tag])


def test_twenty_one_objects_have_distinct_colours():
    colors = media.object_colors(21)
    assert len(set(colors)) == 21
    assert media.object_colors(22)[21] == colors[0]
    assert colors[:2] == [(230, 159, 0), (86, 180, 233)]  # orange and sky blue of Okabe and Ito's palette


def test_drawing_refuses_inconsistent_arguments():
    frames, boxes, mask = noise(2, 16, 16, 3), np.zeros((2, 1, 4), np.float32), np.ones((2, 1))
    boxes[..., 2:] = 0.5
    for argument, value, arguments in (
        ("frames", (2, 16, 16, 3), (frames.astype(np.float32), boxes, mask, ["a"])),
        ("boxes", (2, 1, 4), (frames[:1], boxes, mask, ["a"])),
        ("mask", (2, 0), (frames, boxes, mask[:, :0], ["a"])),
        ("boxes", (2, 1, 4), (frames, boxes, mask, ["a", "b"])),
    ):
        with refused(argument, value=value):
            media.draw_boxes(*arguments)
    with refused("colors", value=(2,)):
        media.draw_boxes(frames, boxes, mask, ["a"], colors=[(0, 0, 0), (1, 1, 1)])
    boxes[1, 0, 2] = np.inf
    with refused("boxes", value=(0, 0, np.inf, 0.5)) as error:
        media.draw_boxes(frames, boxes, mask, ["cat"])
    assert "object 0 (cat) in frame 1" in str(error.value)
    media.draw_boxes(frames, boxes, np.array([[1], [0]]), ["cat"])  # a masked box is not checked


def test_a_contact_sheet_holds_every_frame():
    first, second = noise(3, 20, 30, 3, seed=1), noise(5, 24, 16, 3, seed=2)
    for columns in (None, 1, 2):
        sheet = media.contact_sheet([first, second], columns=columns, captions=["one", "two"])
        windows = {
            frame.shape: np.lib.stride_tricks.sliding_window_view(sheet, frame.shape)[:, :, 0]
            for frame in (first[0], second[0])
        }
        for frame in [*first, *second]:
            assert (windows[frame.shape] == frame).all((-1, -2, -3)).sum() == 1


def test_frames_of_a_contact_sheet_stand_apart_in_both_directions():
    sheet = media.contact_sheet([np.zeros((4, 16, 16, 3), np.uint8)], columns=2)
    for line in (sheet[10, :, 0], sheet[:, 10, 0]):
        edges = np.flatnonzero(np.diff(line.astype(int)))
        assert np.diff(edges).tolist() == [16, 2, 16]


def test_a_contact_sheets_captions_are_dark_on_white_above_each_row():
    videos = [np.full((2, 32, 32, 3), 200, np.uint8)] * 2
    plain = media.contact_sheet(videos)
    captioned = media.contact_sheet(videos, captions=["first", "second"])
    assert captioned.shape[1] == plain.shape[1]
    assert captioned.shape[0] > plain.shape[0]
    assert captioned[: (captioned.shape[0] - plain.shape[0]) // 2].min() < 60
    assert plain.min() == 200


def test_a_contact_sheet_refuses_inconsistent_arguments():
    video = noise(2, 8, 8, 3)
    for argument, value, videos, options in (
        ("videos", 0, [], {}),
        ("captions", 0, [video], {"captions": []}),
        ("columns", 0, [video], {"columns": 0}),
        ("videos[1]", (8, 8, 3), [video, video[0]], {}),
    ):
        with refused(argument, value=value):
            media.contact_sheet(videos, **options)
