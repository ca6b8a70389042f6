"""Label Studio's JSON and JSON-MIN exports of video tracking: keyframes in percent of the picture, frames from 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.json_value import JsonValue
from smcd_jax.files.text_files import read_json
from smcd_jax.tracks.box_tracks import is_label
from smcd_jax.tracks.interpolation import interpolate
from smcd_jax.tracks.pixel_tracks import PixelTracks, check_count, xywh_to_xyxy
from smcd_jax.tracks.track_file import MAX_FRAMES

_TYPE = "videorectangle"


def is_label_studio(content: Any) -> bool:
    """Returns whether the content of a JSON file is a list of tasks, or one task, of Label Studio."""
    tasks = content if isinstance(content, list) else [content]
    return bool(tasks) and all(isinstance(task, dict) for task in tasks) and any(map(_is_task, tasks))


def read_label_studio(path: Path, *, video: int | str | None = None) -> PixelTracks:
    """Returns the tracks of one task, in 0..1 of the picture.

    The box moves linearly between keyframes and stays in place after the last one. The object is absent before the
    first keyframe, and from a keyframe with `enabled` false until the next one.

    Args:
        path: File of tasks.
        video: Id of the task; None for the only one with tracks.

    Raises:
        SMCDError: No or several tasks match (`argument` is `video`), or an entry violates the format.
    """
    content = JsonValue(read_json(path), str(path))
    tasks = content.items() if isinstance(content.data, list) else [content]
    found = {str(task.data.get("id", index)): _regions(task) for index, task in enumerate(tasks) if _is_task(task.data)}
    found = {identity: regions for identity, regions in found.items() if regions}
    if video is not None:
        found = {identity: regions for identity, regions in found.items() if identity == str(video)}
    if len(found) != 1:
        listed = f"choose one of {', '.join(list(found)[:5])}" if found else "check the export"
        raise SMCDError(
            f"{path}: {len(found)} tasks with tracks of boxes; {listed}", argument="video", path=path, value=video
        )
    regions = next(iter(found.values()))
    keys = [_keys(value) for value, _ in regions]
    stated = [value.get("framesCount") for value, _ in regions]
    counts = [count.integer(low=1, high=MAX_FRAMES) for count in stated if count.data is not None]
    frames = max([int(times[-1]) + 1 for times, _, _ in keys] + counts)
    check_count(frames, len(keys), str(path))
    boxes = np.zeros((frames, len(keys), 4))
    present = np.zeros((frames, len(keys)), bool)
    for index, (times, sides, enabled) in enumerate(keys):
        boxes[:, index] = interpolate(times, sides, np.arange(frames))
        latest = np.searchsorted(times, np.arange(frames), side="right") - 1
        at_key = np.isin(np.arange(frames), times)
        present[:, index] = (latest >= 0) & (enabled[np.maximum(latest, 0)] | at_key)
    return PixelTracks(
        boxes=boxes / 100,
        present=present,
        labels=tuple(label for _, label in regions),
        size=(1, 1),
        source=str(path),
        notes=(f"{path}: read as Label Studio: percent of the picture, linear between keyframes, frames from 1",),
        path=str(path),
        length_stated=bool(counts),
    )


def _is_task(task: Any) -> bool:
    if not isinstance(task, dict):
        return False
    return bool(_minimal(task)) or ("data" in task and isinstance(task.get("annotations"), list))


def _minimal(task: dict[str, Any]) -> list[str]:
    """Returns the keys of a JSON-MIN task that hold tracks; their name is the user's choice."""
    return [
        key
        for key, value in task.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) and "sequence" in item for item in value)
    ]


def _regions(task: JsonValue) -> list[tuple[JsonValue, str | None]]:
    """Returns value and label of every track of boxes, from the first annotation that is not cancelled."""
    regions = []
    for key in _minimal(task.data):
        regions += [(item, _label(item)) for item in task.get(key).items()]
    listed = task.get("annotations")
    for annotation in listed.items() if isinstance(listed.data, list) else []:
        if annotation.get("was_cancelled").data or not isinstance(annotation.get("result").data, list):
            continue
        for item in annotation.get("result").items():
            if item.get("type").data == _TYPE:
                regions.append((item.member("value"), _label(item.member("value"))))
        break
    return regions


def _label(value: JsonValue) -> str | None:
    labels = value.get("labels").data
    label = labels[0] if isinstance(labels, list) and labels else None
    return label if is_label(label) else None


def _keys(value: JsonValue) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns frame numbers from 0 `[k]`, corners in percent `[k, 4]`, and whether a box is shown after each `[k]`."""
    keys: dict[int, tuple[list[float], bool]] = {}
    for item in value.member("sequence").items(non_empty=True):
        frame = item.member("frame").integer(low=1, high=MAX_FRAMES) - 1
        if frame in keys:
            raise item.get("frame").error("occurs twice in a sequence")
        sides = [item.member(name).number() for name in ("x", "y", "width", "height")]
        keys[frame] = (sides, item.get("enabled").data is not False)
    times = sorted(keys)
    boxes = xywh_to_xyxy(np.array([keys[time][0] for time in times]))
    return np.array(times), boxes, np.array([keys[time][1] for time in times])
