"""A source of clips whose pixels, boxes and texts identify the clip and frame, for tests of readers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import builders
from data_pipeline.builders import RawReport
from data_pipeline.records.frames import encode_png
from data_pipeline.records.prepare import prepare
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import Clip

SIDE = 16  # pixels per side of a frame


def length(index: int) -> int:
    """Returns the number of frames of a clip: 4, 7, 10, 13, 16, 4, ..."""
    return 4 + 3 * (index % 5)


def objects(index: int) -> int:
    """Returns the number of objects of a clip: 0, 1, 2, 3, 0, ..."""
    return index % 4


def box(index: int, frame: int, number: int) -> np.ndarray:
    """Returns the box of one object; later objects are larger. Multiples of 1/128 are exact in float32."""
    left, top = (frame + number) / 128, (index % 32) / 128
    return np.array([left, top, left + (number + 1) / 8, top + 1 / 4], np.float32)


def pixel(index: int, frame: int) -> tuple[int, int, int]:
    """Returns the color of a frame, which is uniform."""
    return index, 10 * frame, 128


class Squares:
    """Clips of moving squares; object 1 is absent from odd frames."""

    name = "squares"
    splits = ("train",)

    def __init__(self, folder: Path | None = None, *, clips: int = 12, prefix: str = "clip"):
        self.clips, self.prefix = clips, prefix

    def clip_ids(self, split: str) -> list[str]:
        return [f"{self.prefix}-{index:03d}" for index in range(self.clips)]

    def clip(self, split: str, index: int) -> Clip:
        frames, count = length(index), objects(index)
        picture = np.empty((SIDE, SIDE, 3), np.uint8)
        encoded = []
        for frame in range(frames):
            picture[:] = pixel(index, frame)
            encoded.append(encode_png(picture))
        boxes = np.zeros((frames, count, 4), np.float32)
        for frame, number in np.ndindex(frames, count):
            boxes[frame, number] = box(index, frame, number)
        mask = np.ones((frames, count), bool)
        mask[1::2, 1:2] = False
        labels = tuple(f"thing {number}" for number in range(count))
        return Clip(
            self.clip_ids(split)[index], f"clip number {index}", SIDE, SIDE, tuple(encoded), boxes, mask, labels
        )

    def validate(self) -> RawReport:
        return RawReport({"train": self.clips})


def square_records(folder: Path, **options) -> RecordFolder:
    """Prepares records of moving squares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(builders.SOURCES, "squares", "tests.data_pipeline.moving_squares:Squares")
        prepare("squares", None, folder, clips_per_shard=5, options=options)
    return RecordFolder(folder, "train")


def damage_frame(records: RecordFolder, position: int, frame: int) -> None:
    """Changes a byte of an encoded frame on disk."""
    entry = int(records.first_frame[position]) + frame
    path = records.shards[int(records.index["shard"][position])].path
    content = bytearray(path.read_bytes())
    content[int(records.index["frame_offset"][entry]) + 20] ^= 0xFF
    path.write_bytes(bytes(content))


def jpeg(picture: np.ndarray, quality: int = 95) -> bytes:
    """Encodes a picture as jpeg."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
