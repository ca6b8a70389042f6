"""A clip as asked for: its inputs are read and everything about it is checked before weights are loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from smcd_jax.cli.clip_files import ClipFiles, clip_files
from smcd_jax.cli.clip_options import check_fps, sampling_options
from smcd_jax.errors import SMCDError
from smcd_jax.media import check_encoder, read_picture
from smcd_jax.models.video_model import Request
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.request import make_request
from smcd_jax.sampling_options import SamplingOptions
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.tracks import BoxTracks, join_tracks, load_tracks, parse_track
from smcd_jax.tracks.track_file import track_file_text

RUN_FORMAT, RUN_VERSION = "smcd-run", 1
# A thousand times the published clip: its activations alone would take terabytes.
_MOST_PIXELS = 1000 * 8 * 256 * 256


@dataclass(frozen=True)
class Clip:
    """A clip that was asked for, read and checked.

    Attributes:
        picture: as read, not resized.
        tracks: Box tracks with as many frames as the video; None where there are none.
        options: of sampling.
        fps: frames per second of the files.
        description: what NAME.json says of the input; its "seed" is that of the first video.
        files: where the results go.
        notes: what a user should know, such as boxes that were clipped.
    """

    picture: UInt8[np.ndarray, "h w 3"]
    tracks: BoxTracks | None
    options: SamplingOptions
    fps: float
    description: Mapping[str, Any]
    files: ClipFiles
    notes: tuple[str, ...]


def check_clip(
    given: Mapping[str, Any], pipeline: VideoPipeline, *, formats: tuple[str, ...], base: Path = Path()
) -> Clip:
    """Reads and checks all that a clip needs, without loading weights or writing anything but to memory.

    Args:
        given: options that were given (`clip_options.OPTIONS`).
        pipeline: that will make it; of it the model's config, tokeniser and dtype are read.
        formats: of the video files, beside mp4.
        base: what relative paths among the options are relative to.

    Raises:
        SMCDError: one line that says what is wrong and what to do.
    """
    options, config, folder = sampling_options(given), pipeline.config, pipeline.folder
    frames = options.num_frames or config.frames
    fps = float(given.get("fps", config.fps))
    check_fps(fps, formats)
    _check_memory(options, config, frames)
    check_encoder()
    files = clip_files(_output(given, base), formats=formats, count=options.num_videos_per_prompt)
    image = _image_path(given, base)
    picture = read_picture(image)
    tracks, notes = _tracks(given, base, image_size=picture.shape[1::-1], frames=frames), ()
    if tracks is None:
        files = dataclasses.replace(files, boxes_drawn=False)
    else:
        tracks, notes = _without_absent(tracks)
        notes = (*tracks.notes, *notes)
    request = make_request(pipeline.model, image=picture, prompt=given.get("prompt"), tracks=tracks, options=options)
    pipeline.model.plan(request, pipeline.tokenizer)  # refuses what the model cannot take, such as too many objects
    pipeline.model.guidance(options.as_dict())
    pipeline.solver_table(options)
    truncate = bool(given.get("truncate_prompt"))
    notes += _check_texts(request, pipeline.tokenizer, config.text_length, truncate=truncate)
    height, width = request.pictures.shape[1:3]
    resolved = {**options.as_dict(), **pipeline.model.resolved_scales(options.as_dict())}
    resolved |= {"height": height, "width": width, "num_frames": frames, "fps": fps, "truncate_prompt": truncate}
    resolved["dtype"] = str(pipeline.policy.compute)
    description = {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "model": str(folder.path),
        "model_hash": folder.digest,
        "model_origin": folder.origin.kind,
        "image": str(image.absolute()),
        "image_size": [picture.shape[1], picture.shape[0]],
        "image_sha256": hashlib.sha256(image.read_bytes()).hexdigest(),
        "prompt": request.prompts[0],
        "negative_prompt": given.get("negative_prompt"),
        "tracks": None if tracks is None else json.loads(track_file_text(tracks)),
        "seed": options.seed,
        "options": {name: value for name, value in resolved.items() if name not in ("seed", "negative_prompt")},
    }
    return Clip(picture, tracks, options, fps, description, files, notes)


def _image_path(given: Mapping[str, Any], base: Path) -> Path:
    if "input_data_path" in given:
        clashing = [name for name in ("image", "tracks", "track") if name in given]
        if clashing:
            raise SMCDError(
                f"--{clashing[0]} cannot be combined with --input_data_path, which has its own picture and boxes",
                argument=clashing[0],
            )
        folder = base / given["input_data_path"]
        if not folder.is_dir():
            raise SMCDError(
                f"{folder}: no such folder; --input_data_path must be a folder with img.png and bbox.txt",
                argument="input_data_path",
                path=folder,
            )
        return folder / "img.png"
    if "image" not in given:
        raise SMCDError("no image; pass --image FILE, or a folder with --input_data_path", argument="image")
    return base / given["image"]


def _output(given: Mapping[str, Any], base: Path) -> Path | str:
    if "output" in given:
        return base / given["output"] if not given["output"].endswith("/") else f"{base / given['output']}/"
    if "input_data_path" in given:
        name = Path(given["input_data_path"]).absolute().name
    else:
        name = Path(given.get("image", "video")).stem
    return f"{name}_video" if Path(name).is_dir() else name  # as where the folder of the input is called so


def _tracks(given: Mapping[str, Any], base: Path, *, image_size: tuple[int, int], frames: int) -> BoxTracks | None:
    size = {"image_size": image_size, "frames": frames}
    joined = []
    if "input_data_path" in given:
        path = base / given["input_data_path"]
        joined.append(load_tracks(path, format="reference", label=given.get("label"), **size))
    elif "tracks" in given:
        file = {"format": given.get("tracks_format"), "label": given.get("label"), "video": given.get("tracks_video")}
        joined.append(load_tracks(base / given["tracks"], **file, **size))
    elif "label" in given:
        raise SMCDError(
            "--label needs --tracks or --input_data_path; the label of a --track stands before its colon",
            argument="label",
        )
    joined += [parse_track(text, **size) for text in given.get("track", [])]
    return join_tracks(joined) if joined else None


def _without_absent(tracks: BoxTracks) -> tuple[BoxTracks, tuple[str, ...]]:
    """Objects in none of the frames would take a place in the model and say nothing to it."""
    seen = np.flatnonzero(tracks.mask.any(axis=0))
    if len(seen) == 0:
        raise SMCDError(
            f"no object is present in any of the {tracks.num_frames} frames; check the tracks", argument="tracks"
        )
    if len(seen) == tracks.num_objects:
        return tracks, ()
    absent = [tracks.labels[index] for index in range(tracks.num_objects) if index not in seen]
    kept = dataclasses.replace(
        tracks,
        boxes=tracks.boxes[:, seen],
        mask=tracks.mask[:, seen],
        labels=tuple(tracks.labels[index] for index in seen),
    )
    names = ", ".join(map(repr, absent))
    return kept, (f"ignored objects that are in none of the {tracks.num_frames} frames: {names}",)


def _check_texts(request: Request, tokenizer: Tokenizer, most: int, *, truncate: bool) -> tuple[str, ...]:
    notes = []
    named = [("prompt", request.prompts[0]), ("negative_prompt", request.negative_prompts[0] or "")]
    labels = dict.fromkeys(label for tracks in request.tracks if tracks is not None for label in tracks.labels)
    for name, text in (*named, *(("label", label) for label in labels)):
        if not text.isprintable() and any(0xD800 <= ord(letter) < 0xE000 for letter in text):
            raise SMCDError(f"{name} must be UTF-8 text, got {text!r:.60}", argument=name, value=text)
        count = tokenizer.count(text)
        if count > most and not truncate:
            raise SMCDError(
                f"the {name} is too long: {count} tokens, and the model reads {most}; shorten it to about "
                f"{most * 2 // 3} words, or pass --truncate_prompt to use its beginning",
                argument=name,
                value=text,
            )
        if count > most:
            notes.append(f"the {name} has {count} tokens; the model reads the first {most}")
    return tuple(notes)


def _check_memory(options: SamplingOptions, config: Any, frames: int) -> None:
    """Refuses what cannot fit by orders of magnitude, which else would end in the system killing the process."""
    height, width = options.height or config.height, options.width or config.width
    pixels = frames * height * width * options.num_videos_per_prompt
    if pixels > _MOST_PIXELS:
        raise SMCDError(
            f"{options.num_videos_per_prompt} x {frames} frames of {width} x {height} are more than fit in memory; "
            "request fewer or smaller frames",
            argument="num_frames" if frames > height * width else "height" if height >= width else "width",
            value=pixels,
        )
