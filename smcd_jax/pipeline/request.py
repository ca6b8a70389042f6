"""Requests: pictures, prompts and tracks of one batch, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from smcd_jax.diffusion.windows import make_windows
from smcd_jax.errors import SMCDError
from smcd_jax.media import LARGEST_SIDE, read_picture
from smcd_jax.models.video_model import Request, VideoModel
from smcd_jax.sampling_options import SamplingOptions, refuse
from smcd_jax.tracks import BoxTracks, load_tracks


def make_request(
    model: VideoModel, *, image: Any, prompt: str | Sequence[str] | None, tracks: Any, options: SamplingOptions
) -> Request:
    """Checks and completes the arguments of a call of `VideoPipeline`.

    Raises:
        SMCDError: An argument is missing, does not fit the others, or does not fit the model.
    """
    options = model.resolve(options)
    height, width, frames = options.height, options.width, options.num_frames
    _check_size(model.config.size_multiple, height=height, width=width)
    if image is None:
        raise SMCDError("no image; pass the picture to animate with --image FILE", argument="image")
    if tracks is None and "tracks" in model.required:
        message = "no tracks; pass a tracks file with --tracks FILE, or boxes with --track 'label: x1,y1,x2,y2 -> ...'"
        raise SMCDError(message, argument="tracks")
    if tracks is not None and not model.takes_tracks:
        raise SMCDError("this model does not take tracks; omit --tracks and --track", argument="tracks")
    arguments = {"image": _listed(image), "tracks": _listed(tracks), "prompt": _listed(prompt)}
    arguments |= {"negative_prompt": _listed(options.negative_prompt), "end_image": _listed(options.end_image)}
    count = max(map(len, arguments.values()))
    for name, items in arguments.items():
        if len(items) not in (1, count):
            refuse(name, len(items), f"have 1 entry, or {count} for a batch of {count}")

    def repeated(items: Sequence[Any]) -> list[Any]:
        return list(items) * (count // len(items))

    read = [read_picture(item) for item in arguments["image"]]
    fitted = [model.fit_picture(picture, options) for picture in read]
    ends = None
    if options.end_image is not None:
        ends = repeated([model.fit_picture(read_picture(item), options) for item in arguments["end_image"]])
    sizes = [picture.shape[1::-1] for picture in repeated(read)]
    loaded = [
        _load_tracks(item, frames, image_size=size)
        for item, size in zip(repeated(arguments["tracks"]), sizes, strict=True)
    ]
    prompts = [
        _prompt(model, text, item, where=f"example {index}: " if count > 1 else "")
        for index, (text, item) in enumerate(zip(repeated(arguments["prompt"]), loaded, strict=True))
    ]

    def each(items: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(item for item in items for _ in range(options.num_videos_per_prompt))

    return Request(
        pictures=np.stack([part.pixels for part in each(repeated(fitted))]),
        prompts=each(prompts),
        negative_prompts=each([text or None for text in repeated(arguments["negative_prompt"])]),
        tracks=each(loaded),
        num_frames=frames,
        seeds=_seeds(options.seed, count * options.num_videos_per_prompt),
        options=options,
        end_pictures=None if ends is None else np.stack([part.pixels for part in each(ends)]),
        originals=each(repeated(read)),
        notes=(*dict.fromkeys(part.note for part in (*fitted, *(ends or ())) if part.note), *_windows_note(options)),
    )


def _windows_note(options: SamplingOptions) -> tuple[str, ...]:
    size, overlap = options.window, options.window_overlap
    windows = make_windows(options.num_frames, window=size, overlap=overlap)
    if windows is None:
        return ()
    note = (
        f"{options.num_frames} frames are denoised in {len(windows.frames)} windows of {size} frames with an overlap "
        f"of {overlap}; the picture conditions each of them"
    )
    return (note,)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_size(multiple: int, **sides: int) -> None:
    for name, value in sides.items():
        if value > LARGEST_SIDE:
            refuse(name, value, f"be at most {LARGEST_SIDE}")
        if value % multiple:
            nearest = max(multiple, round(value / multiple) * multiple)
            refuse(name, value, f"be a multiple of {multiple} for this model, such as {nearest}")


def _load_tracks(item: Any, frames: int, *, image_size: tuple[int, int]) -> BoxTracks | None:
    if item is None:
        return None
    if isinstance(item, BoxTracks):
        return item.resample(frames)
    if not isinstance(item, str | os.PathLike):
        refuse("tracks", item, "be BoxTracks or the path of a tracks file")
    return load_tracks(item, image_size=image_size, frames=frames)


def _prompt(model: VideoModel, prompt: str | None, tracks: BoxTracks | None, *, where: str) -> str:
    text = prompt if prompt is not None or tracks is None else tracks.prompt
    if "prompt" not in model.required and (text is None or text == ""):
        return model.null_prompt
    if text is None:
        message = f"{where}no prompt; describe what happens with --prompt TEXT, or in the tracks file"
        raise SMCDError(message, argument="prompt")
    if not isinstance(text, str):
        refuse("prompt", text, "be text")
    if not text.strip():
        message = f"{where}prompt is empty; describe what happens with --prompt TEXT"
        raise SMCDError(message, argument="prompt", value=text)
    return text


def _seeds(seed: int | Sequence[int], count: int) -> tuple[int, ...]:
    seeds = tuple(seed) if isinstance(seed, list | tuple) else tuple(seed + index for index in range(count))
    if len(seeds) != count:
        refuse("seed", len(seeds), f"be one number, or {count} for {count} videos")
    for value in seeds:
        if not 0 <= value < 2**32:
            refuse("seed", value, f"be between 0 and {2**32 - 1}")
    return seeds
