"""The training record: one clip with its boxes, the one feature schema of all data sets, and its bytes both ways.

A record is a `tf.train.Example` as TensorFlow Datasets writes it for `features()`; the keys of its flat features:

| key                                          | kind  | value                                                       |
|----------------------------------------------|-------|-------------------------------------------------------------|
| `schema_version`                             | int64 | `SCHEMA_VERSION`                                            |
| `clip_id`, `caption`                         | bytes | UTF-8                                                       |
| `width`, `height`                            | int64 | pixels of every stored frame                                |
| `frames`                                     | bytes | T encoded jpeg or png pictures                              |
| `boxes/value`, `boxes/shape`                 | bytes | float32 little endian, `[T, N, 4]` xyxy in 0..1; int64 3    |
| `mask/value`, `mask/shape`                   | bytes | bool, one byte each, `[T, N]`, 1 = present; int64 2         |
| `labels`                                     | bytes | N texts, UTF-8                                              |
| `label_embeddings/value`, `.../shape`        | bytes | float32 `[N, D]` as the data set came with, `[N, 0]` if not |

A record holds every object of its clip in the order of the raw data: how many a model takes, and which, is the reader's
choice. A clip may have no object (N = 0), and an object may be absent from all frames.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SCHEMA_VERSION = 1
# The keys of `features()` that hold the clip: all but `schema_version`.
CLIP_KEYS = ("clip_id", "caption", "width", "height", "frames", "boxes", "mask", "labels", "label_embeddings")

JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


class BadClip(Exception):
    """A clip that cannot be used: it is counted, shown and left out.

    Attributes:
        reason: one line: what is wrong, and where.
        kind: a few words that are the same for all clips with this fault, under which the report counts it.
    """

    def __init__(self, reason: str, *, kind: str = "damaged"):
        super().__init__(" ".join(reason.split()))
        self.kind = kind

    @property
    def reason(self) -> str:
        """What is wrong, and where, in one line."""
        return str(self)

    def __reduce__(self):
        return _bad_clip, (self.reason, self.kind)


@dataclass(frozen=True, eq=False)
class Clip:
    """A video (or a picture: one frame) with a caption and labelled boxes.

    Arrays are copied and read-only; boxes of absent objects are stored as zeros.

    Attributes:
        clip_id: names the clip within its data set; never changes, whatever else is prepared.
        caption: the prompt that goes with the clip; may be empty.
        width: pixels of every frame.
        height: pixels of every frame.
        frames: T encoded pictures, jpeg or png, in order.
        boxes: float32 `[T, N, 4]`, xyxy in 0..1 of the picture, with area where present.
        mask: bool `[T, N]`, True where the object is present. 0/1 numbers are accepted.
        labels: one text per object.
        label_embeddings: float32 `[N, D]` that came with the data set, or None. Their encoder is the data set's.
        notes: what was changed on the way from the raw data, in a few words each, for the report; not in the record.

    Raises:
        BadClip: no frame, a frame that is neither jpeg nor png, shapes that do not fit, an empty label, a size that is
            not positive, or a present box that is not finite, not within 0..1 or without area.
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
                f"{self.clip_id}: {wanted[0]} frames and {wanted[1]} labels do not fit boxes {list(boxes.shape)} and "
                f"mask {list(mask.shape)}",
                kind="shapes do not fit",
            )
        boxes[~mask] = 0.0
        _check_boxes(self.clip_id, boxes, mask)
        boxes.setflags(write=False)
        mask.setflags(write=False)
        values = {"frames": frames, "labels": labels, "boxes": boxes, "mask": mask, "notes": tuple(self.notes)}
        values["label_embeddings"] = _checked_embeddings(self.clip_id, self.label_embeddings, len(labels))
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def num_frames(self) -> int:
        """Number of frames, T."""
        return len(self.frames)

    @property
    def num_objects(self) -> int:
        """Number of objects, N, absent ones included."""
        return len(self.labels)


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """The features of every data set of the project, for TensorFlow Datasets. Does not import TensorFlow."""
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
    """The clip as a nested dict that `features()` encodes; also what a TFDS builder yields."""
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
    """The clip of an example as TFDS decodes it with its frames left encoded (`tfds.decode.SkipDecoding()`).

    Texts may be bytes or str; arrays NumPy.

    Raises:
        BadClip: a record of another schema version, a missing key, or contents that `Clip` refuses.
    """
    version = example.get("schema_version")
    if version is not None and int(version) != SCHEMA_VERSION:
        raise BadClip(
            f"record {_text(example.get('clip_id', '?'))} has schema version {int(version)}, this program reads "
            f"{SCHEMA_VERSION}: prepare the data set again",
            kind="another schema version",
        )
    missing = [key for key in ("schema_version", *CLIP_KEYS) if key not in example]
    if missing:
        raise BadClip(f"a record has no {', '.join(missing)}: not a record of this project", kind="not a record")
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
    )


def serialize(clip: Clip) -> tuple[bytes, bytes]:
    """The bytes of the record in two parts, to be written one after the other; the same in every process.

    The first is a whole example of its own with all but the frames, the second one with the frames alone: a protocol
    buffer that is the concatenation of two is their union. So a reader may take the first part and single frames.
    """
    from tensorflow_datasets.core.example_serializer import ExampleSerializer
    from tensorflow_datasets.proto import tf_example_pb2

    encoded = features().encode_example(clip_to_example(clip))
    rest = ExampleSerializer(features().get_serialized_info()).get_tf_example(encoded)
    frames = tf_example_pb2.Example()
    frames.features.feature["frames"].CopyFrom(rest.features.feature["frames"])
    del rest.features.feature["frames"]
    # Without this a protocol buffer's map is written in the order of a hash that changes from run to run.
    return rest.SerializeToString(deterministic=True), frames.SerializeToString(deterministic=True)


def deserialize(record: bytes) -> Clip:
    """The clip of a record's bytes, without TensorFlow.

    Raises:
        BadClip: not a record of this project, of another schema version, or contents that `Clip` refuses.
    """
    return example_to_clip(parse(record))


def parse(record: bytes) -> dict[str, Any]:
    """A record, or its first part alone, as the example that `example_to_clip` takes; `frames` is then empty.

    Keys that are absent or not of their form are left out.

    Raises:
        BadClip: not a protocol buffer of an example.
    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        feature = tf_example_pb2.Example.FromString(record).features.feature
    except DecodeError as error:
        raise BadClip(f"a record of {len(record)} bytes cannot be parsed: {error}", kind="not a record") from error
    example: dict[str, Any] = {}
    for key in ("schema_version", "width", "height"):
        if len(feature[key].int64_list.value) == 1:
            example[key] = feature[key].int64_list.value[0]
    for key in ("clip_id", "caption"):
        if len(feature[key].bytes_list.value) == 1:
            example[key] = feature[key].bytes_list.value[0]
    example["frames"] = list(feature["frames"].bytes_list.value)
    example["labels"] = list(feature["labels"].bytes_list.value)
    for key, dtype in (("boxes", "<f4"), ("mask", "?"), ("label_embeddings", "<f4")):
        values, shape = feature[f"{key}/value"].bytes_list.value, tuple(feature[f"{key}/shape"].int64_list.value)
        if len(values) == 1 and len(values[0]) == np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize:
            example[key] = np.frombuffer(values[0], dtype).reshape(shape)
    return example


def _bad_clip(reason: str, kind: str) -> BadClip:
    """Rebuild the exception on its way from another process."""
    return BadClip(reason, kind=kind)


def _text(value: str | bytes | np.bytes_) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadClip(f"a text of the record is not UTF-8: {bytes(value)[:40]!r}", kind="not a record") from error


def _check_texts(clip_id: str, caption: str, labels: tuple[str, ...]) -> None:
    if not isinstance(clip_id, str) or not clip_id.strip() or len(clip_id.splitlines()) > 1:
        raise BadClip(f"a clip needs an id of one line that is not empty, got {clip_id!r}", kind="no clip id")
    if not isinstance(caption, str):
        raise BadClip(f"{clip_id}: the caption must be text, got {caption!r:.80}", kind="caption is not text")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise BadClip(f"{clip_id}: object {index}: label must be text, got {label!r:.80}", kind="label is not text")


def _check_frames(clip_id: str, frames: tuple[bytes, ...], width: int, height: int) -> None:
    if not frames:
        raise BadClip(f"{clip_id}: no frame", kind="no frame")
    for index, frame in enumerate(frames):
        if not frame.startswith((JPEG_START, PNG_START)):
            raise BadClip(f"{clip_id}: frame {index} is neither jpeg nor png", kind="unreadable frame")
    if width < 1 or height < 1:
        raise BadClip(f"{clip_id}: a picture of {width} x {height} pixels", kind="size is not positive")


def _check_boxes(clip_id: str, boxes: np.ndarray, mask: np.ndarray) -> None:
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=-1)  # False for NaN
    wrong = np.argwhere(mask & ~(inside & np.all(boxes[..., :2] < boxes[..., 2:], axis=-1)))
    if len(wrong):
        frame, index = wrong[0]
        box = ", ".join(f"{side:g}" for side in boxes[frame, index])
        raise BadClip(
            f"{clip_id}: object {index}, frame {frame}: box [{box}] is not x1 < x2, y1 < y2 within 0..1",
            kind="bad box",
        )


def _checked_embeddings(clip_id: str, embeddings: np.ndarray | None, objects: int) -> np.ndarray | None:
    if embeddings is None:
        return None
    embeddings = np.array(embeddings, np.float32)
    if embeddings.ndim != 2 or len(embeddings) != objects or not np.isfinite(embeddings).all():
        raise BadClip(
            f"{clip_id}: label embeddings {list(embeddings.shape)} must be finite, a row for each of {objects} labels",
            kind="bad label embeddings",
        )
    embeddings.setflags(write=False)
    return embeddings
