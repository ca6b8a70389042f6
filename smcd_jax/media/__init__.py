"""Pictures and video: reading, writing and drawing."""

from __future__ import annotations

from smcd_jax.media.drawing import contact_sheet, draw_boxes, object_colors
from smcd_jax.media.pictures import LARGEST_SIDE, read_picture, resize_picture, to_model_range, to_uint8
from smcd_jax.media.video import probe_video, read_video, write_frames, write_video

__all__ = [
    "LARGEST_SIDE",
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
