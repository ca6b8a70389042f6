"""Building a clip from raw frames and boxes: checks sizes, clips boxes, and notes every change."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipeline.records.frames import Frame
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.tracks import PixelTracks
from smcd_jax.tracks.pixel_tracks import ASPECT_TOLERANCE, CLIP_REPORTED

CLIPPED = "boxes clipped to the picture"
EMPTY = "boxes without area in the picture treated as absent"
SCALED = "boxes given for another size than the frames, scaled"
RECODED = "frames re-encoded (rotated, transparent, or neither jpeg nor png of 8 bits)"


@contextlib.contextmanager
def bad_clip_if_wrong(kind: str) -> Iterator[None]:
    """Turns an `SMCDError` of the block into a `BadClip` of this kind, so that only one clip is lost."""
    try:
        yield
    except SMCDError as error:
        raise BadClip(str(error), kind=kind) from error


def make_clip(
    clip_id: str,
    caption: str,
    frames: Sequence[Frame],
    *,
    tracks: PixelTracks,
    label_embeddings: np.ndarray | None = None,
) -> Clip:
    """Builds a clip from its frames and boxes.

    Boxes are in pixels of `tracks.size`, or of the frames if that is None. Boxes are clipped to the picture; an object
    whose clipped box has no area is marked as absent. The clip's notes list the changes.

    Args:
        clip_id: Id of the clip.
        caption: Prompt of the clip.
        frames: Frames, all of one size.
        tracks: Boxes in pixels, with one row per frame.
        label_embeddings: Embeddings `[N, D]` of the labels, or None.

    Raises:
        BadClip: There are no frames, frames have different sizes or another aspect ratio than the boxes were made for,
            the numbers of frames and boxes differ, an object has no label, or a box has a negative side or is not
            finite.
    """
    width, height = frame_size(clip_id, frames)
    if len(tracks.boxes) != len(frames):
        raise BadClip(
            f"{clip_id}: boxes must cover {len(frames)} frames, got {len(tracks.boxes)}", kind="frames do not match"
        )
    for index, label in enumerate(tracks.labels):
        if label is None:
            raise BadClip(f"{tracks.where(index)}: the object has no label", kind="object without a label")
    _check_sides(tracks)
    size = tracks.size or (width, height)
    notes = [RECODED] if any(frame.recoded for frame in frames) else []
    if tuple(size) != (width, height):
        notes.append(SCALED)
        if abs(size[0] * height / (size[1] * width) - 1) > ASPECT_TOLERANCE:
            raise BadClip(
                f"{clip_id}: boxes for {size[0]:g} x {size[1]:g} pixels do not fit frames of {width} x {height}",
                kind="another aspect",
            )
    exact = np.where(tracks.present[..., None], tracks.boxes, 0.0) / np.tile(size, 2)
    boxes = np.clip(exact, 0, 1).astype(np.float32)
    # Computed from the stored float32 values, because rounding may leave a sliver at the border without area.
    mask = tracks.present & np.all(boxes[..., :2] < boxes[..., 2:], axis=-1)
    beyond = np.any(np.abs(exact - boxes) > CLIP_REPORTED, axis=-1)
    notes += [EMPTY] * bool(np.any(tracks.present & ~mask)) + [CLIPPED] * bool(np.any(mask & beyond))
    return Clip(
        clip_id=clip_id,
        caption=caption,
        width=width,
        height=height,
        frames=tuple(frame.data for frame in frames),
        boxes=boxes,
        mask=mask,
        labels=tuple(map(str, tracks.labels)),
        label_embeddings=label_embeddings,
        notes=tuple(notes),
    )


def frame_size(clip_id: str, frames: Sequence[Frame]) -> tuple[int, int]:
    """Returns the width and height shared by all frames.

    Raises:
        BadClip: There are no frames, or they have different sizes.
    """
    if not frames:
        raise BadClip(f"{clip_id}: the clip has no frames", kind="no frame")
    for index, frame in enumerate(frames):
        if frame.size != frames[0].size:
            raise BadClip(
                f"{clip_id}: frame {index} must be {frames[0].size[0]} x {frames[0].size[1]} pixels like frame 0, got "
                f"{frame.size[0]} x {frame.size[1]}",
                kind="frames of different sizes",
            )
    return frames[0].size


def png(frame: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns a frame as a png file."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format="PNG")
    return file.getvalue()


def no_objects(frames: int, source: str) -> PixelTracks:
    """Returns tracks without objects."""
    return PixelTracks(np.zeros((frames, 0, 4)), np.zeros((frames, 0), bool), labels=(), size=None, source=source)


def _check_sides(tracks: PixelTracks) -> None:
    sides = tracks.boxes[..., 2:] - tracks.boxes[..., :2]
    for fault, kind in ((~np.isfinite(tracks.boxes).all(-1), "bad box"), ((sides < 0).any(-1), "negative box size")):
        wrong = np.argwhere(tracks.present & fault)
        if len(wrong):
            frame, index = wrong[0]
            width, height = sides[frame, index]
            raise BadClip(
                f"{tracks.where(index, frame)}: box size must be finite and not negative, got {width:g} x {height:g} "
                "pixels",
                kind=kind,
            )
