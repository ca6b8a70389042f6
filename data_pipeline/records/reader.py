"""Random access to a folder of prepared records: whole clips, or a few frames of one.

Layout of the folder, as written by `smcd prepare`:

```
FOLDER/
  records.json                         contents of the folder; written last, so without it the folder is incomplete
  report.json                          counts of clips, frames and objects, and the reasons for skipped clips
  dataset_info.json, features.json     metadata of TensorFlow Datasets: `tfds.builder_from_directory(FOLDER)`
  NAME-SPLIT.tfrecord-00000-of-00004   shards: records of `records.schema` in the order of the source's clip ids
  index-SPLIT.npz                      location of every record and every frame of the split (`records.index`)
```
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.checks import require_bad_share
from data_pipeline.records.index import PER_FRAME, index_path, read_index
from data_pipeline.records.schema import SCHEMA_VERSION, BadClip, Clip, example_to_clip, parse
from data_pipeline.records.tfrecord import FOOTER_BYTES
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import read_json

FORMAT, VERSION = "smcd-records", 1
RECORDS, REPORT, WORK = "records.json", "report.json", ".prepare"


@dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
        path: Path of the file.
        size: Expected size in bytes.
        clips: Number of records.
        sha256: Hash of the file in hexadecimal.
    """

    path: Path
    size: int
    clips: int
    sha256: str


class RecordFolder:
    """One split of a folder of records, read by position. Thread-safe and picklable.

    Attributes:
        folder: Path of the folder.
        name: Name of the data set.
        split: Name of the split.
        shards: Files of the split.
        clip_ids: Clip ids by position.
        index: Arrays of `index-SPLIT.npz` by name.
        first_frame: Start of each record's entries in `frame_offset` and `frame_length`, int64 [R + 1].
        lost: Number of records lost with missing or truncated shards; the attributes above leave them out.
        sha256: Hash of the shards' hashes, which identifies the records.
    """

    def __init__(self, folder: str | Path, split: str, *, max_bad_share: float = 0.0):
        """Opens a split.

        Args:
            folder: Folder written by `smcd prepare`.
            split: Name of the split.
            max_bad_share: Largest share of records, 0 to 1, that may be lost with missing or truncated shards.

        Raises:
            SMCDError: The folder holds no complete records, or has another format or schema version; the split does
                not exist; the index is damaged; or more records are lost than `max_bad_share` allows.
        """
        self.folder, self.split = Path(folder), split
        content = read_manifest(self.folder)
        if split not in content["splits"]:
            raise SMCDError(
                f"{self.folder}: split must be one of {', '.join(content['splits'])}, got {split!r}",
                argument="split",
                path=self.folder,
                value=split,
            )
        self.name: str = content["name"]
        self.shards = _shards(self.folder, content["splits"][split])
        self.index, clip_ids = read_index(self.folder, split)
        if len(clip_ids) != sum(shard.clips for shard in self.shards):
            path = index_path(self.folder, split)
            raise SMCDError(f"{path}: does not match {RECORDS}; prepare the data set again", path=path)
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
        """Returns the position of a clip.

        Raises:
            SMCDError: The split has no clip with this id.
        """
        if self._positions is None:
            self._positions = {clip_id: position for position, clip_id in enumerate(self.clip_ids)}
        if clip_id not in self._positions:
            raise SMCDError(
                f"{self.folder}: no clip {clip_id!r} in split {self.split!r}; check the id and the data set",
                argument="clip_id",
                path=self.folder,
                value=clip_id,
            )
        return self._positions[clip_id]

    def clip(self, position: int) -> Clip:
        """Reads the whole clip at a position.

        Raises:
            BadClip: The record does not match its checksum, has another schema version, or its file is truncated.
        """
        return self.window(position, 0, int(self.index["frames"][position]))

    def window(self, position: int, start: int, count: int) -> Clip:
        """Reads frames `start` to `start + count` (exclusive) of the clip at a position, and no others.

        Raises:
            BadClip: See `clip`.
            IndexError: The range is empty or exceeds the clip.
        """
        if not 0 <= start < start + count <= self.index["frames"][position]:
            frames = int(self.index["frames"][position])
            raise IndexError(f"frames {start} to {start + count} are out of range for a clip of {frames} frames")
        example = self.annotations(position)
        first = int(self.first_frame[position]) + start
        example["frames"] = self._frames(position, first, count)
        for key in ("boxes", "mask", "fields"):
            if key in example:
                example[key] = example[key][start : start + count]
        return self._named(position, example)

    def annotations(self, position: int) -> dict[str, Any]:
        """Reads everything but the frames of a record, in the form of `schema.parse`.

        Raises:
            BadClip: The record does not match its checksum.
        """
        shard, offset = int(self.index["shard"][position]), int(self.index["offset"][position])
        head = self._read(shard, offset, int(self.index["head_length"][position]))
        self._check(head, int(self.index["head_crc32"][position]), position)
        return parse(head)

    def verify(self) -> None:
        """Reads every shard and compares it with its sha256.

        Raises:
            SMCDError: A file does not match its sha256.
        """
        for shard in self.shards:
            if file_sha256(shard.path) != shard.sha256:
                raise SMCDError(f"{shard.path}: does not match its sha256; prepare the data set again", path=shard.path)

    def close(self) -> None:
        """Closes the files; the next read opens them again."""
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
            raise BadClip(f"{self._where(position)}: the record holds clip {clip.clip_id!r}", kind="not a record")
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
            raise BadClip(f"{self._where(position)}: does not match its checksum", kind="wrong checksum")

    def _read(self, shard: int, offset: int, length: int) -> bytes:
        with self._lock:
            if shard not in self._files:
                self._files[shard] = _open(self.shards[shard].path)
            file = self._files[shard]
        data = os.pread(file, length, offset)
        if len(data) < length:
            raise BadClip(f"{self.shards[shard].path}: the file is truncated", kind="truncated record file")
        return data

    def _whole_records(self) -> np.ndarray:
        """Returns which records lie completely within the files on disk, bool [R]."""
        sizes = np.array([_size(shard.path) for shard in self.shards], np.int64)
        for shard, size in zip(self.shards, sizes.tolist(), strict=True):
            if size > shard.size:
                raise SMCDError(
                    f"{shard.path}: size must be {shard.size} bytes, got {size}; prepare the data set again",
                    path=shard.path,
                    value=size,
                )
        end = self.index["offset"] + self.index["length"] + FOOTER_BYTES
        return end <= sizes[self.index["shard"]] if len(end) else np.zeros(0, bool)

    def _drop_lost(self, kept: np.ndarray, max_bad_share: float) -> int:
        lost = int((~kept).sum())
        broken = [shard.path for shard in self.shards if _size(shard.path) < shard.size]
        example, folder = f"{broken[0].name} is missing or truncated", str(self.folder)
        require_bad_share(lost, len(kept), max_bad_share, where=folder, example=example, path=broken[0])
        frames = np.repeat(kept, self.index["frames"])
        self.index = {key: values[frames if key in PER_FRAME else kept] for key, values in self.index.items()}
        return lost


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads `records.json`.

    Raises:
        SMCDError: The folder holds no records or incomplete ones, or has another format or schema version.
    """
    path = folder / RECORDS
    if not path.is_file():
        if (folder / WORK).is_dir():
            raise SMCDError(
                f"{folder}: the records are incomplete; rerun the 'smcd prepare' command that started them, which "
                "resumes the work",
                path=folder / WORK,
            )
        raise SMCDError(f"{folder}: no records found ({RECORDS} is missing); make them with 'smcd prepare'", path=path)
    content = read_json(path)
    content = content if isinstance(content, dict) else {}
    for key, wanted in (("format", FORMAT), ("version", VERSION), ("schema_version", SCHEMA_VERSION)):
        if content.get(key) != wanted:
            raise SMCDError(
                f"{path}: {key} must be {wanted!r}, got {content.get(key)!r}; prepare the data set again",
                argument=key,
                path=path,
                value=content.get(key),
            )
    for key, kind, wanted in (("name", str, "a string"), ("splits", dict, "a JSON object")):
        if not isinstance(content.get(key), kind):
            raise SMCDError(
                f"{path}: {key} must be {wanted}, got {content.get(key)!r:.60}; prepare the data set again",
                argument=key,
                path=path,
                value=content.get(key),
            )
    return content


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shards(folder: Path, content: dict[str, Any]) -> tuple[Shard, ...]:
    try:
        return tuple(
            Shard(folder / entry["file"], int(entry["bytes"]), int(entry["clips"]), str(entry["sha256"]))
            for entry in content["shards"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SMCDError(
            f"{folder / RECORDS}: the list of shards is damaged; prepare the data set again",
            argument="shards",
            path=folder / RECORDS,
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise BadClip(f"{path}: cannot be read ({error.strerror})", kind="truncated record file") from error
