"""A requested clip: its inputs are read and checked before weights are loaded."""

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

from smcd_jax.errors import SMCDError
from smcd_jax.files.examples import example_file
from smcd_jax.media import read_picture
from smcd_jax.models.video_model import Request
from smcd_jax.motion import load_motion
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.clip_files import ClipFiles, clip_files
from smcd_jax.pipeline.request import make_request
from smcd_jax.sampling_options import SamplingOptions, check_fps, from_values, refuse
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.tracks import BoxTracks, join_tracks, load_tracks, parse_track
from smcd_jax.tracks.track_file import track_file_text

RUN_FORMAT, RUN_VERSION = "smcd-run", 1
_OUTSIDE_OPTIONS = ("seed", "negative_prompt", "end_image")  # stored as separate entries of NAME.json
# A thousand times the size of the published clip, whose activations alone would take terabytes.
_MOST_PIXELS = 1000 * 8 * 256 * 256


@dataclass(frozen=True)
class Clip:
    """A requested clip with checked inputs.

    Attributes:
        picture: Picture in its original size.
        tracks: Box tracks with as many frames as the video, or None.
        options: Sampling options, resolved.
        fps: Frames per second of the files.
        description: Content of NAME.json about the inputs; its "seed" is that of the first video.
        files: Result files.
        notes: Remarks for the user, one line each, such as boxes that were clipped.
    """

    picture: UInt8[np.ndarray, "h w 3"]
    tracks: BoxTracks | None
    options: SamplingOptions
    fps: float
    description: Mapping[str, Any]
    files: ClipFiles
    notes: tuple[str, ...]


def check_clip(
    values: Mapping[str, Any], pipeline: VideoPipeline, *, formats: tuple[str, ...], base: Path = Path()
) -> Clip:
    """Reads and checks the inputs and options of a clip; loads no weights and writes no files.

    Args:
        values: Options of `smcd animate` by name; missing ones take their defaults.
        pipeline: Pipeline that will make the clip.
        formats: Formats of the video files besides mp4.
        base: Folder to which relative paths in the options refer.

    Raises:
        SMCDError: An input cannot be read or does not fit the model, or an option is wrong.
    """
    model, config, folder = pipeline.model, pipeline.config, pipeline.folder
    if "end_image" in values:
        values = {**values, "end_image": str(example_file(base / values["end_image"], "img.png").absolute())}
    if "motion_from" in values:
        values = {**values, "motion_from": str((base / values["motion_from"]).absolute())}
    options = model.resolve(from_values(values))
    if options.motion_from is not None:
        load_motion(options.motion_from)  # finds a damaged file before any work starts
    motion_file = _motion_file(values, base, moves=bool(model.field_shape), count=options.num_videos_per_prompt)
    frames = options.num_frames
    fps = float(values.get("fps", config.fps))
    check_fps(fps, formats)
    _check_memory(options)
    from smcd_jax.media import check_encoder  # needs PyAV

    check_encoder()
    files = clip_files(_output(values, base), formats=formats, count=options.num_videos_per_prompt)
    files = dataclasses.replace(files, motion=motion_file)
    image = _image_path(values, base)
    picture = read_picture(image)
    tracks, notes = _tracks(values, base, image_size=picture.shape[1::-1], frames=frames), ()
    if tracks is None:
        files = dataclasses.replace(files, boxes_drawn=False)
    else:
        tracks, notes = tracks.without_absent()
        notes = (*tracks.notes, *notes)
    request = make_request(model, image=picture, prompt=values.get("prompt"), tracks=tracks, options=options)
    plan = model.plan(request, pipeline.tokenizer)  # raises an error for invalid requests
    model.guidance(options.as_dict())
    model.solver_table(options)
    truncate = bool(values.get("truncate_prompt"))
    notes = (*request.notes, *plan.notes, *notes)
    notes += _check_texts(request, pipeline.tokenizer, config.text_length, truncate=truncate)
    resolved = {name: value for name, value in options.as_dict().items() if value is not None}
    resolved |= {"fps": fps, "truncate_prompt": truncate, "dtype": str(pipeline.policy.compute)}
    description = {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "model": str(folder.path),
        "model_hash": folder.digest,
        "model_origin": folder.origin.kind,
        **pipeline.adapter_description,
        "image": str(image.absolute()),
        "image_size": [picture.shape[1], picture.shape[0]],
        "image_sha256": _sha256(image),
        **({"end_image": end, "end_image_sha256": _sha256(end)} if (end := options.end_image) else {}),
        "prompt": request.prompts[0],
        "negative_prompt": values.get("negative_prompt"),
        "tracks": None if tracks is None else json.loads(track_file_text(tracks)),
        **({"motion_sha256": _sha256(options.motion_from)} if options.motion_from else {}),
        **({"keep_frames": shown} if (shown := plan.keep_frames or plan.shown_frames) else {}),
        "seed": options.seed,
        "options": {name: value for name, value in resolved.items() if name not in _OUTSIDE_OPTIONS},
    }
    return Clip(picture, tracks, options, fps, description, files, notes)


def _sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _image_path(values: Mapping[str, Any], base: Path) -> Path:
    if "input_data_path" in values:
        clashing = [name for name in ("image", "tracks", "track") if name in values]
        if clashing:
            message = f"--{clashing[0]} cannot be combined with --input_data_path, which has its own picture and boxes"
            raise SMCDError(message, argument=clashing[0])
        folder = base / values["input_data_path"]
        if not folder.is_dir():
            message = f"{folder}: no such folder; --input_data_path must be a folder with img.png and bbox.txt"
            raise SMCDError(message, argument="input_data_path", path=folder)
        return folder / "img.png"
    if "image" not in values:
        raise SMCDError("no image; pass --image FILE, or a folder with --input_data_path", argument="image")
    return example_file(base / values["image"], "img.png")


def _output(values: Mapping[str, Any], base: Path) -> Path | str:
    if "output" in values:
        return base / values["output"] if not values["output"].endswith("/") else f"{base / values['output']}/"
    if "input_data_path" in values:
        name = Path(values["input_data_path"]).absolute().name
    else:
        name = Path(values.get("image", "video")).stem
    return f"{name}_video" if Path(name).is_dir() else name  # avoids the name of an existing folder


def _motion_file(values: Mapping[str, Any], base: Path, *, moves: bool, count: int) -> Path | None:
    if "save_motion" not in values:
        return None
    path = base / values["save_motion"]
    if not moves:
        refuse("save_motion", values["save_motion"], "be left out: this model has no motion fields")
    if path.suffix != ".npz":
        refuse("save_motion", values["save_motion"], "end in .npz")
    if count > 1:
        refuse("save_motion", values["save_motion"], "be left out for several videos; a file holds one motion")
    return path


def _tracks(values: Mapping[str, Any], base: Path, *, image_size: tuple[int, int], frames: int) -> BoxTracks | None:
    size = {"image_size": image_size, "frames": frames}
    joined = []
    if "input_data_path" in values:
        path = base / values["input_data_path"]
        joined.append(load_tracks(path, format="reference", label=values.get("label"), **size))
    elif "tracks" in values:
        file = {
            "format": values.get("tracks_format"),
            "label": values.get("label"),
            "video": values.get("tracks_video"),
        }
        joined.append(load_tracks(example_file(base / values["tracks"], "tracks.json"), **file, **size))
    elif "label" in values:
        message = "--label needs --tracks or --input_data_path; the label of a --track comes before its colon"
        raise SMCDError(message, argument="label")
    joined += [parse_track(text, **size) for text in values.get("track", [])]
    return join_tracks(joined) if joined else None


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
        if count > most and name == "label":  # the model itself reports prompts that are too long
            notes.append(f"the label has {count} tokens; the model reads the first {most}: {text[:60]}...")
    return tuple(notes)


def _check_memory(options: SamplingOptions) -> None:
    """Raises an error for sizes that no machine can hold, for which the system would kill the process silently."""
    height, width, frames = options.height, options.width, options.num_frames
    pixels = frames * height * width * options.num_videos_per_prompt
    if pixels > _MOST_PIXELS:
        raise SMCDError(
            f"{options.num_videos_per_prompt} x {frames} frames of {width} x {height} do not fit in memory; "
            "request fewer or smaller frames",
            argument="num_frames" if frames > height * width else "height" if height >= width else "width",
            value=pixels,
        )
