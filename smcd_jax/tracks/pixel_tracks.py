"""PixelTracks: boxes in pixels of the picture, as a file states them, and their conversion to BoxTracks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.tracks.box_tracks import BoxTracks, box_fault, format_box, valid_boxes

# Smallest fraction of a side whose clipping is reported; files round coordinates to a few decimals.
CLIP_REPORTED = 1e-6
# Largest relative difference of aspect ratios that count as equal; resizing to whole pixels changes them by less.
ASPECT_TOLERANCE = 0.01
# Boxes within 0..1 of a picture with longer sides than this are fractions of it, not boxes within its first pixel.
FRACTIONS_FROM = 8
# Limits memory; above the longest sequence of MOT20 (3,315 frames, 1,211 objects).
MAX_BOXES = 5_000_000


@dataclass(frozen=True, eq=False)
class PixelTracks:
    """Boxes of one video before clipping and normalising, as a reader of a file format returns them.

    Attributes:
        boxes: Boxes xyxy in pixels of the picture, float64 `[frames, objects, 4]`, 0 at its left and upper edge. They
            may extend beyond the picture, and are meaningless where `present` is False.
        present: Presence of each object, bool `[frames, objects]`.
        labels: One text per object, None for an object that the file does not label.
        size: (width, height) of the picture in pixels, or None if the file does not state it.
        source: Place the boxes come from, for messages: a file, a video of a file, or a flag.
        prompt: Text that came with the boxes, or None.
        notes: Remarks of the reader: the convention of the file, and what was left out.
        path: File the boxes come from, or None; the `path` of errors.
        argument: Name of the argument that holds the boxes; the `argument` of errors about a box.
        hint: Advice added to the error about a box without area, such as the flag for another order of the numbers.
        unit_stated: Whether the file states its unit, so that boxes within 0..1 contradict a size in pixels.
        length_stated: Whether the file states the number of frames; otherwise it ends at the last box.
        label_fault: Error to raise if the user passes no label either; None if the file simply names no label.
    """

    boxes: np.ndarray
    present: np.ndarray
    labels: tuple[str | None, ...]
    size: tuple[float, float] | None
    source: str
    prompt: str | None = None
    notes: tuple[str, ...] = ()
    path: str | None = None
    argument: str = "boxes"
    hint: str = ""
    unit_stated: bool = False
    length_stated: bool = True
    label_fault: SMCDError | None = None

    def where(self, index: int, frame: int | None = None) -> str:
        """Returns the place of an object or box for messages: `FILE: object 0 'rocket', frame 3`."""
        label = "" if self.labels[index] is None else f" {self.labels[index]!r}"
        return f"{self.source}: object {index}{label}" + ("" if frame is None else f", frame {frame}")

    def with_label(self, label: str | None) -> PixelTracks:
        """Returns the tracks with every object labelled.

        Args:
            label: Label of the objects that have none, or a new label for all if the file gives them the same one.
                Otherwise the labels of the file are kept, and a note says so.

        Raises:
            SMCDError: An object has no label and `label` is None.
        """
        unnamed = None in self.labels
        if label is None and unnamed:
            raise self.label_fault or SMCDError(
                f"{self.source} does not name its object; pass --label, such as --label dog (label=... in Python)",
                argument="label",
                path=self.path,
            )
        if label is None:
            return self
        if not unnamed and len(set(self.labels)) > 1:
            named = ", ".join(dict.fromkeys(map(str, self.labels)))
            note = f"the label {label!r} is not used: {self.source} names its objects ({named})"
            return replace(self, notes=(*self.notes, note))
        names = tuple(label if name is None or not unnamed else name for name in self.labels)
        settled = () if self.label_fault is None else (f"{self.source}: the label {label!r} settles the class",)
        return replace(self, labels=names, notes=(*self.notes, *settled))

    def extended(self, frames: int) -> PixelTracks:
        """Returns the tracks padded to ``frames`` frames, without objects in the added ones; a note reports this."""
        missing = frames - len(self.boxes)
        boxes = np.pad(self.boxes, ((0, missing), (0, 0), (0, 0)))
        last = len(self.boxes) - 1
        note = f"{self.source}: the last box is in frame {last} of 0-{frames - 1}; no object is present after it"
        present = np.pad(self.present, ((0, missing), (0, 0)))
        return replace(self, boxes=boxes, present=present, notes=(*self.notes, note), length_stated=True)

    def to_box_tracks(self, *, image_size: tuple[int, int] | None = None, label: str | None = None) -> BoxTracks:
        """Returns the tracks normalised to 0..1 and clipped to the picture; the notes report what was clipped.

        Boxes that all lie within 0..1 are read as fractions of the picture, and a note says so, unless the file states
        that its unit is the pixel.

        Args:
            image_size: (width, height) of the picture to animate. Boxes of a file that states no size refer to it; if
                the file states a size of another aspect ratio, a note reports it.
            label: Label of the objects that have none, as for `with_label`.

        Raises:
            SMCDError: Size or label is unknown, or a present box is not finite, has no area or lies entirely outside
                the picture. The message names file, object, frame and box.
        """
        named = self.with_label(label)
        if image_size is not None:
            check_size(image_size, "the image")
        size = self.size or image_size
        if size is None:
            raise SMCDError(
                f"{self.source} does not state the size of its picture; pass --image_size WIDTHxHEIGHT "
                "(image_size=(width, height) in Python)",
                argument="image_size",
                path=self.path,
            )
        check_size(size, self.source, path=self.path)
        if min(size) >= FRACTIONS_FROM and are_fractions(self.boxes[self.present]):
            named, size = named._as_fractions(size), (1, 1)
        named._check_boxes(size)
        scaled = np.where(self.present[..., None], self.boxes, 0.0) / np.tile(size, 2)
        clipped = np.clip(scaled, 0.0, 1.0)
        notes = (
            *named.notes,
            *_aspect_notes(self.source, size, image_size),
            *_small_notes(named, size),
            *_clip_notes(named, scaled - clipped),
        )
        return BoxTracks(clipped, self.present, tuple(map(str, named.labels)), self.prompt, notes)

    def _as_fractions(self, size: tuple[float, float]) -> PixelTracks:
        picture = f"a picture of {size[0]:g} x {size[1]:g} pixels"
        if self.unit_stated:
            raise SMCDError(
                f'{self.source}: all boxes lie within 0..1, although the file states {picture}; write "size": [1, 1] '
                "if they are fractions of the picture",
                argument="size",
                path=self.path,
                value=size,
            )
        note = f"{self.source}: all boxes lie within 0..1, so they are read as fractions of {picture}, not as pixels"
        return replace(self, notes=(*self.notes, note))

    def _check_boxes(self, size: tuple[float, float]) -> None:
        overlap = np.all(self.boxes[..., 2:] > 0, axis=-1) & np.all(self.boxes[..., :2] < np.array(size), axis=-1)
        wrong = np.argwhere(self.present & ~(valid_boxes(self.boxes) & overlap))
        if len(wrong) == 0:
            return
        frame, index = wrong[0]
        box = self.boxes[frame, index].tolist()
        outside = f"box {format_box(box)} lies entirely outside the picture of {size[0]:g} x {size[1]:g}"
        fault = box_fault(box)
        if fault and self.hint:
            fault = f"{fault}; {self.hint}"
        fault = fault or f"{outside}; move it, or hide the object in that frame"
        raise SMCDError(f"{self.where(index, frame)}: {fault}", argument=self.argument, path=self.path, value=box)


def are_fractions(boxes: np.ndarray) -> bool:
    """Returns whether there are boxes `[..., 4]` and all of them lie within 0..1."""
    return boxes.size > 0 and bool(np.all((boxes >= 0) & (boxes <= 1 + CLIP_REPORTED)))


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Converts boxes `[..., 4]` from `x, y, width, height` to `x1, y1, x2, y2`."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Converts boxes `[..., 4]` from `x1, y1, x2, y2` to `x, y, width, height`."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def to_pixels(tracks: BoxTracks, image_size: tuple[float, float] | None, format: str) -> np.ndarray:
    """Returns the boxes of `tracks` in pixels, float64 `[frames, objects, 4]` xyxy, for the writer of `format`.

    Raises:
        SMCDError: `image_size` (width, height) is None or not positive.
    """
    if image_size is None:
        raise SMCDError(
            f"format {format} holds pixels; pass image_size=(width, height) of the picture", argument="image_size"
        )
    check_size(image_size, "the image")
    return tracks.boxes.astype(np.float64) * np.tile(image_size, 2)


def whole_size(image_size: tuple[float, float], format: str) -> tuple[int, int]:
    """Returns `image_size` as integers, for writers of formats that store it in whole pixels.

    Raises:
        SMCDError: A side is not a whole number.
    """
    width, height = (int(side) for side in image_size)
    if (width, height) != tuple(image_size):
        raise SMCDError(
            f"image_size must be in whole pixels for format {format}, got {image_size!r}",
            argument="image_size",
            value=image_size,
        )
    return width, height


def check_size(size: tuple[float, float], what: str, *, path: str | None = None) -> None:
    """Raises SMCDError unless `size` is a finite, positive (width, height)."""
    sides = np.asarray(size, np.float64)
    if sides.shape != (2,) or not np.all(np.isfinite(sides)) or np.any(sides <= 0):
        raise SMCDError(
            f"size of {what} must be a positive (width, height), got {size!r}",
            argument="image_size",
            path=path,
            value=size,
        )


def check_count(frames: int, objects: int, path: str) -> None:
    """Raises SMCDError for more boxes than fit in memory: `frames` times `objects`."""
    if frames * objects > MAX_BOXES:
        raise SMCDError(
            f"{path}: {frames} frames of {objects} objects are more than {MAX_BOXES:,} boxes; check the numbers of "
            "frames, or split the file",
            argument="frames",
            path=path,
            value=frames,
        )


def format_frames(frames: Iterable[int]) -> str:
    """Returns frame numbers as text for messages, with runs joined: `0-3, 5`."""
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in frame_runs(frames))


def frame_runs(frames: Iterable[int]) -> list[tuple[int, int]]:
    """Returns runs of consecutive numbers as (first, last): `[0, 1, 2, 5]` gives `[(0, 2), (5, 5)]`."""
    runs: list[tuple[int, int]] = []
    for frame in map(int, frames):
        if runs and frame == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs


def _aspect_notes(source: str, size: tuple[float, float], image_size: tuple[float, float] | None) -> list[str]:
    if image_size is None or tuple(size) == (1, 1):
        return []
    ratio = (size[0] * image_size[1]) / (size[1] * image_size[0])
    if abs(ratio - 1) <= ASPECT_TOLERANCE:
        return []
    return [
        f"{source}: the boxes were drawn on a picture of another aspect ratio ({size[0]:g} x {size[1]:g}) than the "
        f"image ({image_size[0]:g} x {image_size[1]:g}); they are stretched to it"
    ]


def _small_notes(tracks: PixelTracks, size: tuple[float, float]) -> list[str]:
    """Returns a note per object whose boxes are smaller than a pixel."""
    if tuple(size) == (1, 1):
        return []
    sides = (tracks.boxes[..., 2:] - tracks.boxes[..., :2]).max(axis=-1)
    notes = []
    for index in range(sides.shape[1]):
        frames = np.flatnonzero(tracks.present[:, index] & (sides[:, index] < 1))
        if len(frames) > 0:
            notes.append(f"{tracks.where(index)}: the box is smaller than a pixel in frames {format_frames(frames)}")
    return notes


def _clip_notes(tracks: PixelTracks, cut: np.ndarray) -> list[str]:
    depth = np.abs(cut).max(axis=-1)
    notes = []
    for index in range(depth.shape[1]):
        frames = np.flatnonzero(depth[:, index] > CLIP_REPORTED)
        if len(frames) > 0:
            part = 100 * depth[:, index].max()
            notes.append(
                f"{tracks.where(index)}: clipped to the picture in frames {format_frames(frames)}, "
                f"by at most {part:.3g} % of its side"
            )
    return notes
