"""Trackers that follow a box from the first frame through a video: the protocol, and two of OpenCV without weights.

CSRT: Lukezic et al., "Discriminative Correlation Filter with Channel and Spatial Reliability", CVPR 2017. The second
opinion is of another family, points followed forth and back by optical flow: Kalal, Mikolajczyk, Matas,
"Forward-Backward Error: Automatic Detection of Tracking Failures", ICPR 2010. Of OpenCV's others that need no weights,
MIL and TLD do not repeat themselves, and KCF and MOSSE lose most sprites. A learned one: `learned_tracker`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.trackers.opencv import check_frames, load_cv2, repeatable
from smcd_jax.tracks.box_tracks import format_box

# OpenCV's trackers describe what they follow by cells of 4 x 4 pixels and return whole pixels: on a picture of 64 x 64
# a sprite would be four cells wide. Smaller pictures are enlarged; the number is part of a tracker's name.
SHORTER_SIDE = 256
# Pixels of the enlarged picture: on less, no tracker has anything to go by.
SMALLEST_SIDE = 6

# Name to what makes it in OpenCV.
TRACKERS = {"csrt": "TrackerCSRT_create", "medianflow": "legacy.TrackerMedianFlow_create"}


class Tracker(Protocol):
    """What follows a box; anything with these names can stand in for the trackers here, learned ones as well.

    Attributes:
        name: of the method, with every setting that changes its boxes; stands in the results.
        version: of what implements it, such as "OpenCV 5.0.0".
        weights_sha256: of the file of a learned one, else None.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> str: ...  # noqa: D102

    @property
    def weights_sha256(self) -> str | None: ...  # noqa: D102

    def track(
        self, frames: UInt8[np.ndarray, "f h w 3"], first_box: Float[np.ndarray, " 4"]
    ) -> Float32[np.ndarray, "f 4"]:
        """The box in every frame.

        Args:
            frames: RGB.
            first_box: x1, y1, x2, y2 in 0..1 of the picture, where it is in frame 0.

        Returns:
            Boxes xyxy in 0..1 of the picture; they may reach beyond it. The first is `first_box`; NaN where lost.
        """
        ...


class OpenCVTracker:
    """One of OpenCV's trackers. The same video and box give the same boxes: one thread, and a fixed seed.

    Args:
        kind: one of `TRACKERS`.
        shorter_side: pictures are enlarged by the smallest whole factor that makes their shorter side at least this.

    Raises:
        SMCDError: OpenCV is not installed, or there is no such tracker.
    """

    weights_sha256 = None

    def __init__(self, kind: str, *, shorter_side: int = SHORTER_SIDE):
        if kind not in TRACKERS:
            raise SMCDError(f"tracker {kind!r} is unknown: use one of {', '.join(TRACKERS)}, sprites, or vit:FILE.onnx")
        self._cv2 = load_cv2(f"the tracker {kind}", TRACKERS[kind])
        self._create: Callable = operator.attrgetter(TRACKERS[kind])(self._cv2)
        self._shorter_side = shorter_side
        self.name = f"{kind}@{shorter_side}"
        self.version = f"OpenCV {self._cv2.__version__}"

    def track(
        self, frames: UInt8[np.ndarray, "f h w 3"], first_box: Float[np.ndarray, " 4"]
    ) -> Float32[np.ndarray, "f 4"]:
        """See `Tracker.track`. OpenCV starts from the first box cut to the picture and rounded to whole pixels.

        Raises:
            SMCDError: frames of another form, or a first box that is not finite or smaller than `SMALLEST_SIDE` in
                the enlarged picture.
        """
        pictures = enlarged(self._cv2, frames, self._shorter_side)
        height, width = pictures.shape[1:3]
        size = np.array([width, height, width, height])
        first_box = np.asarray(first_box, np.float32)
        boxes = np.full((len(frames), 4), np.nan, np.float32)
        boxes[0] = first_box
        start = whole_pixels(first_box, size)
        try:
            with repeatable(self._cv2):
                tracker = self._create()
                tracker.init(pictures[0], start)
                for frame in range(1, len(pictures)):
                    found, (x, y, across, down) = tracker.update(pictures[frame])
                    if found:
                        boxes[frame] = np.array([x, y, x + across, y + down]) / size
        except self._cv2.error as error:
            raise SMCDError(
                f"tracker {self.name}: {self.version} fails on the object that starts at {format_box(first_box)} "
                f"({in_a_line(error)}); leave the object out, or take another tracker"
            ) from error
        return boxes


def enlarged(
    cv2: ModuleType, frames: UInt8[np.ndarray, "f h w 3"], shorter_side: int
) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """Frames enlarged by the smallest whole factor that makes their shorter side at least that; blue first.

    Raises:
        SMCDError: frames of another form.
    """
    check_frames(frames)
    height, width = frames.shape[1:3]
    factor = max(1, -(-shorter_side // min(height, width)))
    size = (width * factor, height * factor)
    return np.stack(
        [cv2.resize(np.ascontiguousarray(frame[..., ::-1]), size, interpolation=cv2.INTER_CUBIC) for frame in frames]
    )


def track_objects(
    tracker: Tracker,
    frames: UInt8[np.ndarray, "f h w 3"],
    boxes: Float[np.ndarray, "f n 4"],
    mask: Bool[np.ndarray, "f n"],
) -> Float32[np.ndarray, "f n 4"]:
    """Every object followed by itself, from its box in the first frame where it is present.

    Args:
        tracker: follows one object.
        frames: RGB.
        boxes: where the objects should be, x1, y1, x2, y2 in 0..1 of the picture. Only the first of each is read.
        mask: true where present.

    Returns:
        Boxes in 0..1; NaN before an object's first frame, where it was lost, and for an object that is never present.

    Raises:
        SMCDError: another number of frames than of boxes, or as the tracker raises.
    """
    mask = np.asarray(mask, bool)
    if boxes.shape != (*mask.shape, 4) or len(frames) != len(boxes):
        raise SMCDError(
            f"{len(frames)} frames, boxes {list(boxes.shape)} and mask {list(mask.shape)} do not belong together; give "
            "boxes [frames, objects, 4] and mask [frames, objects] for every frame of the video"
        )
    found = np.full(boxes.shape, np.nan, np.float32)
    for item in np.flatnonzero(mask.any(axis=0)):
        start = int(mask[:, item].argmax())
        found[start:, item] = tracker.track(frames[start:], boxes[start, item])
    return found


def in_a_line(error: Exception) -> str:
    """What OpenCV says of an error, without its line breaks and not too long."""
    return " ".join(str(error).split())[:200]


def whole_pixels(box: np.ndarray, size: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels of the part of a box within the picture.

    Args:
        box: x1, y1, x2, y2 in 0..1.
        size: width, height, width, height of the picture in pixels.

    Raises:
        SMCDError: that part is narrower or lower than `SMALLEST_SIDE`.
    """
    if np.all(np.isfinite(box)):
        x1, y1, x2, y2 = np.clip(np.rint(box * size), 0, size).astype(int).tolist()
        if min(x2 - x1, y2 - y1) >= SMALLEST_SIDE:
            return x1, y1, x2 - x1, y2 - y1
    raise SMCDError(
        f"box {format_box(box)} is no start for a tracker: the part of it within the picture, enlarged to "
        f"{size[0]} x {size[1]}, must be {SMALLEST_SIDE} pixels wide and high; mask the object out, or start it later"
    )
