"""Grounded still images published by GLIGEN (Li et al. 2023, arXiv:2301.07093): Flickr30k, SBU, VG/GQA and others.

```
FOLDER/**/NAME.tsv        one image per line: its id, a tab, a JSON object
FOLDER/**/NAME.lineidx    byte offset of each line, one per line; recomputed if missing or wrong
```

Keys of the JSON object: `image` (the file in base64), `caption`, and `annos`, each with `bbox` (x,y,width,height in
pixels), `tokens_positive` (ranges of the caption that name the object, joined by spaces) and, optionally,
`text_embedding_before` (float32 in base64: CLIP ViT-L/14 embedding of the name). If `is_det` is true, the data come
from a detection data set: `category_name` names the object, and the caption is the names joined by commas.

A clip has one frame. Its id is the path of the shard and the number of its line, from 0.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.builders import RawReport
from data_pipeline.builders.raw_clip import bad_clip_if_wrong, make_clip
from data_pipeline.records.frames import check_frame
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import MAX_COORDINATE, parse_json
from smcd_jax.tracks import PixelTracks, xywh_to_xyxy

EMBEDDING = "text_embedding_before"
_WRONG_TYPE = "wrong JSON type"
_BLOCK = 1 << 24  # bytes read at a time in search of line breaks


class Grounding:
    """Clips of GLIGEN's TSV files, all in the split `train`."""

    name = "grounding"
    splits = ("train",)

    def __init__(self, folder: Path):
        self._folder = Path(folder)
        self._shards = sorted(self._folder.rglob("*.tsv"))
        if not self._shards:
            raise SMCDError(
                f"{self._folder}: no .tsv files found; use a folder with GLIGEN's files, such as flickr/train-00.tsv",
                argument="source",
                path=self._folder,
            )
        self._notes: list[str] = []
        self._lines = [self._line_starts(shard) for shard in self._shards]
        self._first = np.concatenate([[0], np.cumsum([len(lines) for lines in self._lines])]).tolist()

    def clip_ids(self, split: str) -> list[str]:
        """Returns `PATH/NAME:LINE` of every line, sorted by path and then by number."""
        return [
            f"{shard.relative_to(self._folder).with_suffix('').as_posix()}:{line:09d}"
            for shard, lines in zip(self._shards, self._lines, strict=True)
            for line in range(len(lines))
        ]

    def clip(self, split: str, index: int) -> Clip:
        """See `Source`."""
        number = bisect_right(self._first, index) - 1
        shard, line = self._shards[number], index - self._first[number]
        where = f"{shard}: line {line}"
        clip_id = f"{shard.relative_to(self._folder).with_suffix('').as_posix()}:{line:09d}"
        item = _item(_read_line(shard, int(self._lines[number][line])), where)
        annotations = _typed(item, "annos", list, where)
        is_detection = item.get("is_det") is True
        caption = "" if is_detection else _typed(item, "caption", str, where)
        labels = tuple(_label(annotation, caption, is_detection, where=where) for annotation in annotations)
        if is_detection:
            caption = ", ".join(labels)
        boxes = np.array([_box(annotation, where) for annotation in annotations], np.float64).reshape(1, -1, 4)
        tracks = PixelTracks(xywh_to_xyxy(boxes), np.ones(boxes.shape[:2], bool), labels, size=None, source=where)
        frame = check_frame(_decode(_typed(item, "image", str, where), where), where)
        return make_clip(clip_id, caption, [frame], tracks=tracks, label_embeddings=_embeddings(annotations, where))

    def validate(self) -> RawReport:
        """See `Source`."""
        return RawReport({"train": self._first[-1]}, tuple(self._notes))

    def _line_starts(self, shard: Path) -> np.ndarray:
        index = shard.with_suffix(".lineidx")
        starts = _read_line_index(index) if index.is_file() else None
        if starts is not None and _is_line_index(shard, starts):
            return starts
        fault = "does not match its file" if index.is_file() else "not found"
        self._notes.append(f"{index}: {fault}; line offsets were computed from the .tsv file")
        return _find_lines(shard)


def _read_line_index(path: Path) -> np.ndarray | None:
    fields = path.read_bytes().split()
    if not all(field.isdigit() and len(field) < 19 for field in fields):
        return None
    return np.array(fields, np.int64)


def _is_line_index(shard: Path, starts: np.ndarray) -> bool:
    """Returns whether the starts are increasing offsets of lines, including the first and the last line."""
    size = shard.stat().st_size
    if len(starts) == 0 or starts[0] != 0 or np.any(np.diff(starts) <= 0) or starts[-1] >= size:
        return size == 0 and len(starts) == 0
    with shard.open("rb", buffering=0) as file:
        for start in starts[1:].tolist():
            file.seek(start - 1)
            if file.read(1) != b"\n":
                return False
        file.seek(int(starts[-1]))
        line_end = _next_newline(file)
    return line_end >= size - 1


def _next_newline(file) -> int:
    position = file.tell()
    while block := file.read(_BLOCK):
        found = block.find(b"\n")
        if found >= 0:
            return position + found
        position += len(block)
    return position


def _find_lines(shard: Path) -> np.ndarray:
    starts, position = [0], 0
    with shard.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            starts.extend((newlines + position + 1).tolist())
            position += len(block)
    # The last newline ends the file. Without it, the last line is truncated, which is detected when it is read.
    return np.array([start for start in starts if start < position], np.int64)


def _read_line(shard: Path, start: int) -> bytes:
    try:
        with shard.open("rb") as file:
            file.seek(start)
            return file.readline()
    except OSError as error:
        raise BadClip(f"{shard}: cannot be read ({error.strerror})", kind="unreadable shard") from error


def _item(line: bytes, where: str) -> dict[str, Any]:
    columns = line.rstrip(b"\r\n").split(b"\t")
    if len(columns) != 2:
        raise BadClip(
            f"{where}: must have two columns, an id and a JSON object, got {len(columns)}", kind="not two columns"
        )
    with bad_clip_if_wrong("not JSON"):
        try:
            item = parse_json(columns[1].decode("utf-8"), where)
        except UnicodeDecodeError as error:
            raise BadClip(f"{where}: not UTF-8", kind="not JSON") from error
    if not isinstance(item, dict):
        raise BadClip(f"{where}: must hold a JSON object, got {item!r:.40}", kind=_WRONG_TYPE)
    return item


def _typed(item: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = item.get(key)
    if not isinstance(value, kind):
        raise BadClip(f"{where}: {key} must be a {kind.__name__}, got {value!r:.40}", kind=_WRONG_TYPE)
    return value


def _label(annotation: Any, caption: str, is_detection: bool, *, where: str) -> str:
    if not isinstance(annotation, dict):
        raise BadClip(f"{where}: annotations must be JSON objects, got {annotation!r:.40}", kind=_WRONG_TYPE)
    if is_detection:
        return _typed(annotation, "category_name", str, where)
    pieces = []
    for span in _typed(annotation, "tokens_positive", list, where):
        is_pair = isinstance(span, list) and len(span) == 2 and all(type(side) is int for side in span)
        if not is_pair or not 0 <= span[0] < span[1] <= len(caption):
            raise BadClip(
                f"{where}: tokens_positive must be ranges of the caption, got {span!r:.40}",
                kind="label is not in the caption",
            )
        pieces.append(caption[span[0] : span[1]])
    return " ".join(pieces)


def _box(annotation: dict[str, Any], where: str) -> list[float]:
    box = _typed(annotation, "bbox", list, where)
    numbers = [side for side in box if isinstance(side, int | float) and not isinstance(side, bool)]
    if len(box) != 4 or len(numbers) != 4 or not all(abs(side) <= MAX_COORDINATE for side in numbers):
        raise BadClip(f"{where}: bbox must be x,y,width,height in pixels, got {box!r:.60}", kind=_WRONG_TYPE)
    return [float(side) for side in numbers]


def _embeddings(annotations: list[dict[str, Any]], where: str) -> np.ndarray | None:
    embedded = [annotation for annotation in annotations if EMBEDDING in annotation]
    if not embedded:
        return None
    rows = [_decode(_typed(annotation, EMBEDDING, str, where), where) for annotation in embedded]
    if len(rows) < len(annotations) or len({len(row) for row in rows}) > 1 or len(rows[0]) % 4 or not rows[0]:
        raise BadClip(
            f"{where}: {EMBEDDING} must be present and of equal length in all annotations", kind="bad label embeddings"
        )
    return np.stack([np.frombuffer(row, "<f4") for row in rows])


def _decode(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadClip(f"{where}: not valid base64 ({error})", kind="not base64") from error
