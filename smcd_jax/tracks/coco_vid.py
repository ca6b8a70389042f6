"""COCO-VID annotations: boxes with object ids, for images that are listed in the order of their video's frames."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

from smcd_jax.errors import SMCDError
from smcd_jax.files.json_value import JsonValue
from smcd_jax.files.text_files import read_json
from smcd_jax.tracks.observations import Observation, gather
from smcd_jax.tracks.pixel_tracks import PixelTracks
from smcd_jax.tracks.youtube_vis import entries, no_annotations

_IDENTITIES = ("instance_id", "track_id", "tracking_id")


def is_coco(content: Any) -> bool:
    """Returns whether the content of a JSON file has images and annotations as COCO does."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def read_coco_vid(path: Path, *, video: int | str | None = None) -> PixelTracks:
    """Returns the objects of one video, in order of their ids; pixels count from 0.

    The id of an object is `instance_id` or `track_id` of its annotations, or `attributes.track_id` (CVAT's export as
    COCO 1.0). Images without `video_id` form one video; they are ordered by `frame_id`, or else as in the file.

    Args:
        path: File.
        video: Id or name of the video; None for the only one with annotations.

    Raises:
        SMCDError: No or several videos match (`argument` is `video`), an annotation has no object id, or an entry
            violates the format.
    """
    content = JsonValue(read_json(path), str(path))
    if no_annotations(content.data):
        raise SMCDError(
            f"{path}: no annotations, as in validation and test files; use the file of another split",
            argument="annotations",
            path=path,
        )
    categories = {scalar(item, "id"): str(scalar(item, "name")) for item in entries(content, "categories")}
    images = {scalar(item, "id"): item for item in entries(content, "images")}
    by_video: dict[Any, list[JsonValue]] = {}
    for item in entries(content, "annotations"):
        image = images.get(scalar(item, "image_id"))
        if image is None:
            raise item.get("image_id").error("must be the id of an image")
        by_video.setdefault(_video_of(image), []).append(item)
    identity = _find(content, by_video, video)
    frames = sorted((image for image in images.values() if _video_of(image) == identity), key=_frame)
    position = {image.data["id"]: frame for frame, image in enumerate(frames)}
    observations = []
    for item in by_video[identity]:
        x, y, width, height = item.member("bbox").numbers(("x", "y", "width", "height"))
        category = scalar(item, "category_id")
        if category not in categories:
            raise item.get("category_id").error(f"must be one of the {len(categories)} categories")
        box = (x, y, x + width, y + height)
        label = " ".join(categories[category].split()) or None
        observations.append(Observation(position[item.data["image_id"]], _identity(item), box, label, item.key))
    size = None
    if frames[0].data.get("width") is not None and frames[0].data.get("height") is not None:
        size = (frames[0].get("width").number(), frames[0].get("height").number())
    where = str(path) if identity is None else f"{path}: video {identity}"
    note = f"{where}: read as COCO-VID: x,y,width,height in pixels from 0, one object per id, {len(frames)} images"
    return gather(observations, path=str(path), source=where, frames=len(frames), size=size, notes=[note])


def scalar(item: JsonValue, key: str) -> Any:
    """Returns a member that must be a number or text."""
    value = item.member(key)
    if not isinstance(value.data, int | float | str):
        raise value.error("must be a number or text")
    return value.data


def _video_of(image: JsonValue) -> Hashable:
    return scalar(image, "video_id") if "video_id" in image.data else None


def _frame(image: JsonValue) -> float:
    return image.get("frame_id").number() if image.data.get("frame_id") is not None else 0.0


def _identity(annotation: JsonValue) -> Hashable:
    attributes = annotation.get("attributes")
    holders = (annotation, attributes) if isinstance(attributes.data, dict) else (annotation,)
    for holder in holders:
        for key in _IDENTITIES:
            if holder.data.get(key) is not None:
                return scalar(holder, key)
    raise SMCDError(
        f"{annotation.place} has no instance_id or track_id (COCO without tracks cannot be read); run a tracker first",
        argument=annotation.key,
        path=annotation.path,
    )


def _find(content: JsonValue, by_video: dict[Any, list[JsonValue]], video: int | str | None) -> Any:
    names = {key: str(key) for key in by_video}
    if isinstance(content.data.get("videos"), list):
        for item in entries(content, "videos"):
            if scalar(item, "id") in names and isinstance(item.data.get("name"), str):
                names[scalar(item, "id")] = item.data["name"]
    matching = [key for key, name in names.items() if video is None or str(video) in (name, str(key))]
    if len(matching) == 1:
        return matching[0]
    first = ", ".join(f"{key} ({names[key]})" for key in list(names)[:3])
    raise SMCDError(
        f"{content.path}: {len(matching)} videos with annotations match; choose one by id or name: {first}",
        argument="video",
        path=content.path,
        value=video,
    )
