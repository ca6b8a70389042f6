"""Trackers of a single box: the protocol, and two of OpenCV's trackers that need no weights.

CSRT: Lukezic et al., "Discriminative Correlation Filter with Channel and Spatial Reliability", CVPR 2017. MedianFlow,
which tracks points forward and backward by optical flow: Kalal, Mikolajczyk, Matas, "Forward-Backward Error: Automatic
Detection of Tracking Failures", ICPR 2010. Of OpenCV's other trackers without weights, MIL and TLD are not
deterministic, and KCF and MOSSE lose most sprites. `learned_tracker` has a learned one.
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

# OpenCV's trackers describe objects by cells of 4 x 4 pixels and return whole pixels: in a picture of 64 x 64 a sprite
# would be four cells wide. Smaller pictures are enlarged; the number is part of a tracker's name.
SHORTER_SIDE = 256
# Minimum side of the first box in pixels of the enlarged picture.
SMALLEST_SIDE = 6

# OpenCV's constructors by name.
TRACKERS = {"csrt": "TrackerCSRT_create", "medianflow": "legacy.TrackerMedianFlow_create"}


class Tracker(Protocol):
    """Interface of single-box trackers.

    Attributes:
        name: Name in the results, with every setting that changes the boxes.
        version: Library and version, such as "OpenCV 5.0.0".
        weights_sha256: Hash of the weights of a learned tracker, else None.
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
        """Tracks a box through a video.

        Args:
            frames: RGB frames.
            first_box: Box in frame 0, xyxy in 0..1 of the picture.

        Returns:
            Box in every frame, xyxy in 0..1 of the picture; may reach beyond it, NaN where lost. The first is
            `first_box`.
        """
        ...


class OpenCVTracker:
    """A tracker of OpenCV, deterministic because it runs on one thread with a fixed seed.

    Args:
        kind: One of `TRACKERS`.
        shorter_side: Minimum shorter side in pixels; smaller pictures are enlarged by the smallest whole factor.

    Raises:
        SMCDError: OpenCV is not installed, or the tracker does not exist.
    """

    weights_sha256 = None

    def __init__(self, kind: str, *, shorter_side: int = SHORTER_SIDE):
        if kind not in TRACKERS:
            raise SMCDError(
                f"tracker must be one of {', '.join(TRACKERS)}, sprites or vit:FILE.onnx, got {kind!r}",
                argument="trackers",
                value=kind,
            )
        self._cv2 = load_cv2(f"the tracker {kind}", TRACKERS[kind])
        self._create: Callable = operator.attrgetter(TRACKERS[kind])(self._cv2)
        self._shorter_side = shorter_side
        self.name = f"{kind}@{shorter_side}"
        self.version = f"OpenCV {self._cv2.__version__}"

    def track(
        self, frames: UInt8[np.ndarray, "f h w 3"], first_box: Float[np.ndarray, " 4"]
    ) -> Float32[np.ndarray, "f 4"]:
        """See `Tracker.track`. The tracker starts from the first box, clipped and rounded to whole pixels.

        Raises:
            SMCDError: The frames are not uint8 RGB, or the first box is not finite or smaller than `SMALLEST_SIDE` in
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
                f"tracker {self.name}: {self.version} failed on the object that starts at {format_box(first_box)} "
                f"({one_line(error)}); use another tracker",
                argument="trackers",
                value=self.name,
            ) from error
        return boxes


def enlarged(
    cv2: ModuleType, frames: UInt8[np.ndarray, "f h w 3"], shorter_side: int
) -> UInt8[np.ndarray, "f h2 w2 3"]:
    """Returns frames in BGR order, enlarged by the smallest whole factor that makes their shorter side large enough.

    Args:
        cv2: OpenCV.
        frames: RGB frames.
        shorter_side: Minimum shorter side in pixels.

    Raises:
        SMCDError: The frames are not uint8 RGB.
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
    """Tracks every object separately, from its box in the first frame where it is present.

    Args:
        tracker: Tracker of a single box.
        frames: RGB frames.
        boxes: True boxes, xyxy in 0..1 of the picture; only the first box of each object is used.
        mask: True where an object is present.

    Returns:
        Boxes, xyxy in 0..1; NaN before an object's first frame, where it is lost, and if it is never present.

    Raises:
        SMCDError: The shapes do not match, or the tracker fails.
    """
    mask = np.asarray(mask, bool)
    if boxes.shape != (*mask.shape, 4) or len(frames) != len(boxes):
        raise SMCDError(
            f"boxes and mask must have the shapes [frames, objects, 4] and [frames, objects] of {len(frames)} frames, "
            f"got {list(boxes.shape)} and {list(mask.shape)}",
            argument="boxes",
            value=boxes.shape,
        )
    found = np.full(boxes.shape, np.nan, np.float32)
    for item in np.flatnonzero(mask.any(axis=0)):
        start = int(mask[:, item].argmax())
        found[start:, item] = tracker.track(frames[start:], boxes[start, item])
    return found


def one_line(error: Exception) -> str:
    """Returns the message of an error without line breaks, at most 200 characters."""
    return " ".join(str(error).split())[:200]


def whole_pixels(box: np.ndarray, size: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the part of a box within the picture as x, y, width, height in pixels.

    Args:
        box: Box, xyxy in 0..1.
        size: Width, height, width, height of the picture in pixels.

    Raises:
        SMCDError: A side of that part is smaller than `SMALLEST_SIDE`.
    """
    if np.all(np.isfinite(box)):
        x1, y1, x2, y2 = np.clip(np.rint(box * size), 0, size).astype(int).tolist()
        if min(x2 - x1, y2 - y1) >= SMALLEST_SIDE:
            return x1, y1, x2 - x1, y2 - y1
    raise SMCDError(
        f"the first box of a tracked object must be at least {SMALLEST_SIDE} pixels wide and high within the picture "
        f"enlarged to {size[0]} x {size[1]}, got {format_box(box)}; mask the object out, or start it later",
        argument="first_box",
        value=format_box(box),
    )
