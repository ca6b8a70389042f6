"""BoxTracks: labelled boxes over the frames of a video, in 0..1 of the picture; the form that other packages use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.tracks.interpolation import frame_times

LABEL_RULE = "label must be one line of text that is not empty"


@dataclass(frozen=True, eq=False)
class BoxTracks:
    """Boxes of every object in every frame.

    Arrays are copied and read-only. Boxes of absent objects are stored as zeros, whatever values are passed.

    Attributes:
        boxes: Boxes `x1, y1, x2, y2` in 0..1 of the picture, float32 `[frames, objects, 4]`; `x1 < x2` and `y1 < y2`
            where the object is present, zeros where it is absent.
        mask: Presence of each object, bool `[frames, objects]`; numbers 0 and 1 are accepted.
        labels: One text per object.
        prompt: Text that came with the tracks, or None. A prompt from the user takes precedence.
        notes: Remarks of the reader, such as the convention of the file and boxes clipped to the picture.

    Raises:
        SMCDError: Shapes do not match, there is no frame or no object, a label is empty, a mask value is neither 0 nor
            1, or a present box is not finite, exceeds 0..1 or has no area. The message names object, frame and value.
    """

    boxes: np.ndarray
    mask: np.ndarray
    labels: tuple[str, ...]
    prompt: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        labels = _checked_labels(self.labels)
        boxes = np.array(self.boxes, np.float32)
        mask = _checked_mask(np.asarray(self.mask))
        if boxes.ndim != 3 or boxes.shape[2] != 4 or mask.shape != boxes.shape[:2] or mask.shape[1] != len(labels):
            raise SMCDError(
                f"tracks need boxes [frames, objects, 4], mask [frames, objects] and one label per object, got "
                f"boxes {list(boxes.shape)}, mask {list(mask.shape)} and {len(labels)} labels",
                argument="boxes",
                value=boxes.shape,
            )
        if mask.size == 0:
            raise SMCDError(
                f"tracks need a frame and an object, got {mask.shape[0]} frames and {mask.shape[1]} objects",
                argument="mask",
                value=mask.shape,
            )
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise SMCDError(
                f"prompt of tracks must be text or None, got {self.prompt!r}", argument="prompt", value=self.prompt
            )
        boxes[~mask] = 0.0
        _check_boxes(boxes, mask, labels)
        boxes.setflags(write=False)
        mask.setflags(write=False)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "notes", tuple(self.notes))

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.boxes.shape[0]

    @property
    def num_objects(self) -> int:
        """Number of objects, including absent ones."""
        return self.boxes.shape[1]

    def resample(self, frames: int) -> BoxTracks:
        """Returns the same motion in another number of frames: first frame on first, last on last.

        An object is present if it is present in the nearest old frame (the later one when halfway). Between two old
        frames that both show it, its box moves linearly; next to a frame that does not, its box is that of the nearest
        frame.

        Raises:
            SMCDError: `frames` is not a positive whole number.
        """
        check_frames(frames)
        if frames == self.num_frames:
            return self
        at = frame_times(self.num_frames, frames)
        weight = at.fraction[:, None, None]
        between = (1 - weight) * self.boxes[at.lower] + weight * self.boxes[at.upper]
        both = self.mask[at.lower] & self.mask[at.upper]
        boxes = np.where(both[..., None], between, self.boxes[at.nearest])
        return replace(self, boxes=boxes, mask=self.mask[at.nearest])

    def without_absent(self) -> tuple[BoxTracks, tuple[str, ...]]:
        """Returns the tracks without objects that appear in no frame, and remarks for the user.

        Raises:
            SMCDError: No object appears in any frame.
        """
        seen = np.flatnonzero(self.mask.any(axis=0))
        if len(seen) == 0:
            message = f"no object is present in any of the {self.num_frames} frames; check the tracks"
            raise SMCDError(message, argument="tracks")
        if len(seen) == self.num_objects:
            return self, ()
        labels = tuple(self.labels[index] for index in seen)
        absent = ", ".join(repr(self.labels[index]) for index in range(self.num_objects) if index not in seen)
        kept = replace(self, boxes=self.boxes[:, seen], mask=self.mask[:, seen], labels=labels)
        return kept, (f"ignored objects that are in none of the {self.num_frames} frames: {absent}",)

    def pad(self, objects: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns boxes and mask for `objects` objects; the added ones have zero boxes and mask False.

        Returns:
            float32 `[frames, objects, 4]` and bool `[frames, objects]`, writable copies.

        Raises:
            SMCDError: There are more than `objects` objects.
        """
        missing = objects - self.num_objects
        if missing < 0:
            surplus = ", ".join(repr(label) for label in self.labels[objects:])
            raise SMCDError(
                f"{self.num_objects} objects are too many: the model takes {objects}; leave out {-missing}, such as "
                f"the last: {surplus}",
                argument="tracks",
                value=self.num_objects,
            )
        boxes = np.pad(self.boxes, ((0, 0), (0, missing), (0, 0)))
        return boxes, np.pad(self.mask, ((0, 0), (0, missing)))


def join_tracks(tracks: Sequence[BoxTracks]) -> BoxTracks:
    """Returns one BoxTracks with all objects in order and all notes; prompts that are not None must be equal.

    Raises:
        SMCDError: `tracks` is empty, the numbers of frames differ, or two prompts differ.
    """
    if not tracks:
        raise SMCDError("tracks must contain at least one BoxTracks to join, got none", argument="tracks")
    frames = [track.num_frames for track in tracks]
    if len(set(frames)) > 1:
        raise SMCDError(
            f"tracks to join must have the same number of frames, got {frames}; resample them",
            argument="tracks",
            value=frames,
        )
    prompts = list(dict.fromkeys(track.prompt for track in tracks if track.prompt is not None))
    if len(prompts) > 1:
        raise SMCDError(
            f"tracks to join must have one prompt, got {prompts[0]!r} and {prompts[1]!r}",
            argument="tracks",
            value=prompts,
        )
    return BoxTracks(
        boxes=np.concatenate([track.boxes for track in tracks], axis=1),
        mask=np.concatenate([track.mask for track in tracks], axis=1),
        labels=tuple(label for track in tracks for label in track.labels),
        prompt=prompts[0] if prompts else None,
        notes=tuple(dict.fromkeys(note for track in tracks for note in track.notes)),
    )


def check_frames(frames: int) -> None:
    """Raises SMCDError unless `frames` is a positive whole number."""
    if isinstance(frames, bool) or not isinstance(frames, int | np.integer) or frames < 1:
        raise SMCDError(
            f"the number of frames must be a positive whole number, got {frames!r}", argument="frames", value=frames
        )


def is_label(label: Any) -> bool:
    """Returns whether a value may label an object; `LABEL_RULE` states the rule as text."""
    return isinstance(label, str) and bool(label.strip()) and len(label.splitlines()) == 1


def valid_boxes(boxes: np.ndarray) -> np.ndarray:
    """Returns which boxes `[..., 4]` (xyxy) are finite and have an area, bool `[...]`."""
    finite = np.all(np.isfinite(boxes), axis=-1)
    return finite & np.all(boxes[..., :2] < boxes[..., 2:], axis=-1)


def box_fault(box: Sequence[float]) -> str | None:
    """Returns why four numbers are not a valid xyxy box, such as `x2 4 <= x1 5 in box [...]`, or None if they are."""
    x1, y1, x2, y2 = (float(value) for value in box)
    if not np.all(np.isfinite(box)):
        return f"box {format_box(box)} is not finite"
    if x2 <= x1:
        return f"x2 {x2:g} <= x1 {x1:g} in box {format_box(box)}"
    if y2 <= y1:
        return f"y2 {y2:g} <= y1 {y1:g} in box {format_box(box)}"
    return None


def format_box(box: Sequence[float]) -> str:
    """Returns a box as text for messages: `[300, 125.5, 345, 405]`."""
    return "[" + ", ".join(f"{float(value):g}" for value in box) + "]"


def _checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        raise SMCDError(
            f"labels must be a sequence of one text per object, got the text {labels!r}",
            argument="labels",
            value=labels,
        )
    for index, label in enumerate(labels):
        if not is_label(label):
            raise SMCDError(f"object {index}: {LABEL_RULE}, got {label!r}", argument="labels", value=label)
    return tuple(labels)


def _checked_mask(mask: np.ndarray) -> np.ndarray:
    wrong = (mask != 0) & (mask != 1)
    if mask.ndim == 2 and np.any(wrong):
        frame, index = np.argwhere(wrong)[0]
        value = mask[frame, index].item()
        raise SMCDError(
            f"object {index}, frame {frame}: mask must be 0 or 1, got {value}", argument="mask", value=value
        )
    return mask.astype(bool)


def _check_boxes(boxes: np.ndarray, mask: np.ndarray, labels: tuple[str, ...]) -> None:
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=-1)
    wrong = np.argwhere(mask & ~(valid_boxes(boxes) & inside))
    if len(wrong) == 0:
        return
    frame, index = wrong[0]
    box = boxes[frame, index].tolist()
    fault = box_fault(box) or f"box {format_box(box)} is not within 0..1 of the picture"
    raise SMCDError(f"object {index} {labels[index]!r}, frame {frame}: {fault}", argument="boxes", value=box)
