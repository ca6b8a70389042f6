"""Import of track files, and warnings about drawn tracks."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.studio.pictures import client_name
from smcd_jax.tracks import TrackFile, parse_track_file, read_tracks
from smcd_jax.tracks.track_file import track_file_text

LABEL = "object"  # default label of objects that have none in the file


def import_tracks(
    file: BinaryIO, name: str | None, *, picture_size: tuple[int, int], frames: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads a track file in any format that `smcd tracks` reads.

    Args:
        file: Content.
        name: Name as the client sent it; the format is detected from name and content.
        picture_size: Width and height of the picture in pixels.
        frames: Number of frames over which the motion of a file with one box per frame is spread. A tracks.json keeps
            its keyframes and its number of frames.

    Returns:
        Content of a tracks.json, and remarks for the user.

    Raises:
        SMCDError: The format is unknown, or the file is damaged.
    """
    name = client_name(name, "tracks.json")
    with tempfile.TemporaryDirectory(prefix="smcd-studio-") as folder:
        path = Path(folder) / name
        with path.open("wb") as target:
            shutil.copyfileobj(file, target)
        try:
            content = read_tracks(path)
            if isinstance(content, TrackFile):
                return json.loads(path.read_text(encoding="utf-8-sig")), ()
            label = LABEL if None in content.labels else None
            tracks, ignored = content.to_box_tracks(image_size=picture_size, label=label).without_absent()
            tracks, more = tracks.resample(frames).without_absent()
        except SMCDError as error:
            message = str(error).replace(f"{folder}/", "")
            raise SMCDError(message, argument="file", value=name) from error
        notes = [note.replace(f"{folder}/", "") for note in (*tracks.notes, *ignored, *more)]
        if label is not None:
            notes.append(f"{name} does not name its object; change the label {LABEL!r}")
        return json.loads(track_file_text(tracks, image_size=picture_size)), tuple(notes)


def track_warnings(document: Any, model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns warnings about tracks for a model: boxes that leave the picture or are too small, too many objects.

    Args:
        document: Content of a tracks.json.
        model: Description of the model (`smcd_jax.studio.model_options.describe_model`).

    Returns:
        Message, index of the object, and first affected frame; None where a warning concerns all objects or frames.

    Raises:
        SMCDError: The document violates the format.
    """
    tracks = parse_track_file(json.dumps(document)).to_pixel_tracks(model["num_frames"])
    boxes, labels = tracks.boxes / np.tile(tracks.size, 2), tracks.labels
    width, height = (boxes[..., 2:] - boxes[..., :2]).transpose(2, 0, 1)
    cells = model["width"] / model["latent_scale"], model["height"] / model["latent_scale"]
    outside = ((boxes[..., 2:] <= 0) | (boxes[..., :2] >= 1)).any(axis=-1)
    leaves = ((boxes < -1e-6) | (boxes > 1 + 1e-6)).any(axis=-1) & ~outside
    found = []
    for index, label in enumerate(labels):
        present = tracks.present[:, index]
        for faulty, problem in (
            (outside, "is outside the picture; move it, or hide the object there"),
            (leaves, "leaves the picture and is cut at its edge"),
            ((width * cells[0] < 1) | (height * cells[1] < 1), "is smaller than one cell of the model's latent"),
        ):
            frames = np.flatnonzero(faulty[:, index] & present)
            if len(frames):
                message = f"the box of {label!r} {problem} (frame {frames[0]})"
                found.append({"message": message, "object": index, "frame": int(frames[0])})
        if not present.any():
            found.append({"message": f"{label!r} is in no frame of the video", "object": index, "frame": None})
    if not model["takes_tracks"]:
        found.append({"message": "this model reads no tracks", "object": None, "frame": None})
    elif len(labels) > model["max_objects"]:
        message = f"{len(labels)} objects are more than the {model['max_objects']} that the model takes"
        found.append({"message": message, "object": None, "frame": None})
    return found
