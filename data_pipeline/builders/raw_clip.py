"""From what a data set's files say to a clip: frames of one size, boxes clipped to them, every change told by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.records.frames import Frame
from data_pipeline.records.schema import BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.tracks import PixelTracks
from smcd_jax.tracks.pixel_tracks import ASPECT_TOLERANCE, CLIP_REPORTED

CLIPPED = "boxes clipped to the picture"
EMPTY = "boxes without area in the picture taken as absent"
SCALED = "boxes stated for another size than the frames have, scaled"
RECODED = "frames encoded anew (turned, transparent, or neither jpeg nor png of 8 bits)"


@contextlib.contextmanager
def bad_clip_if_wrong(kind: str) -> Iterator[None]:
    """Within the block an error about a file is an error about this clip alone, counted as `kind`."""
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
    """A clip from its frames and the boxes drawn on them.

    Boxes are in pixels of the size that the tracks state, of the frames themselves where they state none. Those over
    the border are clipped. One with no area, or none within the picture, shows no object: it is absent there. What was
    changed is in the clip's notes.

    Raises:
        BadClip: no frame, frames of different sizes or of another aspect than the boxes are for, another number of
            frames than of boxes, an object without a name, a box with a negative side or a number that is not finite.
    """
    width, height = frame_size(clip_id, frames)
    if len(tracks.boxes) != len(frames):
        raise BadClip(
            f"{clip_id}: boxes for {len(tracks.boxes)} frames, but {len(frames)} pictures", kind="frames do not match"
        )
    for index, label in enumerate(tracks.labels):
        if label is None:
            raise BadClip(f"{tracks.where(index)}: has no name", kind="object without a label")
    _check_sides(tracks)
    size = tracks.size or (width, height)
    notes = [RECODED] if any(frame.recoded for frame in frames) else []
    if tuple(size) != (width, height):
        notes.append(SCALED)
        if abs(size[0] * height / (size[1] * width) - 1) > ASPECT_TOLERANCE:
            raise BadClip(
                f"{clip_id}: frames of {width} x {height}, boxes for {size[0]:g} x {size[1]:g}", kind="another aspect"
            )
    exact = np.where(tracks.present[..., None], tracks.boxes, 0.0) / np.tile(size, 2)
    boxes = np.clip(exact, 0, 1).astype(np.float32)
    # Judged as the record holds them: of a sliver at the border float32 may leave no area.
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
    """(width, height) of all frames.

    Raises:
        BadClip: no frame, or frames of different sizes.
    """
    if not frames:
        raise BadClip(f"{clip_id}: no frame", kind="no frame")
    for index, frame in enumerate(frames):
        if frame.size != frames[0].size:
            raise BadClip(
                f"{clip_id}: frame {index} is {frame.size[0]} x {frame.size[1]} pixels, frame 0 is "
                f"{frames[0].size[0]} x {frames[0].size[1]}",
                kind="frames of different sizes",
            )
    return frames[0].size


def no_objects(frames: int, source: str) -> PixelTracks:
    """Tracks of a clip that names no object."""
    return PixelTracks(np.zeros((frames, 0, 4)), np.zeros((frames, 0), bool), labels=(), size=None, source=source)


def _check_sides(tracks: PixelTracks) -> None:
    sides = tracks.boxes[..., 2:] - tracks.boxes[..., :2]
    for fault, kind in ((~np.isfinite(tracks.boxes).all(-1), "bad box"), ((sides < 0).any(-1), "negative box size")):
        wrong = np.argwhere(tracks.present & fault)
        if len(wrong):
            frame, index = wrong[0]
            width, height = sides[frame, index]
            raise BadClip(f"{tracks.where(index, frame)}: a box of {width:g} x {height:g} pixels", kind=kind)
