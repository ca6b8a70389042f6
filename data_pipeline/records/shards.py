"""Writing one shard of records: atomic, with the same bytes in any process and after any interruption."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.builders import Source
from data_pipeline.records.frames import StoredFrames
from data_pipeline.records.index import PER_FRAME, PER_RECORD
from data_pipeline.records.reader import WORK
from data_pipeline.records.schema import BadClip, Clip, serialize
from data_pipeline.records.tfrecord import FOOTER_BYTES, HEADER_BYTES, frame_record
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_json

# A protocol buffer holds at most 2 GiB; captions and boxes need little of it.
MAX_CLIP_BYTES = 1900 << 20


@dataclass(frozen=True)
class ShardTask:
    """A range of a split's clips and the file to write them to.

    Attributes:
        folder: Folder of the records.
        file: Name of the shard.
        split: Name of the source's split.
        start: Index of the first clip.
        stop: Index after the last clip.
        stored: Size at which frames are stored.
    """

    folder: Path
    file: str
    split: str
    start: int
    stop: int
    stored: StoredFrames = field(default_factory=StoredFrames)

    @property
    def path(self) -> Path:
        """Path of the shard."""
        return self.folder / self.file

    @property
    def side_path(self) -> Path:
        """Path of the JSON file that describes the shard, for the index and the report."""
        return self.folder / WORK / f"{self.file}.json"


def finished_shard(task: ShardTask) -> dict[str, Any] | None:
    """Returns the description of a complete shard (see `write_shard`), or None if it has to be written."""
    if not task.path.is_file() or not task.side_path.is_file():
        return None
    try:
        side = json.loads(task.side_path.read_text(encoding="utf-8"))
    except ValueError:  # the disk lost the data; the shard is written again
        return None
    return side if task.path.stat().st_size == side["bytes"] else None


def forget_outdated(task: ShardTask, inputs: Sequence[str]) -> None:
    """Removes a shard that is to be written again: it has bad clips, or its raw files have changed since.

    Args:
        task: Shard.
        inputs: Hash of the raw files of every clip of the split; empty where they are not watched.
    """
    side = finished_shard(task)
    if side is not None and (side["skipped"] or side.get("inputs", []) != list(inputs[task.start : task.stop])):
        task.path.unlink()
        task.side_path.unlink()


def write_shard(source: Source, task: ShardTask, advance: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Writes a shard unless it is complete already.

    Args:
        source: Source of the clips.
        task: Shard to write.
        advance: Function called after each clip.

    Returns:
        Description of the shard as JSON values: `file`, `bytes`, `sha256`, `clip_ids`; the index entries per record
        and, as a list per record, per frame; the number of `boxes`; `skipped` (index in the split, kind, reason); and
        `notes` with their counts.

    Raises:
        SMCDError: The shard cannot be written.
    """
    finished = finished_shard(task)
    if finished is not None:
        return finished
    fingerprint = getattr(source, "fingerprint", None)
    # Computed before the clips are read, so that the next call notices files that change in the meantime.
    inputs = [fingerprint(task.split, index) for index in range(task.start, task.stop)] if fingerprint else []
    lists = ("clip_ids", *PER_RECORD, *PER_FRAME, "skipped")
    side: dict[str, Any] = {"file": task.file, "bytes": 0, "boxes": 0, **{key: [] for key in lists}}
    notes: Counter[str] = Counter()
    temporary = task.side_path.with_name(f"{task.file}.{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for index in range(task.start, task.stop):
                try:
                    clip = _clip(source, task, index)
                    record = frame_record(_add(side, clip))
                    notes.update(clip.notes)
                    digest.update(record)
                    file.write(record)
                except BadClip as error:
                    side["skipped"].append({"index": index, "kind": error.kind, "reason": error.reason})
                advance()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.filename is not None and str(error.filename) != str(temporary):
            raise
        raise SMCDError(
            f"{temporary}: cannot be written ({error.strerror}); free disk space and rerun the command", path=temporary
        ) from error
    side |= {"notes": dict(sorted(notes.items())), "sha256": digest.hexdigest(), "inputs": inputs}
    # The description is written first, so that a shard under its final name always has one.
    write_json(task.side_path, side)
    os.replace(temporary, task.path)
    return side


def _clip(source: Source, task: ShardTask, index: int) -> Clip:
    return task.stored.apply(source.clip(task.split, index))


def _add(side: dict[str, Any], clip: Clip) -> bytes:
    """Returns the clip's record and adds its entries, with their offsets in the shard, to `side`."""
    size = sum(map(len, clip.frames))
    if size > MAX_CLIP_BYTES:
        raise BadClip(
            f"{clip.clip_id}: {clip.num_frames} frames must fit in {MAX_CLIP_BYTES >> 20} MiB, got {size >> 20} MiB; "
            "shorten the clip, or use --short_side or --frame_size",
            kind="too long",
        )
    head, frames = serialize(clip)
    record = head + frames
    offset = side["bytes"] + HEADER_BYTES
    side["bytes"] = offset + len(record) + FOOTER_BYTES
    entry = {
        "clip_ids": clip.clip_id,
        "offset": offset,
        "length": len(record),
        "head_length": len(head),
        "head_crc32": zlib.crc32(head),
        "frames": clip.num_frames,
        "objects": clip.num_objects,
        "frame_offset": _frame_offsets(record, clip, offset=offset, start=len(head)),
        "frame_length": [len(frame) for frame in clip.frames],
        "frame_crc32": [zlib.crc32(frame) for frame in clip.frames],
    }
    for key, value in entry.items():
        side[key].append(value)
    side["boxes"] += int(clip.mask.sum())
    return record


def _frame_offsets(record: bytes, clip: Clip, *, offset: int, start: int) -> list[int]:
    """Returns the offset of each frame in the shard; frames are stored in order, a few bytes apart."""
    offsets = []
    for frame in clip.frames:
        start = record.index(frame, start)
        offsets.append(offset + start)
        start += len(frame)
    return offsets
