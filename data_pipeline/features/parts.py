"""Writing one part of a feature cache: atomic, and with the same bytes after any interruption."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from data_pipeline.features.cache import HALF, INDEX_DTYPES, FeaturePart, data_path, index_path
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import JPEG_START, BadClip, Clip, example_to_clip
from data_pipeline.transforms import decode_frame
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically

if TYPE_CHECKING:
    from data_pipeline.features.writer import FeatureEncoders

_FRAMES_PER_TASK = 16


@dataclass(frozen=True)
class PartReport:
    """Unusable frames of one part.

    Attributes:
        unusable: Number of unusable frames.
        reasons: Reason by clip id.
    """

    unusable: int
    reasons: Mapping[str, str]


@dataclass
class _Index:
    """Entries of a part's index, collected while its data are written; see `features.cache` for the arrays."""

    clip_ids: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)  # None if the record could not be read
    frames: list[int] = field(default_factory=list)
    labels: list[tuple[str, ...]] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    mask: list[np.ndarray] = field(default_factory=list)
    usable: list[bool] = field(default_factory=list)
    moments_crc32: list[int] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


class PartWriter:
    """Reads records, encodes their frames and texts, and writes parts."""

    def __init__(
        self,
        records: RecordFolder,
        encoders: FeatureEncoders,
        pool: Executor,
        *,
        ahead: int,
        advance: Callable[[int], Any],
    ):
        """Stores the settings that all parts share.

        Args:
            records: Split whose features are written.
            encoders: Encoders of the model.
            pool: Executor that decodes frames.
            ahead: Largest number of decoding tasks in flight.
            advance: Function called with the number of frames encoded in each batch.
        """
        self._records, self._encoders, self._pool = records, encoders, pool
        self._ahead, self._advance = ahead, advance

    def write(self, folder: Path, number: int, clips: range) -> PartReport:
        """Writes one part.

        Raises:
            SMCDError: An encoder returned values that are not finite, or the part cannot be written.
        """
        index = _Index()
        with write_atomically(data_path(folder, number)) as temporary, temporary.open("wb") as file:
            for frames, usable in self._batches(clips, index):
                self._write_moments(file, frames, usable, index)
                self._advance(len(frames))
            captions = list(dict.fromkeys(caption for caption in index.captions if caption is not None))
            texts_crc32 = self._write_texts(file, captions)
        labels = list(dict.fromkeys(label for clip in index.labels for label in clip))
        text_of = {None: -1} | {caption: number for number, caption in enumerate(captions)}
        label_of = {label: number for number, label in enumerate(labels)}
        arrays = {
            "frames": index.frames,
            "usable": index.usable,
            "moments_crc32": index.moments_crc32,
            "text": [text_of[caption] for caption in index.captions],
            "texts_crc32": texts_crc32,
            "objects": [len(clip) for clip in index.labels],
            "label": [label_of[label] for clip in index.labels for label in clip],
            "labels": self._encoded_labels(labels),
            "boxes": np.concatenate([boxes.reshape(-1, 4) for boxes in index.boxes]),
            "mask": np.concatenate([mask.reshape(-1) for mask in index.mask]),
        }
        typed = {key: np.asarray(arrays[key], dtype) for key, dtype in INDEX_DTYPES.items()}
        clip_ids = np.frombuffer("\n".join(index.clip_ids).encode("utf-8"), np.uint8)
        # The index is written last: a part with an index is complete.
        with write_atomically(index_path(folder, number)) as temporary:
            np.savez(temporary, clip_ids=clip_ids, **typed)
        return PartReport(index.usable.count(False), index.reasons)

    def _batches(self, clips: range, index: _Index) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the frames of the clips in order, in batches for the encoder."""
        size = self._encoders.frame_batch
        frames, usable = [], []
        for chunk, good in self._decoded(clips, index):
            frames.extend(chunk)
            usable.extend(good)
            while len(frames) >= size:
                yield np.stack(frames[:size]), np.array(usable[:size])
                del frames[:size], usable[:size]
        if frames:
            yield np.stack(frames), np.array(usable)

    def _decoded(self, clips: range, index: _Index) -> Iterator[tuple[np.ndarray, list[bool]]]:
        waiting: deque = deque()
        for position in clips:
            readable = self._enter(position, index)
            count = int(self._records.index["frames"][position])
            for start in range(0, count, _FRAMES_PER_TASK):
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
                frames = range(start, min(start + _FRAMES_PER_TASK, count))
                decode = self._decode if readable else self._blank
                waiting.append(self._pool.submit(decode, position, frames, index.reasons))
        while waiting:
            yield waiting.popleft().result()

    def _enter(self, position: int, index: _Index) -> bool:
        """Adds everything but a record's frames to the index; returns whether the record is readable."""
        clip_id, count = self._records.clip_ids[position], int(self._records.index["frames"][position])
        clip: Clip | None = None
        try:
            # Placeholders for the frames, which are read later one by one, so that a damaged frame does not affect
            # others.
            clip = example_to_clip(self._records.annotations(position) | {"frames": [JPEG_START] * count})
        except BadClip as error:
            index.reasons[clip_id] = error.reason
        index.clip_ids.append(clip_id)
        index.frames.append(count)
        index.captions.append(None if clip is None else clip.caption)
        index.labels.append(() if clip is None else clip.labels)
        index.boxes.append(np.zeros((count, 0, 4), np.float32) if clip is None else clip.boxes)
        index.mask.append(np.zeros((count, 0), bool) if clip is None else clip.mask)
        return clip is not None

    def _decode(self, position: int, numbers: range, reasons: dict[str, str]) -> tuple[np.ndarray, list[bool]]:
        frames, usable = self._blank(position, numbers, reasons)
        clip_id = self._records.clip_ids[position]
        for index, number in enumerate(numbers):
            where = f"{self._records.folder}: clip {clip_id}, frame {number}"
            try:
                [data] = self._records.window(position, number, 1).frames
                frames[index] = decode_frame(data, height=frames.shape[1], width=frames.shape[2], where=where)
                usable[index] = True
            except BadClip as error:
                reasons.setdefault(clip_id, error.reason)
        return frames, usable

    def _blank(self, position: int, numbers: range, reasons: dict[str, str]) -> tuple[np.ndarray, list[bool]]:
        shape = (len(numbers), self._encoders.height, self._encoders.width, 3)
        return np.zeros(shape, np.uint8), [False] * len(numbers)

    def _write_moments(self, file: BinaryIO, frames: np.ndarray, usable: np.ndarray, index: _Index) -> None:
        moments = half_precision(self._encoders.moments(frames), "moments")
        moments[~usable] = 0
        file.write(moments.tobytes())
        index.usable.extend(usable.tolist())
        index.moments_crc32.extend(zlib.crc32(frame) for frame in moments)

    def _write_texts(self, file: BinaryIO, captions: Sequence[str]) -> list[int]:
        checksums = []
        for some in _in_batches(captions, self._encoders.text_batch):
            texts = half_precision(self._encoders.texts(some), "texts")
            file.write(texts.tobytes())
            checksums.extend(zlib.crc32(text) for text in texts)
        return checksums

    def _encoded_labels(self, labels: Sequence[str]) -> np.ndarray:
        if not labels:
            return np.zeros((0, self._encoders.labels([" "]).shape[1]), HALF)
        encoded = [self._encoders.labels(some) for some in _in_batches(labels, self._encoders.text_batch)]
        return half_precision(np.concatenate(encoded), "labels")


def finished_part(folder: Path, number: int, manifest: Mapping[str, Any]) -> PartReport | None:
    """Returns the report of a complete part, or None if the part has not been written.

    Raises:
        SMCDError: The part is damaged.
    """
    if not index_path(folder, number).is_file():
        return None
    part = FeaturePart(folder, number, manifest)
    usable = part.index["usable"]
    bad = np.unique(np.repeat(np.arange(len(part.clip_ids)), part.index["frames"])[~usable])
    reasons = {part.clip_ids[clip]: f"{part.clip_ids[clip]}: unreadable in an earlier run" for clip in bad}
    return PartReport(int((~usable).sum()), reasons)


def half_precision(values: Any, name: str) -> np.ndarray:
    """Returns values as float16 in C order.

    Args:
        values: Array of any shape.
        name: Name of the values in the error message.

    Raises:
        SMCDError: Some values are not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):
        halved = np.array(values, HALF, order="C")
    if not np.isfinite(halved).all():
        raise SMCDError(
            f"{name} must be finite in float16, got NaN, infinity or values above 65504; "
            "compute in float32 (--dtype float32) or use other weights",
            argument=name,
        )
    return halved


def _in_batches(texts: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(texts), size):
        yield list(texts[start : start + size])
