"""What a model makes of validation clips while it trains: videos with their boxes drawn, and all frames on a sheet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.media import contact_sheet, draw_boxes, write_video
from smcd_jax.tracks import BoxTracks

SHOWN_PIXELS = 192  # smaller pictures are enlarged, by a whole factor, to about this shorter side: labels need room


def write_samples(
    folder: str | os.PathLike[str],
    step: int,
    videos: UInt8[np.ndarray, "b f h w 3"],
    tracks: Sequence[BoxTracks | None],
    *,
    fps: float,
    real: UInt8[np.ndarray, "b f h w 3"] | None = None,
) -> list[UInt8[np.ndarray, "f _ _ 3"]]:
    """Writes ``STEP_CLIP.mp4`` for each clip and one ``STEP.png``: a row for each clip, a column for each frame.

    Files of the same step are replaced.

    Args:
        folder: made where it is missing.
        step: steps done, eight digits in the names.
        videos: generated, uint8.
        tracks: the boxes that each was asked to follow, as many frames; None for no boxes.
        fps: frames per second.
        real: the clips they are of; each then stands on the sheet above what was made of it.

    Returns:
        The generated clips as shown: enlarged, boxes drawn.

    Raises:
        SMCDError: shapes that do not fit each other, or the folder cannot be written.
    """
    if len(tracks) != len(videos) or (real is not None and real.shape != videos.shape):
        given = "" if real is None else f" and real clips {list(real.shape)}"
        raise SMCDError(f"samples: {len(tracks)} tracks{given} do not fit videos {list(videos.shape)}; give one each")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SMCDError(f"cannot make {folder} for samples: {(error.strerror or str(error)).lower()}") from error
    drawn, rows, captions = [], [], []
    for index, (video, boxes) in enumerate(zip(videos, tracks, strict=True)):
        text = boxes.prompt if boxes is not None and boxes.prompt else f"clip {index}"
        if real is not None:
            rows.append(_drawn(real[index], boxes))
            captions.append(f"{text} (real)")
        drawn.append(_drawn(video, boxes))
        rows.append(drawn[-1])
        captions.append(f"{text} (step {step})")
        write_video(drawn[-1], folder / f"{step:08d}_{index}.mp4", fps=fps)
    with write_atomically(folder / f"{step:08d}.png") as temporary:
        Image.fromarray(contact_sheet(rows, captions=captions)).save(temporary, format="png")
    return drawn


def _drawn(video: np.ndarray, tracks: BoxTracks | None) -> np.ndarray:
    factor = max(1, round(SHOWN_PIXELS / min(video.shape[1:3])))
    enlarged = video.repeat(factor, axis=1).repeat(factor, axis=2)
    if tracks is None:
        return enlarged
    return draw_boxes(enlarged, tracks.boxes, tracks.mask, tracks.labels)
