"""Pictures and video: reading, writing and drawing."""

from __future__ import annotations

from smcd_jax.media.drawing import contact_sheet, draw_boxes, object_colors
from smcd_jax.media.encoder import check_encoder
from smcd_jax.media.pictures import LARGEST_SIDE, read_picture, resize_picture, to_model_range, to_uint8
from smcd_jax.media.video import probe_video, read_video, write_frames, write_video
from smcd_jax.media.video_info import VideoInfo

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
