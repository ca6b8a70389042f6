"""Pictures and video: reading, writing and drawing.

The video functions import PyAV when they are first used, so that sampling and benchmarks run where it is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from smcd_jax.media.drawing import contact_sheet, draw_boxes, object_colors
from smcd_jax.media.pictures import LARGEST_SIDE, read_picture, resize_picture, to_model_range, to_uint8
from smcd_jax.media.video_info import VideoInfo

if TYPE_CHECKING:
    from smcd_jax.media.encoder import check_encoder
    from smcd_jax.media.video import probe_video, read_video, write_frames, write_video

__all__ = [
    "LARGEST_SIDE",
    "VideoInfo",
    "check_encoder",
    "contact_sheet",
    "draw_boxes",
    "object_colors",
    "probe_video",
    "read_picture",
    "read_video",
    "resize_picture",
    "to_model_range",
    "to_uint8",
    "write_frames",
    "write_video",
]

_VIDEO = {
    "check_encoder": "smcd_jax.media.encoder",
    **dict.fromkeys(("probe_video", "read_video", "write_frames", "write_video"), "smcd_jax.media.video"),
}


def __getattr__(name: str) -> Any:
    if name not in _VIDEO:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_VIDEO[name]), name)
    globals()[name] = value
    return value
