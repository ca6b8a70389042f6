"""The training record: a clip with its boxes, the feature schema shared by all data sets, and serialization.

A record is a `tf.train.Example` as TensorFlow Datasets writes it for `features()`. Keys of its flat features:

| key                                          | kind  | value                                                       |
|----------------------------------------------|-------|-------------------------------------------------------------|
| `schema_version`                             | int64 | `SCHEMA_VERSION`                                            |
| `clip_id`, `caption`                         | bytes | UTF-8                                                       |
| `width`, `height`                            | int64 | pixels of every stored frame                                |
| `frames`                                     | bytes | T encoded jpeg or png pictures                              |
| `boxes/value`, `boxes/shape`                 | bytes | float32 little endian, `[T, N, 4]` xyxy in 0..1; int64 3    |
| `mask/value`, `mask/shape`                   | bytes | bool, one byte each, `[T, N]`, 1 = present; int64 2         |
| `labels`                                     | bytes | N texts, UTF-8                                              |
| `label_embeddings/value`, `.../shape`        | bytes | float32 `[N, D]` if the data set has them, else `[N, 0]`    |
| `fields/value`, `fields/shape`               | bytes | float16 `[T, S, S, 3]`, only in worlds whose motion is known |
| `frame_rate`                                 | int64 | frames per second, only in clips with a drawn stride        |

A record holds every object of its clip in the order of the raw data; the reader selects objects for a model. A clip may
have no objects (N = 0), and an object may be absent from all frames.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.records.tf_example import example_class

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SCHEMA_VERSION = 1
# Keys of `features()` that describe the clip: all but `schema_version`.
CLIP_KEYS = ("clip_id", "caption", "width", "height", "frames", "boxes", "mask", "labels", "label_embeddings")

JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class BadClip(Exception):
    """A clip that cannot be used. The caller counts it, reports it and leaves it out.

    Attributes:
        reason: One line that says what is wrong and where.
        kind: Category of the fault in a few words, under which reports count it.
    """

    def __init__(self, reason: str, *, kind: str = "damaged"):
        super().__init__(" ".join(reason.split()))
        self.kind = kind

    @property
    def reason(self) -> str:
        """One line that says what is wrong and where."""
        return str(self)

    def __reduce__(self):
        return _bad_clip, (self.reason, self.kind)


@dataclass(frozen=True, eq=False)
class Clip:
    """A video, or a picture as a video of one frame, with a caption and labelled boxes.

    Arrays are copied and read-only; boxes of absent objects are stored as zeros.

    Attributes:
        clip_id: Name of the clip within its data set, independent of what else is prepared.
        caption: Prompt of the clip; may be empty.
        width: Width of every frame in pixels.
        height: Height of every frame in pixels.
        frames: T encoded pictures, jpeg or png, in order.
        boxes: Boxes `[T, N, 4]`, float32, x1, y1, x2, y2 in 0..1 of the picture; with area where present.
        mask: Presence `[T, N]`, bool, True where the object is present. Numbers 0 and 1 are accepted.
        labels: Text per object.
        label_embeddings: Embeddings `[N, D]`, float32, made by the data set's authors, or None.
        fields: True motion from frame 0 `[T, S, S, 3]`, float16: displacement x, y in -1..1 of the picture and
            visibility in frame 0, on a grid whose corners are the centers of the corner pixels; None where unknown.
        frame_rate: Frames per second, at least 1; None where it is not stored.
        notes: Changes made to the raw data, a few words each, for the report; not stored in the record.

    Raises:
        BadClip: The clip has no frames, a frame that is neither jpeg nor png, inconsistent shapes, an empty label, a
            size that is not positive, or a present box that is not finite, exceeds 0..1 or has no area.
    """

    clip_id: str
    caption: str
    width: int
    height: int
    frames: tuple[bytes, ...] = field(repr=False)
    boxes: np.ndarray
    mask: np.ndarray
    labels: tuple[str, ...]
    label_embeddings: np.ndarray | None = None
    fields: np.ndarray | None = None
    frame_rate: int | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        frames, labels = tuple(self.frames), tuple(self.labels)
        boxes = np.array(self.boxes, np.float32)
        mask = np.array(self.mask) != 0
        _check_texts(self.clip_id, self.caption, labels)
        _check_frames(self.clip_id, frames, self.width, self.height)
        wanted = (len(frames), len(labels))
        if boxes.shape != (*wanted, 4) or mask.shape != wanted:
            raise BadClip(
                f"{self.clip_id}: boxes must have shape {[*wanted, 4]} and mask {list(wanted)}, got "
                f"{list(boxes.shape)} and {list(mask.shape)}",
                kind="shapes do not fit",
            )
        boxes[~mask] = 0.0
        _check_boxes(self.clip_id, boxes, mask)
        boxes.setflags(write=False)
        mask.setflags(write=False)
        values = {"frames": frames, "labels": labels, "boxes": boxes, "mask": mask, "notes": tuple(self.notes)}
        values["label_embeddings"] = _checked_embeddings(self.clip_id, self.label_embeddings, len(labels))
        values["fields"] = _checked_fields(self.clip_id, self.fields, len(frames))
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def num_frames(self) -> int:
        """Number of frames, T."""
        return len(self.frames)

    @property
    def num_objects(self) -> int:
        """Number of objects, N, including absent ones."""
        return len(self.labels)


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """Returns the TFDS features shared by every data set of the project. Does not import TensorFlow."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "schema_version": tfds.features.Scalar(dtype=np.int32),
            "clip_id": tfds.features.Text(),
            "caption": tfds.features.Text(),
            "width": tfds.features.Scalar(dtype=np.int32),
            "height": tfds.features.Scalar(dtype=np.int32),
            "frames": tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
            "boxes": tfds.features.Tensor(shape=(None, None, 4), dtype=np.float32, encoding="bytes"),
            "mask": tfds.features.Tensor(shape=(None, None), dtype=np.bool_, encoding="bytes"),
            "labels": tfds.features.Sequence(tfds.features.Text()),
            "label_embeddings": tfds.features.Tensor(shape=(None, None), dtype=np.float32, encoding="bytes"),
        }
    )


def clip_to_example(clip: Clip) -> dict[str, Any]:
    """Converts a clip to the nested dict that `features()` encodes and a TFDS builder yields."""
    embeddings = clip.label_embeddings
    return {
        "schema_version": SCHEMA_VERSION,
        "clip_id": clip.clip_id,
        "caption": clip.caption,
        "width": clip.width,
        "height": clip.height,
        "frames": list(clip.frames),
        "boxes": clip.boxes,
        "mask": clip.mask,
        "labels": list(clip.labels),
        "label_embeddings": np.zeros((clip.num_objects, 0), np.float32) if embeddings is None else embeddings,
    }


def example_to_clip(example: Mapping[str, Any]) -> Clip:
    """Converts an example decoded by TFDS, with encoded frames (`tfds.decode.SkipDecoding()`), to a clip.

    Texts may be bytes or str; arrays are NumPy arrays.

    Raises:
        BadClip: The record has another schema version, lacks a key, or `Clip` rejects its contents.
    """
    version = example.get("schema_version")
    if version is not None and int(version) != SCHEMA_VERSION:
        raise BadClip(
            f"record {_text(example.get('clip_id', '?'))}: schema version must be {SCHEMA_VERSION}, got "
            f"{int(version)}; prepare the data set again",
            kind="another schema version",
        )
    missing = [key for key in ("schema_version", *CLIP_KEYS) if key not in example]
    if missing:
        raise BadClip(f"not a record of this project: it lacks {', '.join(missing)}", kind="not a record")
    embeddings = np.asarray(example["label_embeddings"], np.float32)
    return Clip(
        clip_id=_text(example["clip_id"]),
        caption=_text(example["caption"]),
        width=int(example["width"]),
        height=int(example["height"]),
        frames=tuple(bytes(frame) for frame in example["frames"]),
        boxes=example["boxes"],
        mask=example["mask"],
        labels=tuple(_text(label) for label in example["labels"]),
        label_embeddings=None if embeddings.ndim == 2 and embeddings.shape[1] == 0 else embeddings,
        fields=example.get("fields"),
        frame_rate=example.get("frame_rate"),
    )


def serialize(clip: Clip) -> tuple[bytes, bytes]:
    """Serializes a clip into two byte strings, to be written one after the other; the same in every process.

    The first is a complete example with everything but the frames, the second an example with the frames alone.
    Concatenated protocol buffers merge, so a reader can use the first part and single frames. The bytes are those that
    TensorFlow Datasets writes for `features()`; it need not be installed.
    """
    example = clip_to_example(clip)
    rest, frames = example_class()(), example_class()()
    feature = rest.features.feature
    for key in ("schema_version", "width", "height"):
        feature[key].int64_list.value.append(example[key])
    for key in ("clip_id", "caption"):
        feature[key].bytes_list.value.append(example[key].encode())
    feature["labels"].bytes_list.value.extend(label.encode() for label in example["labels"])
    for key, dtype in (("boxes", "<f4"), ("mask", "?"), ("label_embeddings", "<f4")):
        array = np.ascontiguousarray(example[key], dtype)
        feature[f"{key}/value"].bytes_list.value.append(array.tobytes())
        feature[f"{key}/shape"].int64_list.value.extend(array.shape)
    if clip.fields is not None:  # not in `features()`, so that records of other data sets do not change
        feature["fields/value"].bytes_list.value.append(clip.fields.astype("<f2").tobytes())
        feature["fields/shape"].int64_list.value.extend(clip.fields.shape)
    if clip.frame_rate is not None:
        feature["frame_rate"].int64_list.value.append(clip.frame_rate)
    frames.features.feature["frames"].bytes_list.value.extend(example["frames"])
    # Otherwise the order of a map in a protocol buffer depends on a hash that changes from run to run.
    return rest.SerializeToString(deterministic=True), frames.SerializeToString(deterministic=True)


def deserialize(record: bytes) -> Clip:
    """Parses a record into a clip, without TensorFlow.

    Raises:
        BadClip: The bytes are not a record of this project, have another schema version, or `Clip` rejects the
            contents.
    """
    return example_to_clip(parse(record))


def parse(record: bytes) -> dict[str, Any]:
    """Parses a record into the example that `example_to_clip` takes.

    Given only the first part of a record, `frames` is empty. Keys that are absent or malformed are left out.

    Raises:
        BadClip: The bytes are not a serialized `tf.train.Example`.
    """
    from google.protobuf.message import DecodeError

    try:
        feature = example_class().FromString(record).features.feature
    except DecodeError as error:
        raise BadClip(f"a record of {len(record)} bytes cannot be parsed: {error}", kind="not a record") from error
    example: dict[str, Any] = {}
    for key in ("schema_version", "width", "height", "frame_rate"):
        if len(feature[key].int64_list.value) == 1:
            example[key] = feature[key].int64_list.value[0]
    for key in ("clip_id", "caption"):
        if len(feature[key].bytes_list.value) == 1:
            example[key] = feature[key].bytes_list.value[0]
    example["frames"] = list(feature["frames"].bytes_list.value)
    example["labels"] = list(feature["labels"].bytes_list.value)
    for key, dtype in (("boxes", "<f4"), ("mask", "?"), ("label_embeddings", "<f4"), ("fields", "<f2")):
        values, shape = feature[f"{key}/value"].bytes_list.value, tuple(feature[f"{key}/shape"].int64_list.value)
        if len(values) == 1 and len(values[0]) == np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize:
            example[key] = np.frombuffer(values[0], dtype).reshape(shape)
    return example


def _bad_clip(reason: str, kind: str) -> BadClip:
    """Rebuilds a pickled `BadClip`."""
    return BadClip(reason, kind=kind)


def _text(value: str | bytes | np.bytes_) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadClip(f"texts of a record must be UTF-8, got {bytes(value)[:40]!r}", kind="not a record") from error


def _check_texts(clip_id: str, caption: str, labels: tuple[str, ...]) -> None:
    if not isinstance(clip_id, str) or not clip_id.strip() or len(clip_id.splitlines()) > 1:
        raise BadClip(f"clip_id must be one line of text, not empty, got {clip_id!r}", kind="no clip id")
    if not isinstance(caption, str):
        raise BadClip(f"{clip_id}: caption must be text, got {caption!r:.80}", kind="caption is not text")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise BadClip(f"{clip_id}: object {index}: label must be text, got {label!r:.80}", kind="label is not text")


def _check_frames(clip_id: str, frames: tuple[bytes, ...], width: int, height: int) -> None:
    if not frames:
        raise BadClip(f"{clip_id}: the clip has no frames", kind="no frame")
    for index, frame in enumerate(frames):
        if not frame.startswith((JPEG_START, PNG_START)):
            raise BadClip(f"{clip_id}: frame {index} is neither jpeg nor png", kind="unreadable frame")
    if width < 1 or height < 1:
        raise BadClip(f"{clip_id}: size must be positive, got {width} x {height} pixels", kind="size is not positive")


def _check_boxes(clip_id: str, boxes: np.ndarray, mask: np.ndarray) -> None:
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=-1)  # False for NaN
    wrong = np.argwhere(mask & ~(inside & np.all(boxes[..., :2] < boxes[..., 2:], axis=-1)))
    if len(wrong):
        frame, index = wrong[0]
        box = ", ".join(f"{side:g}" for side in boxes[frame, index])
        raise BadClip(
            f"{clip_id}: object {index}, frame {frame}: box must satisfy x1 < x2 and y1 < y2 within 0..1, got [{box}]",
            kind="bad box",
        )


def _checked_embeddings(clip_id: str, embeddings: np.ndarray | None, objects: int) -> np.ndarray | None:
    if embeddings is None:
        return None
    embeddings = np.array(embeddings, np.float32)
    if embeddings.ndim != 2 or len(embeddings) != objects or not np.isfinite(embeddings).all():
        raise BadClip(
            f"{clip_id}: label_embeddings must be finite and have shape [{objects}, D], got {list(embeddings.shape)}",
            kind="bad label embeddings",
        )
    embeddings.setflags(write=False)
    return embeddings


def _checked_fields(clip_id: str, fields: np.ndarray | None, frames: int) -> np.ndarray | None:
    if fields is None:
        return None
    fields = np.array(fields, np.float16)
    square = fields.ndim == 4 and fields.shape[1] == fields.shape[2] and fields.shape[3] == 3
    if not square or len(fields) != frames or not np.isfinite(fields).all():
        raise BadClip(
            f"{clip_id}: fields must be finite and have shape [{frames}, S, S, 3], got {list(fields.shape)}",
            kind="bad fields",
        )
    fields.setflags(write=False)
    return fields
