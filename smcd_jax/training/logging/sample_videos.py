"""Sample videos of a training run: validation clips with their boxes drawn, and a contact sheet of all frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smcd_jax import media
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.media import contact_sheet, draw_boxes
from smcd_jax.tracks import BoxTracks

SHOWN_PIXELS = 192  # smaller frames are enlarged by a whole factor to about this shorter side, so labels fit


def write_samples(
    folder: str | os.PathLike[str],
    step: int,
    videos: UInt8[np.ndarray, "b f h w 3"],
    tracks: Sequence[BoxTracks | None],
    *,
    fps: float,
    real: UInt8[np.ndarray, "b f h w 3"] | None = None,
) -> list[UInt8[np.ndarray, "f _ _ 3"]]:
    """Writes ``STEP_CLIP.mp4`` per clip and the contact sheet ``STEP.png``, one row per clip and one column per frame.

    Existing files of the same step are replaced.

    Args:
        folder: Output folder; created if missing.
        step: Number of completed steps, written with eight digits.
        videos: Generated videos, uint8 ``[b, f, h, w, 3]``.
        tracks: Boxes that each video should follow, with f frames; None for no boxes.
        fps: Frames per second.
        real: Original videos, uint8 ``[b, f, h, w, 3]``, shown above the generated ones on the sheet.

    Returns:
        The generated videos as written: enlarged, with boxes.

    Raises:
        SMCDError: The shapes do not match, or the folder cannot be written.
    """
    if len(tracks) != len(videos) or (real is not None and real.shape != videos.shape):
        argument = "tracks" if len(tracks) != len(videos) else "real"
        value = len(tracks) if argument == "tracks" else None if real is None else real.shape
        raise SMCDError(
            f"{argument} must match the videos of shape {videos.shape}, got {value}", argument=argument, value=value
        )
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SMCDError(f"cannot create the samples folder {folder} ({reason})", path=folder) from error
    drawn, rows, captions = [], [], []
    for index, (video, boxes) in enumerate(zip(videos, tracks, strict=True)):
        text = boxes.prompt if boxes is not None and boxes.prompt else f"clip {index}"
        if real is not None:
            rows.append(_drawn(real[index], boxes))
            captions.append(f"{text} (real)")
        drawn.append(_drawn(video, boxes))
        rows.append(drawn[-1])
        captions.append(f"{text} (step {step})")
        media.write_video(drawn[-1], folder / f"{step:08d}_{index}.mp4", fps=fps)
    with write_atomically(folder / f"{step:08d}.png") as temporary:
        Image.fromarray(contact_sheet(rows, captions=captions)).save(temporary, format="png")
    return drawn


def _drawn(video: np.ndarray, tracks: BoxTracks | None) -> np.ndarray:
    factor = max(1, round(SHOWN_PIXELS / min(video.shape[1:3])))
    enlarged = video.repeat(factor, axis=1).repeat(factor, axis=2)
    if tracks is None:
        return enlarged
    return draw_boxes(enlarged, tracks.boxes, tracks.mask, tracks.labels)
