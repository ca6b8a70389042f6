"""Inputs for fuzzing: valid files of every format, and typical damage to files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files.tables import read_table
from smcd_jax.tracks import READ_FORMATS, BoxTracks, load_tracks, parse_track

SIZE = (640, 480)

_TRACKS = {
    "format": "smcd-tracks",
    "version": 1,
    "frames": 8,
    "size": [640, 480],
    "prompt": "a car",
    "objects": [
        {"label": "car", "keyframes": [{"frame": 0, "box": [1, 2, 30, 40]}, {"frame": 7, "box": [9, 2, 40, 40]}]},
        {
            "label": "dog",
            "interpolation": "smooth",
            "keyframes": [{"frame": 2, "box": [1, 2, 3, 4]}],
            "visible": [[0, 3]],
        },
    ],
}
_VIS = {
    "videos": [{"id": 1, "width": 640, "height": 480, "length": 2, "file_names": ["a/0.jpg", "a/1.jpg"]}],
    "categories": [{"id": 1, "name": "person"}],
    "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "bboxes": [[10, 20, 30, 40], None]}],
}
_COCO = {
    "videos": [{"id": 1, "name": "walk"}],
    "images": [{"id": 11 + frame, "video_id": 1, "frame_id": frame, "width": 640, "height": 480} for frame in (0, 1)],
    "annotations": [
        {"id": 1, "image_id": 11, "instance_id": 5, "category_id": 1, "bbox": [10, 20, 30, 40]},
        {"id": 2, "image_id": 12, "track_id": 5, "category_id": 1, "bbox": [12, 20, 30, 40]},
    ],
    "categories": [{"id": 1, "name": "person"}],
}
_STUDIO = [
    {
        "id": 7,
        "data": {"video": "a.mp4"},
        "annotations": [
            {
                "result": [
                    {
                        "type": "videorectangle",
                        "value": {
                            "framesCount": 4,
                            "labels": ["Car"],
                            "sequence": [{"frame": 1, "x": 25, "y": 50, "width": 50, "height": 25, "enabled": True}],
                        },
                    }
                ]
            }
        ],
    }
]
# Valid files by name; as for users, the suffix determines the format.
SEEDS: Mapping[str, str] = {
    "tracks.json": json.dumps(_TRACKS),
    "instances.json": json.dumps(_VIS),
    "coco.json": json.dumps(_COCO),
    "studio.json": json.dumps(_STUDIO),
    "annotations.xml": '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><size>3'
    "</size><original_size><width>640</width><height>480</height></original_size></task></meta>"
    '<track id="0" label="car"><box frame="0" outside="0" xtl="10.0" ytl="20.0" xbr="60.0" ybr="70.0"></box>'
    '<box frame="2" outside="1" xtl="30.0" ytl="20.0" xbr="80.0" ybr="70.0"></box></track></annotations>',
    "groundtruth.txt": "10,20,30,40\nNaN,NaN,NaN,NaN\n12\t20\t30\t40\n1,1,-1,-1\n",
    "groundtruth_rect.txt": "10 20 30 40\n12 20 30 40\n",
    "bbox.txt": "10,20,40,60\n12,20,42,60\n",
    "gt.txt": "1,1,10,20,30,40,1,1,1\n2,1,12,20,30,40,1,1,0.5\n2,2,12,20,30,40,0,3,1\n",
    "old.txt": "0,1,10,20,30,40,0.9,-1,-1,-1\n1,1,12,20,30,40,0.9,-1,-1,-1\n",
    "cvat.txt": "1,0,361.5,249.5,75.9,161.5,1,person,1\n2,0,362.5,249.5,75.9,161.5,1,person,1\n",
    "drone.txt": "1,1,808,1,47,22,1,4,0,0\n2,1,810,2,47,22,1,4,0,0\n1,2,100,200,20,40,1,1,0,1\n",
    "kitti.txt": "0 2 Van 0 0 -1.7 10.0 20.0 40.0 60.0 1.7 0.6 0.7 -4.5 1.8 13.4 -2.1\n",
    "vatic.txt": '0 10 20 40 60 0 0 0 0 "car"\n0 12 20 42 60 1 1 0 1 "car"\n',
    "vot.txt": "10,20,40,20,40,60,10,60\n",
}
TRACK_TEXT = "red car: 20,50,50,80 -> 80,50,110,80"
_TOKENS = (
    *("0", "-1", "1", "-0.5", "1e400", "nan", "NaN", "inf", "-inf", "1e308", "99999999999999999999", "100000", "0x10"),
    *(
        "",
        " ",
        "\n",
        "\n\n",
        "\t",
        ";",
        ",",
        '"',
        "'",
        "\0",
        "\ufeff",
        "é",
        "\u2028",
        "null",
        "true",
        "[]",
        "{}",
        "[[",
        "}",
    ),
    *("<", ">", "&amp;", "&x;", "<!DOCTYPE a>", "frame", "frames", "label", "box", "1e-320", "0.1", "-", "+", "1_000"),
)


def mutated(text: str, rng: random.Random) -> bytes:
    """Returns the text after one to six changes: parts replaced, removed, repeated or moved, bytes flipped, or cut."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        end = min(end, at + rng.choice((1, 3, 12, 80)))
        kind = rng.randrange(6)
        if kind == 0:
            text = text[:at] + rng.choice(_TOKENS) + text[end:]
        elif kind == 1:
            text = text[:at] + text[end:]
        elif kind == 2:
            text = text[:end] + text[at:end] * rng.choice((1, 2, 40)) + text[end:]
        elif kind == 3:
            parts = _numbers(text)
            if parts:
                start, stop = rng.choice(parts)
                text = text[:start] + rng.choice(_TOKENS) + text[stop:]
        elif kind == 4:
            text = text[:at] + chr(rng.choice((0, 9, 10, 13, 34, 44, 59, 127, 255, 0x660, 0x1F600))) + text[at:]
        else:
            text = text[:at] + text[at:end][::-1] + text[end:]
        text = text[:20_000]
    data = text.encode("utf-8", errors="replace")
    if rng.random() < 0.05:
        data = text.encode("utf-16")
    if data and rng.random() < 0.1:
        flipped = bytearray(data)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        data = bytes(flipped)
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data


def _numbers(text: str) -> list[tuple[int, int]]:
    found, start = [], None
    for index, letter in enumerate(text + " "):
        if letter in "0123456789.-":
            start = index if start is None else start
        elif start is not None:
            found.append((start, index))
            start = None
    return found


def run_import(name: str, data: bytes, folder: Path, *, format: str | None, label: str | None) -> bool:
    """Imports one file and returns whether it was read; anything but valid tracks or an `SMCDError` raises an error."""
    path = folder / name
    path.write_bytes(data)
    try:
        tracks = load_tracks(path, image_size=SIZE, format=format, label=label)
    except SMCDError:
        return False
    _check(tracks)
    return True


def run_text(data: bytes) -> bool:
    """Parses text as the value of --track; returns whether it was valid."""
    try:
        _check(parse_track(data.decode("utf-8", errors="replace"), image_size=SIZE, frames=8))
    except SMCDError:
        return False
    return True


def run_table(data: bytes, folder: Path) -> bool:
    """Reads a table with arbitrary columns; returns whether it was valid."""
    path = folder / "table.csv"
    path.write_bytes(data)
    try:
        read_table(path)
    except SMCDError:
        return False
    return True


def one(rng: random.Random, folder: Path) -> bool:
    """Runs one random importer on one random input."""
    choice = rng.randrange(20)
    if choice == 0:
        return run_text(mutated(TRACK_TEXT, rng))
    name = rng.choice(tuple(SEEDS))
    data = mutated(SEEDS[name], rng)
    if choice == 1:
        return run_table(data, folder)
    format = rng.choice(READ_FORMATS) if rng.random() < 0.3 else None
    return run_import(name, data, folder, format=format, label=rng.choice((None, "car")))


def _check(tracks: BoxTracks) -> None:
    assert np.isfinite(tracks.boxes).all()
    assert tracks.boxes.min() >= 0
    assert tracks.boxes.max() <= 1
    assert all(label.strip() for label in tracks.labels)


Importer = Callable[[random.Random, Path], bool]
