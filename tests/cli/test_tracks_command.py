"""`smcd tracks`: what it says of a file, what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smcd_jax import load_tracks
from smcd_jax.cli import main
from smcd_jax.media import probe_video, read_picture, read_video

EXAMPLE = Path(str(resources.files("smcd_jax") / "assets" / "examples" / "rocket"))
PICTURE, TRACKS = str(EXAMPLE / "img.png"), str(EXAMPLE / "tracks.json")


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bbox() -> str:
    """The reference's `bbox.txt`, beside its picture."""
    Path("mine").mkdir()
    shutil.copy(PICTURE, "mine")
    Path("mine/bbox.txt").write_text("300,125,345,405\n300,10,345,290\n")
    return "mine/bbox.txt"


def fails(arguments: list[str], capsys) -> str:
    assert main(["tracks", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("smcd: error: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    return shown.err


def test_validate_says_what_a_file_holds(capsys):
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


def test_validate_needs_no_label_but_says_that_animating_does(bbox, capsys):
    assert main(["tracks", "validate", bbox]) == 0
    assert "does not name its object; pass --label when it is animated" in capsys.readouterr().out


def test_validate_goes_on_after_a_wrong_file_and_fails(capsys):
    Path("bad.json").write_text('{"format": "smcd-tracks"}')
    assert main(["tracks", "validate", "bad.json", TRACKS]) == 2
    shown = capsys.readouterr()
    assert shown.err == "smcd: error: bad.json: version None of smcd-tracks is unknown: this program reads version 1\n"
    assert shown.out.startswith(f"{TRACKS}: 8 frames")


@pytest.mark.parametrize("name", ["smcd-tracks", "reference", "got10k", "mot", "youtube-vis"])
def test_a_conversion_there_and_back_keeps_the_boxes(name, capsys):
    there = "there.json" if name in ("smcd-tracks", "youtube-vis") else "there"
    assert main(["tracks", "convert", TRACKS, there, "--format", name]) == 0
    label = ["--label", "rocket"] if name == "reference" else []
    size = ["--image_size", "640x427"] if name == "reference" else []
    assert main(["tracks", "convert", there, "back.json", *label, *size]) == 0
    assert "wrote back.json (smcd-tracks: 8 frames, 1 object)" in capsys.readouterr().out
    back, first = load_tracks("back.json"), load_tracks(TRACKS)
    assert back.labels == first.labels
    # pixels of 4 decimals
    np.testing.assert_allclose(back.boxes, first.boxes, atol=1e-6)
    again = ["tracks", "convert", TRACKS, there, "--format", name]
    assert main(again) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0


def test_a_conversion_spreads_the_motion_over_other_frames():
    assert main(["tracks", "convert", TRACKS, "long.json", "--frames", "15"]) == 0
    long, first = load_tracks("long.json"), load_tracks(TRACKS)
    assert long.num_frames == 15
    np.testing.assert_allclose(long.boxes[::2], first.boxes, atol=1e-6)


def test_draw_makes_a_sheet_or_a_video(bbox, capsys):
    assert (
        main(["tracks", "draw", bbox, "--output", "new/sheet.png", "--label", "dog"]) == 0
    )  # the picture is beside it
    sheet = read_picture("new/sheet.png")
    assert sheet.shape[1] > 2 * 640
    assert main(["tracks", "draw", TRACKS, "--image", PICTURE, "--output", "boxes.mp4", "--fps", "4"]) == 0
    video = probe_video("boxes.mp4")
    assert (video["width"], video["height"], video["frames"], video["fps"]) == (640, 428, 8, 4.0)  # even sizes only
    frames, _ = read_video("boxes.mp4")
    orange = np.abs(frames[:, 60:400, 301].astype(int) - [230, 159, 0]).max(axis=-1) < 60  # the left edge
    assert [column.any() for column in orange] == [True] * 8
    assert orange[0].nonzero()[0].max() + 60 == pytest.approx(399, abs=2)
    assert orange[-1].nonzero()[0].max() + 60 == pytest.approx(289, abs=2)
    assert capsys.readouterr().out.endswith("wrote boxes.mp4\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Say validate, convert or draw"),
        (["validate"], "the following arguments are required: FILE"),
        (["validate", "nope.json"], "no such file: nope.json"),
        (["validate", TRACKS, "--frames", "0"], "must be a positive whole number, got 0"),
        (["validate", TRACKS, "--image_size", "640"], "'640' is not WIDTHxHEIGHT"),
        (["validate", TRACKS, "--tracks_video", "3"], "leave --tracks_video out"),
        (
            ["validate", "boxes.txt", "--tracks_format", "got10k"],
            "does not state the size of its picture; pass --image",
        ),
        (["convert", "mine/bbox.txt", "x.json"], "does not name its object; pass --label"),
        (["convert", TRACKS, "x", "--format", "coco"], "invalid choice: 'coco'"),
        (["draw", "boxes.txt", "--output", "x.png"], "draw on what?"),
        (["draw", TRACKS, "--image", PICTURE, "--output", "x.jpg"], "use .png for a sheet"),
        (["draw", TRACKS, "--image", PICTURE, "--output", "x.mp4", "--fps", "0"], "fps is 0"),
        (["draw", TRACKS, "--image", PICTURE, "--output", "x.png", "--columns", "0"], "at least 1"),
        (["draw", TRACKS, "--image", PICTURE, "--output", "there.png"], "there.png exists already"),
        (["draw", TRACKS, "--image", PICTURE, "--output", "x.png", "--frames", "90000"], "too many to draw at once"),
        (["draw", TRACKS, "--image", "boxes.txt", "--output", "x.png"], "not a supported picture"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, words, bbox, workplace, capsys):
    Path("boxes.txt").write_text("1,2,3,4\n")
    Image.new("RGB", (4, 4)).save("there.png")
    before = sorted(workplace.rglob("*"))
    assert words in fails(arguments, capsys)
    assert sorted(workplace.rglob("*")) == before
