"""Owns strips: the frames of a clip side by side in one picture with boxes drawn, kept for the pages of results."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from smcd_jax.evaluation.grounding_run import Boxes
from smcd_jax.evaluation.video_store import GENERATED, REAL, AskedClip, ClipStore, Video
from smcd_jax.files import write_folder_atomically
from smcd_jax.media import draw_boxes, object_colors
from smcd_jax.runtime.progress import Progress

FOLDER = "strips"  # of an evaluation; in it a folder CLIP_ID with a file for each of these
STRIPS = ("real", "generated", "found")
HEIGHT = 112  # pixels of a frame
_GAP = 2  # pixels between frames
_QUALITY = 85  # of jpeg


def write_strips(store: ClipStore, found: Mapping[str, Boxes], folder: Path, progress: Progress) -> None:
    """Writes three strips of each clip: the real clip, the generated one with the boxes asked for, and as found.

    Args:
        store: of the clips.
        found: boxes of the tracker by clip id; without them a clip has no third strip.
        folder: of the evaluation.
        progress: told of each clip.

    Raises:
        SMCDError: a file cannot be written.
    """
    with progress.stage("draw strips", len(store), "clip") as advance:
        for clip, videos in store.pairs():
            strips = {
                "real": _strip(videos[REAL], clip, clip.boxes, clip.mask),
                "generated": _strip(videos[GENERATED], clip, clip.boxes, clip.mask),
            }
            if clip.clip_id in found:
                boxes = found[clip.clip_id]
                seen = np.isfinite(boxes).all(axis=-1)
                strips["found"] = _strip(videos[GENERATED], clip, np.nan_to_num(boxes), seen)
            place = folder / FOLDER / clip.clip_id
            place.parent.mkdir(parents=True, exist_ok=True)
            with write_folder_atomically(place, may_replace=lambda path: path.suffix == ".jpg") as temporary:
                for name, picture in strips.items():
                    Image.fromarray(picture).save(temporary / f"{name}.jpg", quality=_QUALITY)
            advance()


def read_strips(folder: Path, clip_id: str) -> dict[str, str]:
    """The strips of a clip in an evaluation's folder as URLs that hold the picture, those that are there."""
    files = {name: folder / FOLDER / clip_id / f"{name}.jpg" for name in STRIPS}
    return {
        name: f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
        for name, file in files.items()
        if file.is_file()
    }


def _strip(video: Video, clip: AskedClip, boxes: Boxes, mask: Shaped[np.ndarray, "f n"]) -> UInt8[np.ndarray, "h w 3"]:
    scale = HEIGHT / video.shape[1]
    size = (max(1, round(video.shape[2] * scale)), HEIGHT)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR  # small frames stay as they are
    frames = np.stack([np.asarray(Image.fromarray(frame).resize(size, how)) for frame in video])
    if clip.labels:
        frames = draw_boxes(frames, boxes, mask, [""] * len(clip.labels), colors=object_colors(len(clip.labels)))
    spaced = [np.pad(frame, ((0, 0), (0, _GAP), (0, 0)), constant_values=255) for frame in frames]
    return np.concatenate(spaced, axis=1)[:, :-_GAP]
