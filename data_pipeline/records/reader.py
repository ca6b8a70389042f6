"""A folder of prepared records: what is in it, and reading any record, or a few frames of it, by its position.

Layout, as `smcd prepare` writes it:

```
FOLDER/
  records.json                         what the folder holds; written last, so its absence means half-written
  report.json                          clips, frames, objects, skipped and why
  dataset_info.json, features.json     metadata of TensorFlow Datasets: `tfds.builder_from_directory(FOLDER)`
  NAME-SPLIT.tfrecord-00000-of-00004   shards, records of `records.schema` in the order of the source's clip ids
  index-SPLIT.npz                      where every record and every frame of the split is
```

`index-SPLIT.npz` (NumPy, no pickles) holds R records in order of position, with F frames in all:

| array           | type, shape | value                                                                              |
|-----------------|-------------|------------------------------------------------------------------------------------|
| `clip_ids`      | uint8       | the ids as UTF-8, one a line                                                       |
| `shard`         | int32 [R]   | number of the shard                                                                |
| `offset`        | int64 [R]   | first byte of the record's data in the shard (TFRecord's 12 bytes of header before)|
| `length`        | int64 [R]   | bytes of the record's data                                                         |
| `head_length`   | int64 [R]   | bytes of its first part, an example with all but the frames (`schema.serialize`)   |
| `head_crc32`    | uint32 [R]  | zlib's checksum of that part                                                       |
| `frames`        | int32 [R]   | number of frames, T                                                                |
| `objects`       | int32 [R]   | number of objects, N                                                               |
| `frame_offset`  | int64 [F]   | first byte of each encoded frame in its shard; a record's frames stand together    |
| `frame_length`  | int64 [F]   | its bytes                                                                          |
| `frame_crc32`   | uint32 [F]  | their checksum                                                                     |

So the frames of record p are entries `frames[:p].sum()` to that plus `frames[p]` of the last three, and a few frames of
a long clip are read and checked without touching the others.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.records.schema import SCHEMA_VERSION, BadClip, Clip, example_to_clip, parse
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-records", 1
RECORDS, REPORT, WORK = "records.json", "report.json", ".prepare"
# Arrays of the index that shards know by themselves; `shard` is added when they are put together.
PER_RECORD = {
    "offset": np.int64,
    "length": np.int64,
    "head_length": np.int64,
    "head_crc32": np.uint32,
    "frames": np.int32,
    "objects": np.int32,
}
PER_FRAME = {"frame_offset": np.int64, "frame_length": np.int64, "frame_crc32": np.uint32}
INDEX_ARRAYS = {"shard": np.int32, **PER_RECORD, **PER_FRAME}


@dataclass(frozen=True)
class Shard:
    """One file of records: its path, how many bytes and records it should have, and its sha256."""

    path: Path
    size: int
    clips: int
    sha256: str


class RecordFolder:
    """One split of a folder of records, read by position. May be shared by threads and sent to other processes.

    Attributes:
        folder: the folder.
        name: of the data set.
        split: the split.
        shards: its files.
        clip_ids: by position.
        index: the arrays of `index-SPLIT.npz` by name.
        first_frame: int64 [R + 1], where each record's frames begin in `frame_offset` and `frame_length`.
        lost: number of records that a missing or truncated shard has cost; they are left out of all of the above.
        sha256: identifies the records: the hash of the shards' hashes.
    """

    def __init__(self, folder: str | Path, split: str, *, max_bad_share: float = 0.0):
        """Open a split.

        Args:
            folder: as `smcd prepare` wrote it.
            split: name of the split.
            max_bad_share: the share of records that a missing or truncated shard may cost; what is left is read.

        Raises:
            SMCDError: no records, half-written ones, another format or schema version, no such split, an index that
                does not fit, or more records lost than `max_bad_share` allows.
        """
        self.folder, self.split = Path(folder), split
        content = read_manifest(self.folder)
        if split not in content["splits"]:
            raise SMCDError(f"{self.folder}: no split {split!r}: it holds {', '.join(content['splits'])}")
        self.name: str = content["name"]
        self.shards = _shards(self.folder, content["splits"][split])
        self.index, clip_ids = read_index(self.folder, split)
        if len(clip_ids) != sum(shard.clips for shard in self.shards):
            raise SMCDError(f"{index_path(self.folder, split)}: does not fit {RECORDS}: prepare the data set again")
        self.lost, kept = 0, self._whole_records()
        if not kept.all():
            self.lost = self._drop_lost(kept, max_bad_share)
            clip_ids = [clip_id for clip_id, keep in zip(clip_ids, kept, strict=True) if keep]
        self.clip_ids = tuple(clip_ids)
        self.first_frame = np.concatenate([[0], np.cumsum(self.index["frames"], dtype=np.int64)])
        self.sha256 = hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()
        self._positions: dict[str, int] | None = None
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def position(self, clip_id: str) -> int:
        """Where the clip of that id is.

        Raises:
            SMCDError: no such clip.
        """
        if self._positions is None:
            self._positions = {clip_id: position for position, clip_id in enumerate(self.clip_ids)}
        if clip_id not in self._positions:
            raise SMCDError(f"{self.folder}: no clip {clip_id!r} in split {self.split!r}: prepare the same data again")
        return self._positions[clip_id]

    def clip(self, position: int) -> Clip:
        """The whole clip at a position.

        Raises:
            BadClip: the record differs from its checksum, is of another schema version, or its file ends early.
        """
        return self.window(position, 0, int(self.index["frames"][position]))

    def window(self, position: int, start: int, count: int) -> Clip:
        """Frames `start` to `start + count` of the clip at a position, reading no others from the disk.

        Raises:
            BadClip: as `clip`.
            IndexError: the clip has no such frames.
        """
        if not 0 <= start < start + count <= self.index["frames"][position]:
            raise IndexError(f"no frames {start} to {start + count} in a clip of {self.index['frames'][position]}")
        example = self.annotations(position)
        first = int(self.first_frame[position]) + start
        example["frames"] = self._frames(position, first, count)
        for key in ("boxes", "mask"):
            if key in example:
                example[key] = example[key][start : start + count]
        return self._named(position, example)

    def annotations(self, position: int) -> dict[str, Any]:
        """All of the record but its frames, as `schema.parse` gives it.

        Raises:
            BadClip: the record differs from its checksum.
        """
        shard, offset = int(self.index["shard"][position]), int(self.index["offset"][position])
        head = self._read(shard, offset, int(self.index["head_length"][position]))
        self._check(head, int(self.index["head_crc32"][position]), position)
        return parse(head)

    def verify(self) -> None:
        """Compare every shard with its sha256, reading all of it.

        Raises:
            SMCDError: a file differs from what was written.
        """
        for shard in self.shards:
            if file_sha256(shard.path) != shard.sha256:
                raise SMCDError(f"{shard.path}: differs from what was written (sha256): prepare the data set again")

    def close(self) -> None:
        """Close the files; reading opens them again."""
        with self._lock:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def __del__(self):
        if hasattr(self, "_files"):
            self.close()

    def __getstate__(self):
        return {**self.__dict__, "_files": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def _named(self, position: int, example: dict[str, Any]) -> Clip:
        try:
            clip = example_to_clip(example)
        except BadClip as error:
            raise BadClip(f"{self._where(position)}: {error.reason}", kind=error.kind) from error
        if clip.clip_id != self.clip_ids[position]:
            raise BadClip(f"{self._where(position)}: holds clip {clip.clip_id!r} instead", kind="not a record")
        return clip

    def _where(self, position: int) -> str:
        return f"{self.shards[self.index['shard'][position]].path}: {self.clip_ids[position]}"

    def _frames(self, position: int, first: int, count: int) -> list[bytes]:
        offsets = self.index["frame_offset"][first : first + count]
        lengths = self.index["frame_length"][first : first + count]
        begin = int(offsets[0])
        block = self._read(int(self.index["shard"][position]), begin, int(offsets[-1] + lengths[-1]) - begin)
        starts = (offsets - begin).tolist()
        frames = [block[start : start + length] for start, length in zip(starts, lengths.tolist(), strict=True)]
        for frame, checksum in zip(frames, self.index["frame_crc32"][first : first + count].tolist(), strict=True):
            self._check(frame, checksum, position)
        return frames

    def _check(self, data: bytes, checksum: int, position: int) -> None:
        if zlib.crc32(data) != checksum:
            raise BadClip(f"{self._where(position)}: differs from its checksum", kind="wrong checksum")

    def _read(self, shard: int, offset: int, length: int) -> bytes:
        with self._lock:
            if shard not in self._files:
                self._files[shard] = _open(self.shards[shard].path)
            file = self._files[shard]
        data = os.pread(file, length, offset)
        if len(data) < length:
            raise BadClip(f"{self.shards[shard].path}: ends within a record", kind="truncated record file")
        return data

    def _whole_records(self) -> np.ndarray:
        """Which records lie wholly within the files as they are on the disk, bool [R]."""
        sizes = np.array([_size(shard.path) for shard in self.shards], np.int64)
        for shard, size in zip(self.shards, sizes.tolist(), strict=True):
            if size > shard.size:
                raise SMCDError(f"{shard.path}: {size} bytes, {shard.size} were written: prepare the data set again")
        end = self.index["offset"] + self.index["length"] + 4  # TFRecord closes a record with 4 bytes of checksum
        return end <= sizes[self.index["shard"]] if len(end) else np.zeros(0, bool)

    def _drop_lost(self, kept: np.ndarray, max_bad_share: float) -> int:
        lost = int((~kept).sum())
        broken = [shard.path.name for shard in self.shards if _size(shard.path) < shard.size]
        if lost > max_bad_share * len(kept):
            raise SMCDError(
                f"{self.folder}: {broken[0]} is missing or truncated{_others(broken)}: {lost} of {len(kept)} records "
                f"are lost, more than the share of {max_bad_share:g} that may be: prepare the data set again"
            )
        frames = np.repeat(kept, self.index["frames"])
        self.index = {key: values[frames if key in PER_FRAME else kept] for key, values in self.index.items()}
        return lost


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `records.json`.

    Raises:
        SMCDError: no records in the folder, half-written ones, or another format or schema version.
    """
    path = folder / RECORDS
    if not path.is_file():
        if (folder / WORK).is_dir():
            raise SMCDError(f"{folder}: half-written records: run the same smcd prepare again, it goes on from there")
        raise SMCDError(f"{folder}: no records here (no {RECORDS}): smcd prepare makes them")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("splits"), dict):
        raise SMCDError(f"{path}: not of the format {FORMAT}: prepare the data set again")
    if not isinstance(content.get("name"), str):
        raise SMCDError(f"{path}: names no data set: prepare the data set again")
    for key, wanted in (("version", VERSION), ("schema_version", SCHEMA_VERSION)):
        if content.get(key) != wanted:
            raise SMCDError(
                f"{path}: {key} is {content.get(key)!r}, this program reads {wanted}: prepare the data set again"
            )
    return content


def index_path(folder: Path, split: str) -> Path:
    """The file of a split's index."""
    return folder / f"index-{split}.npz"


def write_index(path: Path, clip_ids: list[str], arrays: dict[str, list[int]]) -> None:
    """Write an index, the same bytes for the same content; `path` must be a temporary name that ends in `.npz`."""
    text = np.frombuffer("\n".join(clip_ids).encode("utf-8"), np.uint8)
    typed = {key: np.array(arrays[key], dtype) for key, dtype in INDEX_ARRAYS.items()}
    np.savez(path, clip_ids=text, **typed)


def read_index(folder: Path, split: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of an index by name, and the clip ids.

    Raises:
        SMCDError: missing, damaged, or not of the format.
    """
    path = index_path(folder, split)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in INDEX_ARRAYS}
            text = file["clip_ids"].tobytes().decode("utf-8")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SMCDError(f"{path}: missing or damaged ({error}): prepare the data set again") from error
    clip_ids = text.split("\n") if text else []
    frames = int(arrays["frames"].sum())
    wanted = {key: frames if key in PER_FRAME else len(clip_ids) for key in arrays}
    if any(arrays[key].shape != (size,) for key, size in wanted.items()):
        raise SMCDError(f"{path}: its arrays do not fit each other: prepare the data set again")
    return arrays, clip_ids


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards(folder: Path, content: dict[str, Any]) -> tuple[Shard, ...]:
    try:
        return tuple(
            Shard(folder / entry["file"], int(entry["bytes"]), int(entry["clips"]), str(entry["sha256"]))
            for entry in content["shards"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SMCDError(f"{folder / RECORDS}: its shards are not of the format: prepare the data set again") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise BadClip(f"{path}: cannot read: {error.strerror}", kind="truncated record file") from error


def _others(broken: list[str]) -> str:
    return f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
