"""Tracks of labelled boxes: BoxTracks, the file formats they are read from and written to, and tracks as text."""

from __future__ import annotations

from smcd_jax.tracks.box_tracks import BoxTracks, join_tracks
from smcd_jax.tracks.got10k import got10k_prompt, read_got10k
from smcd_jax.tracks.interpolation import INTERPOLATIONS, interpolate
from smcd_jax.tracks.mot import MOT17_CLASSES, read_mot
from smcd_jax.tracks.pixel_tracks import PixelTracks, xywh_to_xyxy, xyxy_to_xywh
from smcd_jax.tracks.reference_folder import read_reference_folder
from smcd_jax.tracks.track_file import Keyframe, TrackFile, TrackObject, parse_track_file, read_track_file
from smcd_jax.tracks.track_formats import (
    FORMATS,
    READ_FORMATS,
    detect_format,
    load_tracks,
    read_tracks,
    save_tracks,
    written_files,
)
from smcd_jax.tracks.track_text import parse_track
from smcd_jax.tracks.youtube_vis import AnnotatedVideo, YouTubeVIS, read_youtube_vis

__all__ = [
    "FORMATS",
    "INTERPOLATIONS",
    "MOT17_CLASSES",
    "READ_FORMATS",
    "AnnotatedVideo",
    "BoxTracks",
    "Keyframe",
    "PixelTracks",
    "TrackFile",
    "TrackObject",
    "YouTubeVIS",
    "detect_format",
    "got10k_prompt",
    "interpolate",
    "join_tracks",
    "load_tracks",
    "parse_track",
    "parse_track_file",
    "read_got10k",
    "read_mot",
    "read_reference_folder",
    "read_track_file",
    "read_tracks",
    "read_youtube_vis",
    "save_tracks",
    "written_files",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]
