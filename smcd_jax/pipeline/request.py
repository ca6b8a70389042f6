"""What a user asks for, checked before anything is computed: pictures, prompts, tracks and options of one batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.media import LARGEST_SIDE, read_picture, resize_picture
from smcd_jax.models.smcd.config import ModelConfig
from smcd_jax.tracks import BoxTracks, load_tracks

NULL_TEXT = " "  # what the published model was trained to take as no text


@dataclasses.dataclass(frozen=True)
class Request:
    """A checked batch of b examples.

    Attributes:
        pictures: resized (not cropped) to the size of the video.
        prompts: one per example.
        negative_prompts: one per example; one space where none is given.
        tracks: one per example, with as many frames as the video.
        boxes: xyxy in 0..1, padded to the model's number of objects.
        mask: 1 where an object is present.
        seeds: one per example.
    """

    pictures: UInt8[np.ndarray, "b h w 3"]
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    tracks: tuple[BoxTracks, ...]
    boxes: Float[np.ndarray, "b f n 4"]
    mask: Float[np.ndarray, "b f n"]
    seeds: tuple[int, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Every distinct label of the batch, in order of first use."""
        return tuple(dict.fromkeys(label for tracks in self.tracks for label in tracks.labels))


def make_request(
    config: ModelConfig,
    *,
    image: Any,
    prompt: str | Sequence[str] | None,
    tracks: Any,
    negative_prompt: str | Sequence[str] | None = None,
    num_videos_per_prompt: int = 1,
    seed: int | Sequence[int] = 0,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
) -> Request:
    """Checks and completes what a user gave; the arguments are those of `SMCDPipeline.__call__`.

    Raises:
        SMCDError: naming the argument, what is wrong with it and what to do.
    """
    height, width = config.height if height is None else height, config.width if width is None else width
    frames = config.frames if num_frames is None else num_frames
    wholes = {"height": height, "width": width, "num_frames": frames, "num_videos_per_prompt": num_videos_per_prompt}
    for name, value in wholes.items():
        check_whole(name, value)
    _check_size(config, height, width)
    if frames < 1:
        raise SMCDError(f"num_frames is {frames}; use 1 or more (the model was trained on {config.frames})")
    if num_videos_per_prompt < 1:
        raise SMCDError(f"num_videos_per_prompt is {num_videos_per_prompt}; use 1 or more")

    if image is None:
        raise SMCDError("no image: give the picture to animate, its first frame (--image)")
    images, all_tracks = _listed(image), _listed(tracks)
    given = {"image": len(images), "tracks": len(all_tracks), "prompt": 1 if prompt is None else len(_listed(prompt))}
    count = max(given.values())
    odd = {name: number for name, number in given.items() if number not in (1, count)}
    if odd:
        name, number = next(iter(odd.items()))
        raise SMCDError(f"{number} of {name} for a batch of {count}; give one for all, or {count}")

    read = [read_picture(item) for item in images]
    pictures = [resize_picture(picture, height=height, width=width) for picture in read]
    sizes = [picture.shape[1::-1] for picture in _repeated(read, count)]
    loaded = [
        _tracks(item, frames, image_size=size) for item, size in zip(_repeated(all_tracks, count), sizes, strict=True)
    ]
    prompts = [
        _prompt(text, item.prompt, where=f"example {index}: " if count > 1 else "")
        for index, (text, item) in enumerate(zip(_repeated(_listed(prompt), count), loaded, strict=True))
    ]
    negatives = _repeated(_listed(negative_prompt), count, "negative_prompt")
    padded = [item.pad(config.max_objects) for item in loaded]

    each = lambda items: tuple(item for item in items for _ in range(num_videos_per_prompt))  # noqa: E731
    return Request(
        pictures=np.stack(each(_repeated(pictures, count))),
        prompts=each(prompts),
        negative_prompts=each(text or NULL_TEXT for text in negatives),
        tracks=each(loaded),
        boxes=np.stack(each(boxes for boxes, _ in padded)).astype(np.float32),
        mask=np.stack(each(mask for _, mask in padded)).astype(np.float32),
        seeds=_seeds(seed, count * num_videos_per_prompt),
    )


def check_whole(name: str, value: Any) -> None:
    """Refuses what is no whole number.

    Raises:
        SMCDError: naming the argument.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise SMCDError(f"{name} is {value!r:.60}; it must be a whole number")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _repeated(items: Sequence[Any], count: int, name: str = "") -> list[Any]:
    if len(items) not in (1, count):
        raise SMCDError(f"{len(items)} of {name} for a batch of {count}; give one for all, or {count}")
    return list(items) * (count // len(items))


def _check_size(config: ModelConfig, height: int, width: int) -> None:
    multiple = config.size_multiple
    for name, value in (("height", height), ("width", width)):
        if value > LARGEST_SIDE:
            raise SMCDError(f"{name} is {value}; use at most {LARGEST_SIDE}")
        if value < multiple or value % multiple:
            nearest = max(multiple, round(value / multiple) * multiple)
            raise SMCDError(f"{name} is {value}; it must be a multiple of {multiple} for this model, such as {nearest}")


def _tracks(item: Any, frames: int, *, image_size: tuple[int, int]) -> BoxTracks:
    if item is None:
        raise SMCDError(
            "no tracks: give a tracks file (--tracks), or boxes (--track 'label: x1,y1,x2,y2 -> x1,y1,x2,y2')"
        )
    if isinstance(item, BoxTracks):
        return item.resample(frames)
    if not isinstance(item, str | os.PathLike):
        raise SMCDError(f"tracks are {item!r:.60}; give BoxTracks, or the path of a tracks file")
    return load_tracks(item, image_size=image_size, frames=frames)


def _prompt(given: str | None, from_tracks: str | None, *, where: str) -> str:
    text = from_tracks if given is None else given
    if text is None:
        raise SMCDError(f"{where}no prompt: say in a few words what happens (--prompt), or put it into the tracks file")
    if not isinstance(text, str):
        raise SMCDError(f"{where}the prompt is {text!r:.60}; it must be text")
    if not text.strip():
        raise SMCDError(f"{where}the prompt is empty: say in a few words what happens (--prompt)")
    return text


def _seeds(seed: int | Sequence[int], count: int) -> tuple[int, ...]:
    for value in _listed(seed):
        check_whole("seed", value)
    seeds = tuple(seed) if isinstance(seed, list | tuple) else tuple(seed + index for index in range(count))
    if len(seeds) != count:
        raise SMCDError(f"{len(seeds)} seeds for {count} videos; give one number, or one per video")
    for value in seeds:
        if not 0 <= value < 2**32:
            raise SMCDError(f"seed {value} is out of range; use 0 to {2**32 - 1}")
    return seeds
