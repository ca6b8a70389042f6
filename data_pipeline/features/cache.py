"""The feature cache on disk: its format, and random access to any window of it. `features.writer` writes it.

A cache belongs to one split of prepared records and to the encoders that computed it:

```
FOLDER/
  feature_cache.json  shapes, encoders and records of the cache; `complete` is false until every part is written
  null_text.npy       float16 [l, d], the embedding of the null text (one space), which replaces dropped captions
  part-00000.npz      index of the part's clips (NumPy, no pickles)
  part-00000.data     little-endian float16: posterior moments of F frames [F, 2, h, w, c], then T texts [T, l, d]
```

Moments are the posterior's mean and log-variance, both of unscaled latents. An index holds, for the C clips of its part
in the order of the records:

| array           | type, shape     | value                                                                            |
|-----------------|-----------------|----------------------------------------------------------------------------------|
| `clip_ids`      | uint8           | Clip ids as UTF-8, separated by line breaks                                      |
| `frames`        | int32 [C]       | Number of frames per clip                                                        |
| `usable`        | bool [F]        | Whether the frame could be decoded; its moments are zeros otherwise              |
| `moments_crc32` | uint32 [F]      | CRC-32 of the moments per frame                                                  |
| `text`          | int32 [C]       | Index of the caption among the texts; -1 if the record could not be read         |
| `texts_crc32`   | uint32 [T]      | CRC-32 per text                                                                  |
| `objects`       | int32 [C]       | Number of objects per clip, N                                                    |
| `label`         | int32 [sum N]   | Index of the label embedding per object                                          |
| `labels`        | float16 [L, d]  | Label embeddings                                                                 |
| `boxes`, `mask` | float32 [M, 4], | Boxes and presence per frame and object, frame by frame, as in the record        |
|                 | bool [M]        |                                                                                  |
"""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, Float32

from data_pipeline.features.encoder_identity import check_cache
from data_pipeline.records.schema import BadClip
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-features", 1
MANIFEST, NULL_TEXT = "feature_cache.json", "null_text.npy"
HALF = np.dtype("<f2")
INDEX_DTYPES = {
    "frames": np.int32,
    "usable": np.bool_,
    "moments_crc32": np.uint32,
    "text": np.int32,
    "texts_crc32": np.uint32,
    "objects": np.int32,
    "label": np.int32,
    "labels": HALF,
    "boxes": np.float32,
    "mask": np.bool_,
}


@dataclass(frozen=True)
class CachedWindow:
    """Boxes, presence and label embeddings of one window.

    Attributes:
        boxes: Boxes [f, n, 4] as x1, y1, x2, y2 in 0..1 of the picture.
        mask: Presence [f, n], True where the object is present.
        labels: Label embeddings [n, d], one per object.
    """

    boxes: Float32[np.ndarray, "f n 4"]
    mask: Bool[np.ndarray, "f n"]
    labels: Float16[np.ndarray, "n d"]


class FeatureCache:
    """A complete cache, opened for reading. Thread-safe.

    Attributes:
        folder: Folder of the cache.
        manifest: Content of `feature_cache.json`.
        clip_ids: Clip ids by position, in the order of the records.
        num_frames: Number of frames of each clip, by position.
        null_text: Embedding [l, d] that replaces a dropped caption, float16.
    """

    def __init__(self, folder: str | Path, *, encoders: Mapping[str, str]):
        """Opens a cache.

        Args:
            folder: Folder of the cache.
            encoders: Encoder hashes of the model that will use the cache (`encoder_identity`).

        Raises:
            SMCDError: The folder holds no cache, or the cache is incomplete, damaged, of another format version, or
                was made by other encoders.
        """
        self.folder = Path(folder)
        self.manifest = read_features_manifest(self.folder)
        check_cache(self.folder, self.manifest, encoders)
        self._parts = [FeaturePart(self.folder, number, self.manifest) for number in range(self.manifest["parts"])]
        self.clip_ids = tuple(clip_id for part in self._parts for clip_id in part.clip_ids)
        self.num_frames = np.concatenate([part.index["frames"] for part in self._parts]).astype(np.int64)
        self.null_text = _read_null_text(self.folder)
        self._ends = np.cumsum([len(part.clip_ids) for part in self._parts])

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(
        self, position: int, start: int, *, moments: Float16[np.ndarray, "f 2 h w c"], text: Float16[np.ndarray, "l d"]
    ) -> CachedWindow:
        """Reads a window; moments and caption embedding are written into arrays that the caller passes.

        Args:
            position: Position of the clip.
            start: Index of the first frame.
            moments: Output array [f, 2, h, w, c], C-contiguous; the clip must have f frames from `start` on.
            text: Output array [l, d] for the caption's embedding, C-contiguous.

        Raises:
            BadClip: The features do not match their checksum, or a frame or the record was unreadable when the cache
                was made.
        """
        number = int(np.searchsorted(self._ends, position, side="right"))
        part = self._parts[number]
        return part.read(position - int(self._ends[number]) + len(part.clip_ids), start, moments=moments, text=text)


class FeaturePart:
    """One part of a cache, opened for reading."""

    def __init__(self, folder: Path, number: int, manifest: Mapping[str, Any]):
        """Opens a part.

        Raises:
            SMCDError: A file of the part is missing or damaged, or the two files do not match.
        """
        self._path = data_path(folder, number)
        self.index, self.clip_ids = _read_index(index_path(folder, number))
        frames, objects = self.index["frames"].astype(np.int64), self.index["objects"].astype(np.int64)
        self._first_frame = np.concatenate([[0], np.cumsum(frames)])
        self._first_object = np.concatenate([[0], np.cumsum(objects)])
        self._first_box = np.concatenate([[0], np.cumsum(frames * objects)])
        self._frame_bytes = int(np.prod(manifest["moments"])) * HALF.itemsize
        self._text_bytes = int(np.prod(manifest["text"])) * HALF.itemsize
        size = int(self._first_frame[-1]) * self._frame_bytes + len(self.index["texts_crc32"]) * self._text_bytes
        found = self._path.stat().st_size if self._path.is_file() else 0
        if found != size:
            raise SMCDError(
                f"{self._path}: size must be {size} bytes, got {found}; remove the feature cache and make it again",
                path=self._path,
                value=found,
            )
        self._file: int | None = None
        self._lock = threading.Lock()

    def read(self, clip: int, start: int, *, moments: np.ndarray, text: np.ndarray) -> CachedWindow:
        """Reads a window like `FeatureCache.read`; `clip` is the index of the clip in this part."""
        index, count = self.index, len(moments)
        first = int(self._first_frame[clip]) + start
        if index["text"][clip] < 0 or not index["usable"][first : first + count].all():
            raise BadClip(f"{self.clip_ids[clip]}: unreadable when its features were made", kind="no features")
        self._read(moments, first * self._frame_bytes)
        texts = int(self._first_frame[-1]) * self._frame_bytes
        self._read(text, texts + int(index["text"][clip]) * self._text_bytes)
        wanted = [*index["moments_crc32"][first : first + count], index["texts_crc32"][index["text"][clip]]]
        if [zlib.crc32(array) for array in (*moments, text)] != wanted:
            raise BadClip(
                f"{self._path}: features of {self.clip_ids[clip]} do not match their checksum", kind="wrong checksum"
            )
        return self._annotations(clip, start, count)

    def _annotations(self, clip: int, start: int, count: int) -> CachedWindow:
        objects = int(self.index["objects"][clip])
        first = int(self._first_box[clip]) + start * objects
        boxes = slice(first, first + count * objects)
        labels = self.index["label"][self._first_object[clip] : self._first_object[clip + 1]]
        return CachedWindow(
            boxes=self.index["boxes"][boxes].reshape(count, objects, 4),
            mask=self.index["mask"][boxes].reshape(count, objects),
            labels=self.index["labels"][labels],
        )

    def _read(self, array: np.ndarray, offset: int) -> None:
        with self._lock:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDONLY)
        if os.preadv(self._file, [array], offset) != array.nbytes:
            raise BadClip(f"{self._path}: the file is truncated", kind="truncated feature file")

    def __del__(self):
        if getattr(self, "_file", None) is not None:
            os.close(self._file)


def read_features_manifest(folder: Path) -> dict[str, Any]:
    """Reads `feature_cache.json`.

    Raises:
        SMCDError: The file is missing, or has another format or version.
    """
    path = folder / MANIFEST
    records = folder.parent.parent
    if not records.is_dir():
        raise SMCDError(f"{records}: no such folder; make records with 'smcd prepare'", path=records)
    if not path.is_file():
        raise SMCDError(
            f"{folder}: no feature cache found ({MANIFEST} is missing); make one with "
            f"'smcd prepare --features MODEL --output {records}'",
            path=path,
        )
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise SMCDError(
            f"{path}: format must be {FORMAT!r}, got {found!r}; make the feature cache again",
            argument="format",
            path=path,
            value=found,
        )
    if content.get("version") != VERSION:
        raise SMCDError(
            f"{path}: version must be {VERSION}, got {content.get('version')!r}; make the feature cache again",
            argument="version",
            path=path,
            value=content.get("version"),
        )
    return content


def index_path(folder: Path, number: int) -> Path:
    """Returns the path of a part's index."""
    return folder / f"part-{number:05d}.npz"


def data_path(folder: Path, number: int) -> Path:
    """Returns the path of a part's features."""
    return folder / f"part-{number:05d}.data"


def _read_null_text(folder: Path) -> Float16[np.ndarray, "l d"]:
    path = folder / NULL_TEXT
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SMCDError(
            f"{path}: missing or damaged ({error}); remove the feature cache and make it again", path=path
        ) from error


def _read_index(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    try:
        # NumPy does not close an archive that it opened itself and found damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in INDEX_DTYPES}
            text = archive["clip_ids"].tobytes().decode("utf-8")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SMCDError(
            f"{path}: missing or damaged ({error}); remove the feature cache and make it again", path=path
        ) from error
    clip_ids = text.split("\n") if text else []
    if len(clip_ids) != len(arrays["frames"]):
        raise SMCDError(
            f"{path}: the arrays have inconsistent lengths; remove the feature cache and make it again", path=path
        )
    return arrays, clip_ids
