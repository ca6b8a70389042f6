"""Learned tracker from a local ONNX file: a network that finds a template in a search picture.

Ye et al., "Joint Feature Learning and Relation Modeling for Tracking: A One-Stream Framework", ECCV 2022; in the form
that OpenCV publishes as VitTrack. OpenCV's own class for such files is not used: version 5.0.0 inverts two of the three
channels (it divides by the standard deviations as if they were a quaternion) and returns boxes in whole pixels.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, UInt8

from data_pipeline.records.reader import file_sha256
from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.trackers.object_trackers import SHORTER_SIDE, enlarged, one_line, whole_pixels
from smcd_jax.evaluation.trackers.opencv import load_cv2, repeatable

VIT = "vit"  # name of the tracker, before the colon and the file
SOURCE = "object_tracking_vittrack_2023sep.onnx of opencv/opencv_zoo"
TEMPLATE, SEARCH, CELLS = 128, 256, 16  # sides of the network's input pictures and output maps
TEMPLATE_FACTOR, SEARCH_FACTOR = 2, 4  # sides of these crops, relative to a square with the object's area
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet statistics, RGB
_OUTPUTS = {"output1": 1, "output2": 2, "output3": 2}  # channels: score; width and height; centre within the cell


class VitTracker:
    """Finds the object of the first frame in a square around its last position, frame by frame.

    Args:
        file: ONNX file with inputs ``template`` [1, 3, 128, 128] and ``search`` [1, 3, 256, 256], RGB normalised as for
            ImageNet; outputs ``output1`` [1, 1, 16, 16], the score of each cell, ``output2`` [1, 2, 16, 16], width and
            height in search pictures, ``output3`` [1, 2, 16, 16], x and y of the centre in cells from the corner of
            its cell.
        shorter_side: Minimum shorter side of the enlarged pictures, in pixels (see
            `smcd_jax.evaluation.trackers.object_trackers.OpenCVTracker`).

    Raises:
        SMCDError: The file does not exist, the network has another form, or OpenCV is not installed.
    """

    def __init__(self, file: str, *, shorter_side: int = SHORTER_SIDE):
        path = Path(file)
        if not file or not path.is_file():
            raise SMCDError(
                f"tracker {VIT}: no such file {file!r}; pass {VIT}:FILE.onnx (usual source: {SOURCE})",
                argument="trackers",
                path=file,
            )
        self._cv2 = load_cv2(f"the tracker {VIT}", "dnn.readNetFromONNX")
        self._shorter_side = shorter_side
        self.weights_sha256 = file_sha256(path)
        self.name = f"{VIT}-{self.weights_sha256[:8]}@{shorter_side}"  # metrics of different files have different names
        self.version = f"OpenCV {self._cv2.__version__}"
        window = np.hanning(CELLS + 2)[1:-1]
        self._window = np.outer(window, window)
        try:
            with repeatable(self._cv2):
                self._network = self._cv2.dnn.readNetFromONNX(str(path))
                self._run(*(np.zeros((1, 3, side, side), np.float32) for side in (TEMPLATE, SEARCH)))
        except (self._cv2.error, ValueError) as error:  # not an ONNX file, or a network with other inputs or outputs
            raise SMCDError(
                f"tracker {VIT}: {path.name} is not a network of this form ({one_line(error)}); usual source: {SOURCE}",
                argument="trackers",
                path=file,
            ) from error

    def track(
        self, frames: UInt8[np.ndarray, "f h w 3"], first_box: Float[np.ndarray, " 4"]
    ) -> Float32[np.ndarray, "f 4"]:
        """See `smcd_jax.evaluation.trackers.object_trackers.Tracker.track`. Boxes are clipped to the picture.

        Raises:
            SMCDError: The frames are not uint8 RGB, or the first box is not finite or too small.
        """
        pictures = enlarged(self._cv2, frames, self._shorter_side)[..., ::-1]
        height, width = pictures.shape[1:3]
        size = np.array([width, height, width, height])
        first_box = np.asarray(first_box, np.float32)
        boxes = np.full((len(frames), 4), np.nan, np.float32)
        boxes[0] = first_box
        x, y, across, down = whole_pixels(first_box, size)
        last = np.array([x, y, x + across, y + down], np.float64)
        with repeatable(self._cv2):
            template, *_ = self._cut(pictures[0], last, TEMPLATE_FACTOR, TEMPLATE)
            for frame in range(1, len(pictures)):
                search, corner, side = self._cut(pictures[frame], last, SEARCH_FACTOR, SEARCH)
                found = np.tile(corner, 2) + side * self._find(template, search)
                found = np.clip(found, 0, size)
                if np.min(found[2:] - found[:2]) >= 1:  # otherwise lost; the search stays at the last position
                    last, boxes[frame] = found, found / size
        return boxes

    def _find(self, template: np.ndarray, search: np.ndarray) -> Float[np.ndarray, " 4"]:
        """Returns the box as xyxy, in fractions of the side of the search picture."""
        scores, sizes, offsets = self._run(template, search)
        row, column = np.unravel_index(np.argmax(scores[0] * self._window), scores[0].shape)
        centre = (np.array([column, row]) + offsets[:, row, column]) / CELLS
        half = sizes[:, row, column] / 2
        return np.nan_to_num(np.concatenate([centre - half, centre + half]))

    def _run(self, template: np.ndarray, search: np.ndarray) -> list[Float[np.ndarray, "_ 16 16"]]:
        self._network.setInput(template, "template")
        self._network.setInput(search, "search")
        maps = self._network.forward(list(_OUTPUTS))
        return [
            one.reshape(channels, CELLS, CELLS).astype(np.float64)
            for one, channels in zip(maps, _OUTPUTS.values(), strict=True)
        ]

    def _cut(
        self, picture: UInt8[np.ndarray, "h w 3"], box: np.ndarray, factor: int, side: int
    ) -> tuple[Float32[np.ndarray, "1 3 s s"], Float[np.ndarray, " 2"], int]:
        """Returns the network input of the square around a box, black beyond the picture, and its corner and side."""
        across, down = box[2:] - box[:2]
        pixels = math.ceil(math.sqrt(across * down) * factor)
        corner = np.rint((box[:2] + box[2:] - pixels) / 2).astype(int)
        height, width = picture.shape[:2]
        (x1, y1), (x2, y2) = np.clip(corner, 0, (width, height)), np.clip(corner + pixels, 0, (width, height))
        square = np.zeros((pixels, pixels, 3), np.uint8)
        square[y1 - corner[1] : y2 - corner[1], x1 - corner[0] : x2 - corner[0]] = picture[y1:y2, x1:x2]
        resized = self._cv2.resize(square, (side, side)).astype(np.float32) / 255
        normal = (resized - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[None]), corner.astype(np.float64), pixels
