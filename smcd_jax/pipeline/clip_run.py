"""Sampling, decoding and writing of a clip, and completion of an interrupted run from its saved latents."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from smcd_jax.errors import SMCDError
from smcd_jax.media import read_picture
from smcd_jax.motion import save_motion
from smcd_jax.pipeline import VideoPipeline
from smcd_jax.pipeline.clip import Clip
from smcd_jax.pipeline.clip_files import ClipFiles, files_of_kept, read_kept
from smcd_jax.pipeline.clock import Clock
from smcd_jax.pipeline.frames import replace_first_frame
from smcd_jax.pipeline.partial_sample import PartialSample, read_partial, save_partial
from smcd_jax.runtime.devices import device_summary
from smcd_jax.runtime.memory import oom_as_user_error
from smcd_jax.runtime.progress import Progress
from smcd_jax.sampling_options import SamplingOptions, check_fps
from smcd_jax.tracks import BoxTracks, parse_track_file

logger = logging.getLogger(__name__)

_SAME = (
    "model_hash",
    "adapter",
    "image_sha256",
    "end_image_sha256",
    "motion_sha256",
    "prompt",
    "negative_prompt",
    "tracks",
    "seed",
    "options",
)
SMALLER = (
    "use fewer --num_frames or --num_videos_per_prompt, a smaller --height and --width, a smaller --decode_chunk_size, "
    "or --dtype bfloat16"
)


def make_clip(pipeline: VideoPipeline, clip: Clip, *, progress: Progress) -> dict[str, float]:
    """Samples, decodes and writes a clip.

    Returns:
        Seconds spent in load, compile, encode, denoise and decode.

    Raises:
        SMCDError: Memory or disk space ran out, the weights are damaged, or the sample is not finite.
    """
    if clip.options.motion_from is not None:  # the motion is given, so there is nothing to sample
        description = {**clip.description, **device_summary(), "seconds": {}, "formats": clip.files.formats}
        return _finish(pipeline, clip.files, None, description, progress=progress)
    resume = _partial_of(clip)
    if resume is not None:
        logger.warning("continuing the interrupted sample after step %d", resume.step)
    with oom_as_user_error(SMALLER):
        sample = pipeline(
            clip.picture,
            clip.description["prompt"],
            tracks=clip.tracks,
            options=clip.options,
            output_type="latent",
            resume=resume,
            on_interrupt=lambda partial: _keep_partial(clip, partial),
            progress=progress,
        )
    description = {**clip.description, **device_summary(), "seconds": sample.seconds, "formats": clip.files.formats}
    clip.files.keep(sample.latents, description)
    clip.files.partial.unlink(missing_ok=True)
    return _finish(pipeline, clip.files, sample.latents, description, progress=progress)


def finish_clip(pipeline: VideoPipeline, files: ClipFiles, *, changes: Mapping[str, Any], progress: Progress) -> dict:
    """Decodes and writes the sample that an interrupted run kept.

    Args:
        pipeline: Pipeline of the model that made the sample.
        files: Result files.
        changes: Decoding options that replace those of the interrupted run.
        progress: Progress reporting.

    Returns:
        Seconds per stage, as for `make_clip`, including those of the interrupted run.

    Raises:
        SMCDError: The kept sample is damaged or belongs to another model, or one of the errors of `make_clip` occurs.
    """
    latents, description = read_kept(files.latents)
    if description["model_hash"] != pipeline.folder.digest:
        message = f"{files.latents}: made by a different model than {pipeline.folder.path}; pass it with --model"
        raise SMCDError(message, argument="model", path=files.latents)
    description["options"] |= changes
    return _finish(pipeline, files, latents, description, progress=progress)


def kept_files(path: Path, *, formats: tuple[str, ...]) -> tuple[ClipFiles, dict[str, Any]]:
    """Returns the result files and the description of the sample kept in ``path``.

    Args:
        path: File of the kept sample.
        formats: Formats to write besides those of the interrupted run.

    Raises:
        SMCDError: The file holds no kept sample.
    """
    latents, description = read_kept(path)
    try:
        wanted = dict.fromkeys((*description["formats"], *formats))
        check_fps(description["options"]["fps"], tuple(wanted))
        _tracks_of(description)
    except KeyError as error:
        message = f"{path}: {error} is missing; run the clip again"
        raise SMCDError(message, argument="decode_latents", path=path) from error
    drawn = description["tracks"] is not None
    return files_of_kept(path, tuple(wanted), len(latents), boxes_drawn=drawn), description


def is_described(clip: Clip) -> bool:
    """Returns whether NAME.json of every video exists and records the same inputs and options."""
    return all(
        _same(clip.description, _json(clip.files.description(index)), first_seed=clip.description["seed"] + index)
        for index in range(clip.files.count)
    )


def is_kept(clip: Clip) -> bool:
    """Returns whether a sample of the same inputs and options is kept."""
    if not clip.files.latents.exists():
        return False
    return _same(clip.description, read_kept(clip.files.latents)[1], first_seed=clip.description["seed"])


def _partial_of(clip: Clip) -> PartialSample | None:
    """Returns the interrupted sample of the same inputs and options, if there is one."""
    found = read_partial(clip.files.partial)
    if found is None or not _same(clip.description, found[1], first_seed=clip.description["seed"]):
        return None
    return found[0]


def _keep_partial(clip: Clip, partial: PartialSample) -> None:
    try:
        save_partial(clip.files.partial, partial, clip.description)
    except SMCDError as error:  # the caller reports the interruption, which matters more than this error
        logger.warning("the interrupted sample is not kept: %s", error)
    else:
        logger.warning("%d steps are kept; the same command continues from there", partial.step)


def _finish(
    pipeline: VideoPipeline,
    files: ClipFiles,
    latents: Float[np.ndarray, "b f h w c"] | None,
    description: Mapping[str, Any],
    *,
    progress: Progress,
) -> dict[str, float]:
    """Decodes latents, or reads the motion file of the description, and writes the videos."""
    kept = f"the sample is kept; finish it with: smcd animate --decode_latents {files.latents}"
    clock, options = Clock(pipeline.components.load_and_compile_seconds), description["options"]
    pipeline.components.progress = progress
    try:
        with clock.stage("decode"), oom_as_user_error(SMALLER):
            inputs = None
            if pipeline.model.field_shape:
                pictures = _fitted(pipeline, description).repeat(files.count, axis=0)
                inputs = pipeline.model.picture_inputs(pictures)
            decoded = pipeline.decoded(latents, inputs, _playback(options))
            videos = pipeline.render_decoded(decoded, inputs, chunk_size=options["decode_chunk_size"])
            for note in pipeline.model.decoded_notes(decoded):
                logger.warning("%s", note)
            if files.motion is not None:
                files.motion.parent.mkdir(parents=True, exist_ok=True)
                save_motion(files.motion, decoded)
            if options.get("replace_first_frame"):
                videos, note = replace_first_frame(videos, _fitted(pipeline, description))
                logger.warning("%s", note)
        before, now = description["seconds"], clock.seconds()
        seconds = {name: round(before.get(name, 0.0) + now.get(name, 0.0), 3) for name in {**before, **now}}
        provenance = {name: value for name, value in description.items() if name != "formats"} | {"seconds": seconds}
        descriptions = [{**provenance, "seed": description["seed"] + index} for index in range(files.count)]
        with progress.stage("write"):
            files.write(videos, _tracks_of(description), descriptions, fps=options["fps"])
    except SMCDError as error:
        raise error if latents is None else error.reworded(f"{error}; {kept}") from error
    except BaseException:
        if latents is not None:
            logger.warning("%s", kept)
        raise
    files.latents.unlink(missing_ok=True)
    return seconds


def _playback(options: Mapping[str, Any]) -> SamplingOptions:
    names = ("loop", "slow", "interpolation", "strength", "motion_from")
    return SamplingOptions(**{name: options[name] for name in names if name in options})


def _fitted(pipeline: VideoPipeline, description: Mapping[str, Any]) -> np.ndarray:
    sizes = {name: description["options"].get(name) for name in ("height", "width", "picture_fit")}
    return pipeline.model.fit_picture(read_picture(description["image"]), SamplingOptions(**sizes)).pixels[None]


def _tracks_of(description: Mapping[str, Any]) -> BoxTracks | None:
    if description["tracks"] is None:
        return None
    tracks = parse_track_file(json.dumps(description["tracks"])).to_pixel_tracks().to_box_tracks()
    shown = list(description.get("keep_frames", range(tracks.num_frames)))
    return dataclasses.replace(tracks, boxes=tracks.boxes[shown], mask=tracks.mask[shown])


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # missing, or written by another program


def _same(wanted: Mapping[str, Any], found: Any, *, first_seed: int) -> bool:
    if not isinstance(found, dict):
        return False
    wanted = json.loads(json.dumps({**wanted, "seed": first_seed}))
    return all(found.get(name) == wanted.get(name) for name in _SAME)
