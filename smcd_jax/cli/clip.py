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
from smcd_jax.cli.clip_options import check_fps, with_defaults
from smcd_jax.diffusion.guidance import Guidance, composed_guidance, reference_guidance
from smcd_jax.diffusion.samplers import make_solver_table
from smcd_jax.diffusion.schedule import NoiseSchedule
from smcd_jax.errors import SMCDError
from smcd_jax.media import check_encoder, read_picture
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.pipeline import SMCDPipeline
from smcd_jax.pipeline.request import Request, make_request
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
        tracks: with as many frames as the video.
        options: of sampling, all of them, by their names on the command line.
        guidance: that the options describe.
        description: what NAME.json says of the input; its "seed" is that of the first video.
        files: where the results go.
        notes: what a user should know, such as boxes that were clipped.
    """

    picture: UInt8[np.ndarray, "h w 3"]
    tracks: BoxTracks
    options: Mapping[str, Any]
    guidance: Guidance
    description: Mapping[str, Any]
    files: ClipFiles
    notes: tuple[str, ...]


def check_clip(
    given: Mapping[str, Any], pipeline: SMCDPipeline, *, formats: tuple[str, ...], base: Path = Path()
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
    options, config, folder = with_defaults(given), pipeline.config, pipeline.folder
    frames = config.frames if options["num_frames"] is None else options["num_frames"]
    check_fps(config.fps if options["fps"] is None else options["fps"], formats)
    _check_memory(options, config, frames)
    check_encoder()
    files = clip_files(_output(given, base), formats=formats, count=max(1, options["num_videos_per_prompt"]))
    image = _image_path(given, base)
    picture = read_picture(image)
    tracks, notes = _without_absent(_tracks(given, base, image_size=picture.shape[1::-1], frames=frames))
    request = make_request(
        config,
        image=picture,
        prompt=given.get("prompt"),
        tracks=tracks,
        negative_prompt=given.get("negative_prompt"),
        **{name: options[name] for name in ("num_videos_per_prompt", "seed", "height", "width", "num_frames")},
    )
    guidance = chosen_guidance(options)
    check_sampler(options, config)
    notes += _check_texts(request, pipeline.tokenizer, config.text_encoder.length, truncate=options["truncate_prompt"])
    height, width = request.pictures.shape[1:3]
    resolved = {**options, "height": height, "width": width, "num_frames": frames}
    resolved["fps"] = float(config.fps if options["fps"] is None else options["fps"])
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
        "tracks": json.loads(track_file_text(tracks)),
        "seed": options["seed"],
        "options": {name: value for name, value in resolved.items() if name != "seed"},
    }
    return Clip(picture, tracks, options, guidance, description, files, (*tracks.notes, *notes))


def _image_path(given: Mapping[str, Any], base: Path) -> Path:
    if "input_data_path" in given:
        clashing = [name for name in ("image", "tracks", "track") if name in given]
        if clashing:
            raise SMCDError(f"--input_data_path brings its own picture and boxes; leave out --{clashing[0]}")
        folder = base / given["input_data_path"]
        if not folder.is_dir():
            raise SMCDError(f"no such folder: {folder}; give --input_data_path a folder with img.png and bbox.txt")
        return folder / "img.png"
    if "image" not in given:
        raise SMCDError("no picture: give one with --image FILE (or a folder with --input_data_path)")
    return base / given["image"]


def _output(given: Mapping[str, Any], base: Path) -> Path | str:
    if "output" in given:
        return base / given["output"] if not given["output"].endswith("/") else f"{base / given['output']}/"
    if "input_data_path" in given:
        return Path(given["input_data_path"]).absolute().name
    return Path(given.get("image", "video")).stem


def _tracks(given: Mapping[str, Any], base: Path, *, image_size: tuple[int, int], frames: int) -> BoxTracks:
    how = {"image_size": image_size, "frames": frames}
    joined = []
    if "input_data_path" in given:
        path = base / given["input_data_path"]
        joined.append(load_tracks(path, format="reference", label=given.get("label"), **how))
    elif "tracks" in given:
        file = {"format": given.get("tracks_format"), "label": given.get("label"), "video": given.get("tracks_video")}
        joined.append(load_tracks(base / given["tracks"], **file, **how))
    elif "label" in given:
        raise SMCDError("--label names the object of a tracks file; a --track has its label before the colon")
    joined += [parse_track(text, **how) for text in given.get("track", [])]
    if not joined:
        raise SMCDError("no boxes: give --tracks FILE, or --track 'rocket: x1,y1,x2,y2 -> x1,y1,x2,y2'")
    return join_tracks(joined)


def _without_absent(tracks: BoxTracks) -> tuple[BoxTracks, tuple[str, ...]]:
    """Objects in none of the frames would take a place in the model and say nothing to it."""
    seen = np.flatnonzero(tracks.mask.any(axis=0))
    if len(seen) == 0:
        raise SMCDError(f"no object is present in any of the {tracks.num_frames} frames; mend the tracks")
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
    return kept, (f"left out, for they are in none of the {tracks.num_frames} frames: {names}",)


def chosen_guidance(options: Mapping[str, Any]) -> Guidance:
    """Branches and weights that the options of sampling describe."""
    names = {
        True: ("guidance_scale", "img_free_guidance", "ti_free_guidance"),
        False: ("guidance_scale", "image_guidance_scale", "box_guidance_scale"),
    }[options["reference_guidance"]]
    make = reference_guidance if options["reference_guidance"] else composed_guidance
    return make(**{name: options[name] for name in names})


def check_sampler(options: Mapping[str, Any], config: ModelConfig) -> None:
    """Raises SMCDError for a sampler that cannot be made with these options."""
    schedule = NoiseSchedule(
        prediction_type=config.prediction_type, rescale_zero_terminal_snr=options["rescale_zero_terminal_snr"]
    )
    make_solver_table(
        schedule,
        sampler=options["scheduler"],
        num_steps=options["num_inference_steps"],
        spacing=options["timestep_spacing"],
        eta=options["eta"],
    )


def _check_texts(request: Request, tokenizer: Tokenizer, most: int, *, truncate: bool) -> tuple[str, ...]:
    notes = []
    named = {"prompt": request.prompts[0], "negative_prompt": request.negative_prompts[0]}
    for name, text in (*named.items(), *(("label", label) for label in request.labels)):
        if not text.isprintable() and any(0xD800 <= ord(letter) < 0xE000 for letter in text):
            raise SMCDError(f"the {name} {text!r:.60} is not text in UTF-8; write it in UTF-8")
        count = tokenizer.count(text)
        if count > most and not truncate:
            raise SMCDError(
                f"the {name} is too long: {count} tokens, and the model reads {most}; shorten it to about "
                f"{most * 2 // 3} words, or pass --truncate_prompt to use its beginning"
            )
        if count > most:
            notes.append(f"the {name} has {count} tokens; the model reads the first {most}")
    return tuple(notes)


def _check_memory(options: Mapping[str, Any], config: ModelConfig, frames: int) -> None:
    """Refuses what cannot fit by orders of magnitude, which else would end in the system killing the process."""
    height, width = options["height"] or config.height, options["width"] or config.width
    pixels = frames * height * width * options["num_videos_per_prompt"]
    if pixels > _MOST_PIXELS:
        raise SMCDError(
            f"{options['num_videos_per_prompt']} x {frames} frames of {width} x {height} are more than fit in memory; "
            "ask for fewer or smaller ones"
        )
