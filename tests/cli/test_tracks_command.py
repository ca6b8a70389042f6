"""`smcd tracks`: its reports on files, the files that it writes, and the input that it refuses."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smcd_jax import load_tracks
from smcd_jax.cli import main, tracks
from smcd_jax.cli.parser import CommandParser
from smcd_jax.media import probe_video, read_picture, read_video
from tests.errors import refused

EXAMPLE = Path(str(resources.files("smcd_jax") / "assets" / "examples" / "rocket"))
PICTURE, TRACKS = str(EXAMPLE / "img.png"), str(EXAMPLE / "tracks.json")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bbox() -> str:
    """A `bbox.txt` in the reference's folder layout, next to its picture."""
    Path("mine").mkdir()
    shutil.copy(PICTURE, "mine")
    Path("mine/bbox.txt").write_text("300,125,345,405\n300,10,345,290\n")
    return "mine/bbox.txt"


@pytest.fixture
def files(bbox, workplace) -> list[Path]:
    """Files in the working directory, some of them invalid."""
    Path("boxes.txt").write_text("1,2,3,4\n")
    box = {"label": "a", "keyframes": [{"frame": 0, "box": [0, 0, 1, 1]}]}
    content = {"format": "smcd-tracks", "version": 1, "frames": 2, "size": [1, 1], "objects": [box]}
    Path("unit.json").write_text(json.dumps(content))
    Image.new("RGB", (4, 4)).save("there.png")
    return sorted(workplace.rglob("*"))


def run(arguments: list[str]) -> int:
    """Runs `smcd tracks` without catching its error."""
    parser = CommandParser(prog="smcd tracks")
    tracks.add_arguments(parser)
    return tracks.run(parser.parse_args(arguments))


def fails(arguments: list[str], capsys) -> str:
    """Returns the only line on stderr of a command that must exit with status 2 and print nothing on stdout."""
    assert main(["tracks", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("smcd: error: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    return shown.err


def test_validate_describes_a_file(capsys):
    content = json.loads(Path(TRACKS).read_text())
    content["objects"].append({**content["objects"][0], "label": "bird", "visible": [[2, 3], [5, 5]]})
    content["objects"][1]["keyframes"] = [{"frame": 0, "box": [-10, 0, 32, 42.7]}]
    Path("t.json").write_text(json.dumps(content))
    assert main(["tracks", "validate", "t.json"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "t.json: 8 frames, 2 objects, 640 x 427 pixels",
        "  prompt: a rocket lifting off into the evening sky",
        "  object 0 'rocket': frames 0-7; 300,125,345,405 -> 300,10,345,290",
        "  object 1 'bird': frames 2-3, 5; 0,0,32,43 -> 0,0,32,43",
        "  note: t.json: read as smcd-tracks 1: x1,y1,x2,y2 in pixels of a 640 x 427 picture, frames from 0",
        "  note: t.json: object 1 'bird': clipped to the picture in frames 2-3, 5, by at most 1.56 % of its side",
    ]


def test_validate_needs_no_label_and_notes_that_animate_does(bbox, capsys):
    assert main(["tracks", "validate", bbox]) == 0
    assert "--label" in capsys.readouterr().out.splitlines()[-1]


def test_validate_continues_after_a_wrong_file_and_fails(capsys):
    Path("bad.json").write_text('{"format": "smcd-tracks"}')
    assert main(["tracks", "validate", "bad.json", TRACKS]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("smcd: error: bad.json: ")
    assert shown.err.count("\n") == 1
    assert shown.out.startswith(f"{TRACKS}: 8 frames")


@pytest.mark.parametrize("name", ["smcd-tracks", "reference", "got10k", "mot", "youtube-vis"])
def test_a_round_trip_conversion_keeps_the_boxes(name):
    there = "there.json" if name in ("smcd-tracks", "youtube-vis") else "there"
    assert main(["tracks", "convert", TRACKS, there, "--format", name]) == 0
    label = ["--label", "rocket"] if name == "reference" else []
    size = ["--image_size", "640x427"] if name == "reference" else []
    assert main(["tracks", "convert", there, "back.json", *label, *size]) == 0
    back, first = load_tracks("back.json"), load_tracks(TRACKS)
    assert back.labels == first.labels
    # pixel coordinates are written with 4 decimals
    np.testing.assert_allclose(back.boxes, first.boxes, atol=1e-6)
    again = ["tracks", "convert", TRACKS, there, "--format", name]
    with refused("overwrite"):
        run(again[1:])
    assert main([*again, "--overwrite"]) == 0


def test_a_conversion_spreads_the_motion_over_other_frames():
    assert main(["tracks", "convert", TRACKS, "long.json", "--frames", "15"]) == 0
    long, first = load_tracks("long.json"), load_tracks(TRACKS)
    assert long.num_frames == 15
    np.testing.assert_allclose(long.boxes[::2], first.boxes, atol=1e-6)


def test_draw_makes_a_sheet_or_a_video(bbox, capsys):
    assert (
        main(["tracks", "draw", bbox, "--output", "new/sheet.png", "--label", "dog"]) == 0
    )  # the picture is next to the file
    sheet = read_picture("new/sheet.png")
    assert sheet.shape[1] > 2 * 640
    assert main(["tracks", "draw", TRACKS, "--image", PICTURE, "--output", "boxes.mp4", "--fps", "4"]) == 0
    video = probe_video("boxes.mp4")
    assert (video["width"], video["height"], video["frames"], video["fps"]) == (640, 428, 8, 4.0)  # made even
    frames, _ = read_video("boxes.mp4")
    orange = np.abs(frames[:, 60:400, 301].astype(int) - [230, 159, 0]).max(axis=-1) < 60  # the left edge
    assert [column.any() for column in orange] == [True] * 8
    assert orange[0].nonzero()[0].max() + 60 == pytest.approx(399, abs=2)
    assert orange[-1].nonzero()[0].max() + 60 == pytest.approx(289, abs=2)
    assert "boxes.mp4" in capsys.readouterr().out


def test_preview_moves_the_object_and_starts_with_the_picture(capsys):
    assert main(["tracks", "preview", PICTURE, TRACKS, "--fps", "4"]) == 0
    frames, fps = read_video("img_preview.mp4")
    picture = read_picture(PICTURE).astype(int)
    assert (len(frames), fps) == (8, 4.0)
    assert np.abs(frames[0, :427].astype(int) - picture).mean() < 4  # H.264 is lossy
    rocket = picture[125:405, 305:340]
    assert np.abs(frames[-1, 10:290, 305:340].astype(int) - rocket).mean() < 6
    assert frames[-1, 300:380, 315:330].mean() < 0.6 * picture[300:380, 315:330].mean()  # filled with dark sky
    assert main(["tracks", "preview", PICTURE, TRACKS, "--boxes", "--output", "boxes.gif"]) == 0
    drawn, _ = read_video("boxes.gif")
    assert np.abs(drawn[-1, 100:200, 301].astype(int) - [230, 159, 0]).max() < 60  # the left edge of the box, orange
    assert "boxes.gif" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["preview", PICTURE, TRACKS, "--output", "x.png"], {"argument": "output", "value": ".png"}),
        (["preview", PICTURE, "nope.json"], {"path": "nope.json"}),
        (["preview", PICTURE, TRACKS, "--frames", "90000"], {"argument": "frames", "value": 90000}),
        (["validate", "nope.json"], {"path": "nope.json"}),
        (["validate", TRACKS, "--frames", "0"], {"argument": "frames", "value": 0}),
        (["validate", TRACKS, "--tracks_video", "3"], {"argument": "video", "path": TRACKS, "value": "3"}),
        (["validate", "boxes.txt", "--tracks_format", "got10k"], {"argument": "image_size", "path": "boxes.txt"}),
        (["convert", "mine/bbox.txt", "x.json"], {"argument": "label", "path": "mine/bbox.txt"}),
        (["convert", "unit.json", "x", "--format", "mot"], {"argument": "image_size", "path": "unit.json"}),
        (["draw", "boxes.txt", "--output", "x.png"], {"argument": "image", "path": "img.png"}),
        (["draw", TRACKS, "--image", PICTURE, "--output", "x.jpg"], {"argument": "output", "value": ".jpg"}),
        (["draw", TRACKS, "--image", PICTURE, "--output", "there.png"], {"argument": "overwrite", "path": "there.png"}),
        (
            ["draw", TRACKS, "--image", PICTURE, "--output", "x.png", "--frames", "90000"],
            {"argument": "frames", "value": 90000},
        ),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(arguments, fields, files, workplace, capsys):
    with refused(**fields):
        run(arguments)
    fails(arguments, capsys)
    assert sorted(workplace.rglob("*")) == files


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate"],
        ["validate", TRACKS, "--image_size", "640"],
        ["convert", TRACKS, "x", "--format", "coco"],
        ["draw", TRACKS, "--image", PICTURE, "--output", "x.mp4", "--fps", "0"],
        ["draw", TRACKS, "--image", PICTURE, "--output", "x.png", "--columns", "0"],
        ["draw", TRACKS, "--image", "boxes.txt", "--output", "x.png"],
    ],
)
def test_wrong_flags_and_pictures_are_one_line_and_write_nothing(arguments, files, workplace, capsys):
    flag = next((word for word in reversed(arguments) if word.startswith("--") and word != "--output"), "FILE")
    assert ("boxes.txt" if flag == "--image" else flag.strip("-")) in fails(arguments, capsys)
    assert sorted(workplace.rglob("*")) == files


def test_a_missing_subcommand_names_all(capsys):
    line = fails([], capsys)
    assert "missing subcommand: use 'smcd tracks validate', 'convert', 'draw' or 'preview'" in line
