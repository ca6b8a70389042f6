"""WebVid (Bain et al. 2021, arXiv:2104.00650) and other captioned videos without boxes, listed in CSV files.

```
FOLDER/
  results_2M_train.csv             videoid, page_dir, name (the caption); other columns are ignored
  results_2M_val.csv               the last word of the file name is the split, otherwise train
  videos/PAGE_DIR/VIDEOID.mp4
```

A clip is a window of a video: ``frames`` frames at a stride drawn from 1 to ``max_stride``, from a random start, as
DynamiCrafter reads them in training. Shorter videos get the largest stride that fits. The draws depend only on seed,
video and number of the clip. Frames are cropped to the center; the record holds the frame rate of the window.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from data_pipeline.builders import RawReport
from data_pipeline.builders.generated import is_integer
from data_pipeline.builders.raw_clip import bad_clip_if_wrong
from data_pipeline.checks import require
from data_pipeline.order.permutation import below, fold
from data_pipeline.order.strides import strided_frames, strided_window
from data_pipeline.records.frames import UNREADABLE, encode_jpeg
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_text
from smcd_jax.media import read_video, resize_picture

VIDEOS = "videos"
COLUMNS = ("page_dir", "videoid", "name")
SPLITS = ("train", "val", "test")
SHORT = "fewer frames than a clip"
_STRIDE, _START = 0, 1  # stream ids for `fold`


class Video(NamedTuple):
    """A row of the CSV files."""

    page_dir: str
    videoid: str
    caption: str


class WebVid:
    """Clips of WebVid; ids are VIDEOID-00, VIDEOID-01 and so on.

    Args:
        folder: Folder of the CSV files and of `videos`.
        frames: Number of frames per clip, at least 1.
        max_stride: Largest stride drawn, at least 1.
        height: Frame height in pixels, at least 1.
        width: Frame width in pixels, at least 1.
        clips_per_video: Number of clips per video, 1 to 100.
        seed: Seed of strides and starts, at least 0.

    Raises:
        SMCDError: An option is out of range, or the folder has no usable CSV file.
    """

    name = "webvid"
    splits: tuple[str, ...] = SPLITS

    def __init__(
        self,
        folder: Path,
        *,
        frames: int = 16,
        max_stride: int = 6,
        height: int = 320,
        width: int = 512,
        clips_per_video: int = 1,
        seed: int = 0,
    ):
        sizes = {"frames": frames, "max_stride": max_stride, "height": height, "width": width}
        for name, value in sizes.items():
            require(is_integer(value) and value >= 1, name, "an integer of at least 1", value)
        many = is_integer(clips_per_video) and 1 <= clips_per_video <= 100
        require(many, "clips_per_video", "an integer from 1 to 100", clips_per_video)
        require(is_integer(seed) and seed >= 0, "seed", "an integer of at least 0", seed)
        self._videos, self._clips, self._seed = Path(folder) / VIDEOS, clips_per_video, seed
        self._frames, self._max_stride, self._size = frames, max_stride, (height, width)
        self._notes: list[str] = []
        files = sorted(Path(folder).glob("*.csv"))
        if not files:
            message = f"{folder}: no CSV file found; use a folder with CSV files and a folder {VIDEOS}"
            raise SMCDError(message, argument="source", path=Path(folder))
        self._rows = {split: self._read(split, [file for file in files if _split(file) == split]) for split in SPLITS}
        self.splits = tuple(split for split in SPLITS if any(_split(file) == split for file in files))

    def clip_ids(self, split: str) -> tuple[str, ...]:
        """Returns the ids of the clips, sorted by video."""
        return tuple(f"{row.videoid}-{number:02d}" for row in self._rows[split] for number in range(self._clips))

    def clip(self, split: str, index: int) -> Clip:
        """See `Source`."""
        row, number = self._rows[split][index // self._clips], index % self._clips
        path = self._path(row)
        with bad_clip_if_wrong(UNREADABLE):
            video, fps = read_video(path)
        if len(video) < self._frames:
            raise BadClip(f"{path}: must have at least {self._frames} frames, got {len(video)}", kind=SHORT)
        chosen, rate = self._window(row, number, len(video), fps)
        height, width = self._size
        frames = tuple(encode_jpeg(center_crop(frame, height=height, width=width)) for frame in video[chosen])
        return Clip(
            clip_id=f"{row.videoid}-{number:02d}",
            caption=row.caption,
            width=width,
            height=height,
            frames=frames,
            boxes=np.zeros((len(frames), 0, 4)),
            mask=np.zeros((len(frames), 0), bool),
            labels=(),
            frame_rate=rate,
        )

    def validate(self) -> RawReport:
        """See `Source`."""
        if not any(self._rows.values()):
            message = f"{self._videos}: no video of the CSV files found; use {VIDEOS}/PAGE_DIR/VIDEOID.mp4"
            raise SMCDError(message, argument="source", path=self._videos)
        return RawReport({split: len(self.clip_ids(split)) for split in self.splits}, tuple(self._notes))

    def _path(self, row: Video) -> Path:
        return self._videos / row.page_dir / f"{row.videoid}.mp4"

    def _window(self, row: Video, number: int, frames: int, fps: float) -> tuple[np.ndarray, int]:
        """Returns the frame indices of a clip and its frame rate."""
        digest = hashlib.sha256(f"{row.page_dir}/{row.videoid}".encode()).digest()
        key = fold(self._seed, number, int.from_bytes(digest[:8], "big"))
        stride = 1 + int(below(fold(key, _STRIDE), self._max_stride))
        window = strided_window(frames, fps, length=self._frames, stride=stride)
        start = int(below(fold(key, _START), window.last_start + 1))
        return strided_frames(start, self._frames, window.stride), max(1, int(window.fps))

    def _read(self, split: str, files: list[Path]) -> tuple[Video, ...]:
        found: dict[str, Video] = {}
        left_out: Counter[str] = Counter()
        rows = [row for file in files for row in _rows(file)]
        for row in rows:
            if row is None:
                left_out[f"an empty cell among {', '.join(COLUMNS)}"] += 1
            elif row.videoid in found:
                left_out["the videoid of an earlier row"] += 1
            elif not self._path(row).is_file():
                left_out[f"no file in {VIDEOS}"] += 1
            else:
                found[row.videoid] = row
        for reason, count in left_out.items():
            self._notes.append(f"{split}: rows left out because they have {reason}: {count} of {len(rows)}")
        return tuple(found[videoid] for videoid in sorted(found))


def center_crop(picture: UInt8[np.ndarray, "h w 3"], *, height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the largest centered part with the aspect ratio of the output, resized to the output.

    The reference resizes the shorter side to the shorter output side and pads a picture that is then too narrow with
    black; here there are no bars. Otherwise both crops are the same, up to rounding.
    """
    h, w = picture.shape[:2]
    scale = max(height / h, width / w)
    high, wide = max(height, round(h * scale)), max(width, round(w * scale))
    top, left = (high - height) // 2, (wide - width) // 2
    return resize_picture(picture, height=high, width=wide)[top : top + height, left : left + width]


def _rows(file: Path) -> Iterator[Video | None]:
    """Yields the rows of a CSV file; None for a row with an empty or missing cell among `COLUMNS`."""
    reader = csv.reader(io.StringIO(read_text(file)))
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            message = f"{file}: the first line must name the columns {', '.join(COLUMNS)}; {missing[0]} is missing"
            raise SMCDError(message, argument=missing[0], path=file, value=tuple(header))
        places = [header.index(name) for name in COLUMNS]
        for cells in filter(None, reader):
            values = [cells[place].strip() if place < len(cells) else "" for place in places]
            yield Video(*values) if all(values) else None
    except csv.Error as error:
        message = f"{file}: line {reader.line_num}: not CSV ({error}); repair the line"
        raise SMCDError(message, argument=f"line {reader.line_num}", path=file) from error


def _split(file: Path) -> str:
    last = re.split(r"[^a-z0-9]+", file.stem.lower())[-1]
    return last if last in SPLITS else "train"
