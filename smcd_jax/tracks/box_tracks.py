"""BoxTracks: labelled boxes over the frames of a video, float32 xyxy in 0..1 of the picture, as passed everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.tracks.interpolation import frame_times


@dataclass(frozen=True, eq=False)
class BoxTracks:
    """Where every object is in every frame.

    Arrays are copied and read-only. An absent box carries no information: whatever is given there is stored as zeros.

    Attributes:
        boxes: float32 `[frames, objects, 4]`, `x1, y1, x2, y2` in 0..1 of the picture, `x1 < x2` and `y1 < y2` where
            present, zeros where absent.
        mask: bool `[frames, objects]`, True where the object is present. 0/1 numbers are accepted.
        labels: one text per object.
        prompt: text that came with the tracks, or None. A prompt given by the user wins.
        notes: what import read and changed, in words: the convention of the file, boxes clipped to the picture.

    Raises:
        SMCDError: wrong shapes, no frame or no object, an empty label, a mask value other than 0 and 1, or a present
            box that is not finite, not within 0..1 or without area. The message names object, frame and value.
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
                f"boxes {list(boxes.shape)}, mask {list(mask.shape)} and {len(labels)} labels"
            )
        if mask.size == 0:
            raise SMCDError(
                f"tracks need a frame and an object, got {mask.shape[0]} frames and {mask.shape[1]} objects"
            )
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise SMCDError(f"the prompt of tracks must be text or None, got {self.prompt!r}")
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
        """Number of objects, absent ones included."""
        return self.boxes.shape[1]

    def resample(self, frames: int) -> BoxTracks:
        """The same motion in another number of frames, first frame on first and last on last.

        An object is present where it was in the nearest old frame (half way counts as the later one). Its box moves
        linearly between two old frames that both show it; beside a frame that does not, it is the nearest frame's box.

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

    def pad(self, objects: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes and mask with room for `objects` objects; the added ones have zero boxes and mask False.

        Returns:
            float32 `[frames, objects, 4]` and bool `[frames, objects]`, writable copies.

        Raises:
            SMCDError: there are more objects than that.
        """
        missing = objects - self.num_objects
        if missing < 0:
            surplus = ", ".join(repr(label) for label in self.labels[objects:])
            raise SMCDError(
                f"{self.num_objects} objects are too many: the model takes {objects}; leave out {-missing} (after the "
                f"first {objects} come {surplus})"
            )
        boxes = np.pad(self.boxes, ((0, 0), (0, missing), (0, 0)))
        return boxes, np.pad(self.mask, ((0, 0), (0, missing)))


def join_tracks(tracks: Sequence[BoxTracks]) -> BoxTracks:
    """One BoxTracks with the objects of all, in order. Notes are joined; the prompts given must agree.

    Raises:
        SMCDError: nothing to join, different numbers of frames, or two different prompts.
    """
    if not tracks:
        raise SMCDError("no tracks to join: give at least one")
    frames = [track.num_frames for track in tracks]
    if len(set(frames)) > 1:
        raise SMCDError(f"tracks to join have {frames} frames: give them the same number (resample)")
    prompts = list(dict.fromkeys(track.prompt for track in tracks if track.prompt is not None))
    if len(prompts) > 1:
        raise SMCDError(f"tracks to join have {len(prompts)} prompts ({prompts[0]!r}, {prompts[1]!r}): keep one")
    return BoxTracks(
        boxes=np.concatenate([track.boxes for track in tracks], axis=1),
        mask=np.concatenate([track.mask for track in tracks], axis=1),
        labels=tuple(label for track in tracks for label in track.labels),
        prompt=prompts[0] if prompts else None,
        notes=tuple(dict.fromkeys(note for track in tracks for note in track.notes)),
    )


def check_frames(frames: int) -> None:
    """Raise SMCDError unless `frames` is a positive whole number."""
    if isinstance(frames, bool) or not isinstance(frames, int | np.integer) or frames < 1:
        raise SMCDError(f"the number of frames must be a positive whole number, got {frames!r}")


def sound_boxes(boxes: np.ndarray) -> np.ndarray:
    """Which boxes `[..., 4]` (xyxy) are finite and have an area, bool `[...]`; `box_fault` says what is wrong."""
    finite = np.all(np.isfinite(boxes), axis=-1)
    return finite & np.all(boxes[..., :2] < boxes[..., 2:], axis=-1)


def box_fault(box: np.ndarray) -> str | None:
    """What keeps four numbers from being an xyxy box (not finite, or without area), in words; None if nothing does."""
    x1, y1, x2, y2 = (float(value) for value in box)
    if not np.all(np.isfinite(box)):
        return f"box {format_box(box)} is not finite"
    if x2 <= x1:
        return f"x2 {x2:g} <= x1 {x1:g} in box {format_box(box)}"
    if y2 <= y1:
        return f"y2 {y2:g} <= y1 {y1:g} in box {format_box(box)}"
    return None


def format_box(box: np.ndarray) -> str:
    """A box for a message: `[300, 125.5, 345, 405]`."""
    return "[" + ", ".join(f"{float(value):g}" for value in box) + "]"


def _checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        raise SMCDError(f"labels must be one text per object, got the single text {labels!r}")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip() or len(label.splitlines()) > 1:
            raise SMCDError(f"object {index}: label must be one line of text that is not empty, got {label!r}")
    return tuple(labels)


def _checked_mask(mask: np.ndarray) -> np.ndarray:
    wrong = (mask != 0) & (mask != 1)
    if mask.ndim == 2 and np.any(wrong):
        frame, index = np.argwhere(wrong)[0]
        raise SMCDError(f"object {index}, frame {frame}: mask must be 0 or 1, got {mask[frame, index]}")
    return mask.astype(bool)


def _check_boxes(boxes: np.ndarray, mask: np.ndarray, labels: tuple[str, ...]) -> None:
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=-1)
    wrong = np.argwhere(mask & ~(sound_boxes(boxes) & inside))
    if len(wrong) == 0:
        return
    frame, index = wrong[0]
    box = boxes[frame, index]
    fault = box_fault(box) or f"box {format_box(box)} is not within 0..1 of the picture"
    raise SMCDError(f"object {index} {labels[index]!r}, frame {frame}: {fault}")
