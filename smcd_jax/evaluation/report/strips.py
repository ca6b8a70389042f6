"""Strips: the frames of a clip side by side in one picture with boxes drawn, for the HTML pages."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from smcd_jax.evaluation.grounding_run import Boxes
from smcd_jax.evaluation.video_store import GENERATED, REAL, EvalClip, Video, VideoStore
from smcd_jax.files import write_folder_atomically
from smcd_jax.media import draw_boxes, object_colors
from smcd_jax.runtime.progress import Progress

FOLDER = "strips"  # subfolder of an evaluation, with CLIP_ID/NAME.jpg for each of the names below
STRIPS = ("real", "generated", "found")
HEIGHT = 112  # height of a frame in pixels
_GAP = 2  # pixels between frames
_QUALITY = 85  # JPEG quality


def write_strips(store: VideoStore, found: Mapping[str, Boxes], folder: Path, progress: Progress) -> None:
    """Writes three strips per clip: the real clip, the generated one with its target boxes, and with the boxes found.

    Args:
        store: Clips and videos.
        found: Boxes of the tracker by clip id; a clip without them has no third strip.
        folder: Folder of the evaluation.
        progress: Progress reporting, advanced once per clip.

    Raises:
        SMCDError: A file cannot be written.
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
            target = folder / FOLDER / clip.clip_id
            target.parent.mkdir(parents=True, exist_ok=True)
            with write_folder_atomically(target, may_replace=lambda path: path.suffix == ".jpg") as temporary:
                for name, picture in strips.items():
                    Image.fromarray(picture).save(temporary / f"{name}.jpg", quality=_QUALITY)
            advance()


def read_strips(folder: Path, clip_id: str) -> dict[str, str]:
    """Returns the existing strips of a clip in the folder of an evaluation, as data URLs by name."""
    files = {name: folder / FOLDER / clip_id / f"{name}.jpg" for name in STRIPS}
    return {
        name: f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
        for name, file in files.items()
        if file.is_file()
    }


def _strip(video: Video, clip: EvalClip, boxes: Boxes, mask: Shaped[np.ndarray, "f n"]) -> UInt8[np.ndarray, "h w 3"]:
    scale = HEIGHT / video.shape[1]
    size = (max(1, round(video.shape[2] * scale)), HEIGHT)
    resampling = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR  # keeps small frames sharp
    frames = np.stack([np.asarray(Image.fromarray(frame).resize(size, resampling)) for frame in video])
    if clip.labels:
        frames = draw_boxes(frames, boxes, mask, [""] * len(clip.labels), colors=object_colors(len(clip.labels)))
    spaced = [np.pad(frame, ((0, 0), (0, _GAP), (0, 0)), constant_values=255) for frame in frames]
    return np.concatenate(spaced, axis=1)[:, :-_GAP]
