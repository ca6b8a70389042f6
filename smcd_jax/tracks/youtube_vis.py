"""YouTube-VIS and COCO-video annotations (`instances.json`): per object a list of x,y,w,h boxes, null where absent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.text_files import MAX_COORDINATE, read_json, write_text
from smcd_jax.tracks.box_tracks import BoxTracks
from smcd_jax.tracks.pixel_tracks import PixelTracks, to_pixels, xywh_to_xyxy, xyxy_to_xywh


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """One video of the file: its id, its name (folder of its frames), the frames' file names, and its boxes."""

    id: int
    name: str
    file_names: tuple[str, ...]
    tracks: PixelTracks


@dataclass(frozen=True, eq=False)
class YouTubeVIS:
    """A parsed `instances.json`; videos are checked when they are asked for.

    Attributes:
        names: name of each video by its id, in the order of the file.
        annotated: ids of the videos that have objects.
    """

    source: str
    names: dict[int, str]
    annotated: tuple[int, ...]
    _videos: dict[int, dict[str, Any]]
    _annotations: dict[int, list[dict[str, Any]]]
    _categories: dict[int, str]

    def video(self, key: int | str | None = None) -> AnnotatedVideo:
        """The video of that id or name; without one, the only video of the file. Its boxes are in pixels from 0.

        Raises:
            SMCDError: no such video, several to choose from, a video without objects, or an entry not of the format.
        """
        identity = self._find(key)
        entry, where = self._videos[identity], f"{self.source}: video {identity}"
        annotations = self._annotations.get(identity, [])
        if not annotations:
            raise SMCDError(f"{where} has no annotation (validation and test files carry none): choose another video")
        length = _length(entry, where)
        columns = [self._boxes(item, length, where=where) for item in annotations]
        size = (
            _number(_key(entry, "width", where), f"{where}: width"),
            _number(_key(entry, "height", where), f"{where}: height"),
        )
        tracks = PixelTracks(
            boxes=np.stack([boxes for boxes, _ in columns], axis=1),
            present=np.stack([present for _, present in columns], axis=1),
            labels=tuple(self._label(item, where) for item in annotations),
            size=size,
            source=where,
            notes=(f"{where}: read as YouTube-VIS: x,y,width,height in pixels from 0, null where absent",),
        )
        return AnnotatedVideo(identity, self.names[identity], tuple(entry.get("file_names") or ()), tracks)

    def _find(self, key: int | str | None) -> int:
        if key is None:
            if len(self.names) == 1:
                return next(iter(self.names))
            first = ", ".join(f"{identity} ({name})" for identity, name in list(self.names.items())[:3])
            raise SMCDError(f"{self.source} holds {len(self.names)} videos: choose one by id or name: {first}, ...")
        named = [identity for identity, name in self.names.items() if name == str(key)]
        if len(named) > 1:
            raise SMCDError(f"{self.source}: videos {named[0]} and {named[1]} are both named {key!r}: choose by id")
        if named:
            return named[0]
        if str(key).isdecimal() and int(key) in self.names:
            return int(key)
        raise SMCDError(f"{self.source}: no video of id or name {key!r} among {len(self.names)}")

    def _label(self, annotation: dict[str, Any], where: str) -> str:
        category = _key(annotation, "category_id", where)
        if category not in self._categories:
            raise SMCDError(f"{where}: category {category!r} is not among the {len(self._categories)} categories")
        return self._categories[category]

    def _boxes(self, annotation: dict[str, Any], length: int, *, where: str) -> tuple[np.ndarray, np.ndarray]:
        where = f"{where}, annotation {annotation.get('id')}"
        listed = annotation.get("bboxes")
        if not isinstance(listed, list):
            raise SMCDError(f"{where}: no list 'bboxes': only boxes listed per video can be read")
        if len(listed) != length:
            raise SMCDError(
                f"{where}: {len(listed)} boxes for a video of {length} frames: one for each, null where absent"
            )
        present = np.array([box is not None for box in listed])
        boxes = np.zeros((length, 4))
        for frame in np.flatnonzero(present):
            box = listed[frame]
            if not isinstance(box, list) or len(box) != 4:
                raise SMCDError(f"{where}, frame {frame}: box must be x,y,width,height or null, got {box!r}")
            boxes[frame] = [_number(side, f"{where}, frame {frame}: box {box}") for side in box]
        return xywh_to_xyxy(boxes), present


def read_youtube_vis(path: Path) -> YouTubeVIS:
    """Read `instances.json`.

    Raises:
        SMCDError: not JSON, or without videos, annotations or categories.
    """
    source = str(path)
    content = read_json(path)
    if not isinstance(content, dict):
        raise SMCDError(f"{source}: not YouTube-VIS: expected an object with videos, annotations and categories")
    listed = _list(content, "videos", source)
    videos = {_key(item, "id", f"{source}: videos"): item for item in listed}
    if not videos or len(videos) < len(listed):
        raise SMCDError(f"{source}: holds {len(listed)} videos with {len(videos)} ids: each video needs its own")
    annotations: dict[int, list[dict[str, Any]]] = {}
    for item in _list(content, "annotations", source):
        annotations.setdefault(_key(item, "video_id", f"{source}: annotations"), []).append(item)
    categories = {
        _key(item, "id", f"{source}: categories"): _key(item, "name", f"{source}: categories")
        for item in _list(content, "categories", source)
    }
    return YouTubeVIS(
        source=source,
        names={identity: _video_name(item, identity) for identity, item in videos.items()},
        annotated=tuple(identity for identity in videos if identity in annotations),
        _videos=videos,
        _annotations=annotations,
        _categories=categories,
    )


def write_youtube_vis(tracks: BoxTracks, path: Path, image_size: tuple[int, int] | None) -> tuple[str, ...]:
    """Write `path` (`instances.json`) with one video of id 1, named after its folder; boxes in pixels, 4 decimals.

    Returns:
        What the format could not carry or we do not have, in words: the prompt, masks.
    """
    boxes = xyxy_to_xywh(np.round(to_pixels(tracks, image_size, "youtube-vis"), 4))
    name = path.absolute().parent.name or "video"
    categories = list(dict.fromkeys(tracks.labels))
    width, height = image_size
    video = {"id": 1, "name": name, "width": width, "height": height, "length": tracks.num_frames}
    video["file_names"] = [f"{name}/{frame:05d}.jpg" for frame in range(tracks.num_frames)]
    annotations = []
    for index, label in enumerate(tracks.labels):
        shown = list(zip(boxes[:, index], tracks.mask[:, index], strict=True))
        entry = {"id": index + 1, "video_id": 1, "category_id": categories.index(label) + 1, "iscrowd": 0}
        entry |= {"width": width, "height": height}
        entry["bboxes"] = [[round(float(side), 4) for side in box] if present else None for box, present in shown]
        entry["areas"] = [round(float(box[2] * box[3]), 4) if present else None for box, present in shown]
        annotations.append(entry)
    content = {
        "videos": [video],
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for number, label in enumerate(categories, 1)],
    }
    write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
    lost = ["the file holds boxes without masks (no 'segmentations')"]
    if tracks.prompt is not None:
        lost.append(f"YouTube-VIS holds no prompt: {tracks.prompt!r} is left out")
    return tuple(lost)


def _video_name(item: dict[str, Any], identity: int) -> str:
    if isinstance(item.get("name"), str):
        return item["name"]
    files = item.get("file_names")
    return Path(files[0]).parent.name if isinstance(files, list) and files else str(identity)


def _length(entry: dict[str, Any], where: str) -> int:
    length = _key(entry, "length", where)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise SMCDError(f"{where}: length {length!r} is not a positive whole number")
    files = entry.get("file_names")
    if files is not None and (not isinstance(files, list) or len(files) != length):
        raise SMCDError(f"{where}: file_names does not list {length} files, one for each frame")
    return length


def _list(content: dict[str, Any], key: str, source: str) -> list[dict[str, Any]]:
    items = content.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise SMCDError(f"{source}: not YouTube-VIS with annotations: no list of objects named {key!r}")
    return items


def _key(item: dict[str, Any], key: str, where: str) -> Any:
    if key not in item or isinstance(item[key], dict | list):
        raise SMCDError(f"{where}: an entry has no key {key!r}")
    return item[key]


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_COORDINATE:
        raise SMCDError(f"{what}: {value!r} is not a finite number below {MAX_COORDINATE:g}")
    return float(value)
