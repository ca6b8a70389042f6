"""PixelTracks: boxes as a file states them, in pixels of its picture, and the one way from them to BoxTracks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.tracks.box_tracks import BoxTracks, box_fault, format_box, sound_boxes

# Files round coordinates to a few decimals; only what leaves the picture by more than this part of it is reported.
CLIP_REPORTED = 1e-6
# Resizing a picture to whole pixels changes its aspect by less than this part.
ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class PixelTracks:
    """Boxes of one video before clipping and normalising, as a reader of a file format returns them.

    Attributes:
        boxes: float64 `[frames, objects, 4]`, xyxy in pixels of the picture, 0 at its left and upper edge; they may
            leave the picture. Meaningless where not present.
        present: bool `[frames, objects]`.
        labels: one text per object, None where the file names none.
        size: (width, height) of the picture in pixels, None where the file does not state it.
        source: name of the file, for messages.
        prompt: text that came with the boxes, or None.
        notes: which convention was read and what was left out, in words.
    """

    boxes: np.ndarray
    present: np.ndarray
    labels: tuple[str | None, ...]
    size: tuple[float, float] | None
    source: str
    prompt: str | None = None
    notes: tuple[str, ...] = ()

    def where(self, index: int, frame: int | None = None) -> str:
        """Place for a message: `FILE: object 0 'rocket', frame 3`."""
        label = "" if self.labels[index] is None else f" {self.labels[index]!r}"
        return f"{self.source}: object {index}{label}" + ("" if frame is None else f", frame {frame}")

    def with_label(self, label: str | None) -> PixelTracks:
        """The tracks with every object named: `label` names the objects that the file does not, or its only one.

        Raises:
            SMCDError: an object has no name and `label` is None, or `label` would rename one of several.
        """
        unnamed = None in self.labels
        if label is None and unnamed:
            raise SMCDError(
                f"{self.source} does not name its object: pass --label (label=...), for example --label dog"
            )
        if label is None:
            return self
        if not unnamed and len(self.labels) > 1:
            raise SMCDError(
                f"--label {label!r} names one object, but {self.source} names {len(self.labels)} "
                f"({', '.join(map(str, self.labels))}): leave --label out"
            )
        names = tuple(label if name is None or not unnamed else name for name in self.labels)
        return replace(self, labels=names)

    def to_box_tracks(self, *, image_size: tuple[int, int] | None = None, label: str | None = None) -> BoxTracks:
        """Normalise to 0..1 and clip to the picture; what was clipped is in the notes.

        Args:
            image_size: (width, height) of the picture to animate. It is the size the boxes refer to where the file
                states none; where it does and the aspect differs, a note says so.
            label: see `with_label`.

        Raises:
            SMCDError: no size known, no label known, or a present box that is not finite, has no area or lies entirely
                outside the picture. Names file, object, frame and box.
        """
        named = self.with_label(label)
        if image_size is not None:
            check_size(image_size, "the image")
        size = self.size or image_size
        if size is None:
            raise SMCDError(f"{self.source} does not state the size of its picture: pass image_size=(width, height)")
        check_size(size, self.source)
        named._check_boxes(size)
        scaled = np.where(self.present[..., None], self.boxes, 0.0) / np.tile(size, 2)
        clipped = np.clip(scaled, 0.0, 1.0)
        notes = (*self.notes, *_aspect_notes(self.source, size, image_size), *_clip_notes(named, scaled - clipped))
        return BoxTracks(clipped, self.present, tuple(map(str, named.labels)), self.prompt, notes)

    def _check_boxes(self, size: tuple[float, float]) -> None:
        overlap = np.all(self.boxes[..., 2:] > 0, axis=-1) & np.all(self.boxes[..., :2] < np.array(size), axis=-1)
        wrong = np.argwhere(self.present & ~(sound_boxes(self.boxes) & overlap))
        if len(wrong) == 0:
            return
        frame, index = wrong[0]
        box = self.boxes[frame, index]
        outside = f"box {format_box(box)} lies entirely outside the picture of {size[0]:g} x {size[1]:g}"
        fault = box_fault(box) or f"{outside}: move it, or leave the object out in that frame"
        raise SMCDError(f"{self.where(index, frame)}: {fault}")


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """`x, y, width, height` to `x1, y1, x2, y2`; any shape that ends in 4."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """`x1, y1, x2, y2` to `x, y, width, height`; any shape that ends in 4."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def to_pixels(tracks: BoxTracks, image_size: tuple[float, float] | None, format: str) -> np.ndarray:
    """Boxes of `tracks` in pixels, float64 `[frames, objects, 4]` xyxy, for an exporter named `format`.

    Raises:
        SMCDError: `image_size` (width, height) is missing or not positive.
    """
    if image_size is None:
        raise SMCDError(f"format {format} holds pixels: pass image_size=(width, height) of the picture")
    check_size(image_size, "the image")
    return tracks.boxes.astype(np.float64) * np.tile(image_size, 2)


def whole_size(image_size: tuple[float, float], format: str) -> tuple[int, int]:
    """`image_size` as whole pixels, for an exporter named `format` that states it so.

    Raises:
        SMCDError: a side is not whole.
    """
    width, height = (int(side) for side in image_size)
    if (width, height) != tuple(image_size):
        raise SMCDError(f"format {format} states the size in whole pixels, got {image_size!r}: pass the picture's size")
    return width, height


def check_size(size: tuple[float, float], what: str) -> None:
    """Raise SMCDError unless `size` is a finite, positive (width, height)."""
    sides = np.asarray(size, np.float64)
    if sides.shape != (2,) or not np.all(np.isfinite(sides)) or np.any(sides <= 0):
        raise SMCDError(f"size of {what} must be a positive (width, height), got {size!r}")


def format_frames(frames: Iterable[int]) -> str:
    """Frame numbers for a message, runs joined: `0-3, 5`."""
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in frame_runs(frames))


def frame_runs(frames: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers in an increasing sequence, ends included: `[0, 1, 2, 5]` gives `[(0, 2), (5, 5)]`."""
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
        f"{source}: size of another aspect than the image: boxes were drawn on {size[0]:g} x {size[1]:g}, the image is "
        f"{image_size[0]:g} x {image_size[1]:g}; they are stretched with the picture"
    ]


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
