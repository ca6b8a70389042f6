"""Examples of prepared records: frames decoded to pixels, texts as token ids."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from data_pipeline.examples import ArraySpec, ExampleSize, fill_boxes
from data_pipeline.order.windows import window_frames
from data_pipeline.records.reader import RecordFolder
from data_pipeline.records.schema import BadClip
from data_pipeline.transforms import crop_boxes, decode_frame, random_crop
from smcd_jax.errors import SMCDError
from smcd_jax.tokenizer import CONTEXT_LENGTH, Tokenizer

_MAX_CACHED_TEXTS = 65536  # about 20 MB of token ids


class VideoSource:
    """Fills `video`, `token_ids`, `boxes`, `mask` and `label_ids` (see `data_pipeline.examples.ExampleSource`).

    With ``fields``, it also fills `fields` with the true motion, and with ``frame_rate``, `frame_rate` with frames per
    second; only some records store them.
    """

    def __init__(
        self,
        records: RecordFolder,
        size: ExampleSize,
        *,
        tokenizer: Tokenizer,
        token_length: int = CONTEXT_LENGTH,
        crop_keep: float = 1.0,
        fields: bool = False,
        frame_rate: bool = False,
    ):
        """Wraps records.

        Args:
            records: Split of one data set.
            size: Size of an example.
            tokenizer: Tokenizer of the model.
            token_length: Number of token ids per text.
            crop_keep: Smallest share of the picture's area that a random crop keeps, in (0, 1]; 1 disables cropping.
                0.9 in stage 1 of the paper.
            fields: Whether examples contain the true motion fields; frames are then not cropped.
            frame_rate: Whether examples contain the frame rate of their clip.

        Raises:
            SMCDError: ``crop_keep`` is out of range, or the records do not store the requested arrays.
        """
        random_crop(np.uint64(0), crop_keep)
        self._field_shape = _field_shape(records, crop_keep) if fields else None
        if frame_rate and "frame_rate" not in (records.annotations(0) if len(records) else {}):
            raise SMCDError(
                f"{records.folder}: frame rates need records that store them, such as those of 'smcd prepare webvid'",
                argument="frame_rate",
                path=records.folder,
            )
        self._frame_rate = frame_rate
        self.name, self.size = f"{records.name} ({records.split})", size
        self.clip_ids, self.num_frames = records.clip_ids, records.index["frames"].astype(np.int64)
        self._records, self._crop_keep = records, crop_keep
        self._token_length = token_length
        # A cache on a method would keep every source alive.
        self._tokens = functools.lru_cache(_MAX_CACHED_TEXTS)(
            lambda text: tokenizer.encode([text], length=token_length)[0]
        )

    def specs(self) -> dict[str, ArraySpec]:
        """See `ExampleSource.specs`."""
        size, tokens = self.size, self._token_length
        known = {}
        if self._field_shape is not None:
            known["fields"] = ArraySpec((size.frames, *self._field_shape), np.float32)
        if self._frame_rate:
            known["frame_rate"] = ArraySpec((), np.float32)
        return {
            **known,
            "video": ArraySpec((size.frames, size.height, size.width, 3), np.uint8),
            "token_ids": ArraySpec((tokens,), np.int32),
            "boxes": ArraySpec((size.frames, size.objects, 4), np.float32),
            "mask": ArraySpec((size.frames, size.objects), np.float32),
            "label_ids": ArraySpec((size.objects, tokens), np.int32),
        }

    def fill(self, row: Mapping[str, np.ndarray], *, clip: int, start: int, key: np.uint64) -> int:
        """See `ExampleSource.fill`."""
        stored = int(self.num_frames[clip])
        count = min(self.size.frames, stored - start)
        window = self._records.window(clip, start, count)
        crop = random_crop(key, self._crop_keep)
        for index, frame in enumerate(window.frames):
            where = f"{self.name}: clip {window.clip_id}, frame {start + index}"
            row["video"][index] = decode_frame(
                frame, height=self.size.height, width=self.size.width, crop=crop, where=where
            )
        row["video"][count:] = row["video"][count - 1]
        held = window_frames(0, self.size.frames, count)
        if self._field_shape is not None:
            if start or window.fields is None:
                where = f"{self.name}: clip {window.clip_id}"
                raise BadClip(f"{where}: windows with fields must start at frame 0, got {start}", kind="no fields")
            row["fields"][:] = window.fields[held]
        if self._frame_rate:
            if window.frame_rate is None:
                raise BadClip(f"{self.name}: clip {window.clip_id} has no frame rate", kind="no frame rate")
            row["frame_rate"][...] = window.frame_rate
        boxes, mask = crop_boxes(window.boxes[held], window.mask[held], crop)
        chosen, dropped = fill_boxes(row, boxes, mask)
        row["token_ids"][:] = self._tokens(window.caption)
        for place, index in enumerate(chosen):
            row["label_ids"][place] = self._tokens(window.labels[index])
        return dropped


def _field_shape(records: RecordFolder, crop_keep: float) -> tuple[int, ...]:
    """Returns the shape of one field of the records."""
    first = records.annotations(0) if len(records) else {}
    if "fields" not in first or crop_keep != 1:
        raise SMCDError(
            f"{records.folder}: true motion fields need records that store them, such as those of "
            "'smcd prepare winds', and crop_keep=1",
            argument="fields",
            path=records.folder,
        )
    return first["fields"].shape[1:]
