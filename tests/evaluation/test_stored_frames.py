"""Preparation, evaluation and animation read frames in the same way: each stored frame appears once."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_pipeline.builders import make_source
from data_pipeline.records.frames import decode_frame
from smcd_jax.evaluation.video_store import EvalClip, read_clip_video
from smcd_jax.media import read_picture, read_video
from smcd_jax.tracks import BoxTracks, save_tracks

COUNT, SIDE = 12, 64
# Start times in hundredths of a second: the first frame is displayed longer, and then the frame rate varies.
TIMES = [0, 100, 104, 108, 112, 162, 166, 170, 171, 172, 173, 174]


def pictures() -> np.ndarray:
    """Returns frames of a square that moves over a gradient; each frame is brighter than the previous one."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    frames = np.stack([np.stack([x, y, x // 2 + y // 2], -1) + 8 * index for index in range(COUNT)]).astype(np.uint8)
    for index in range(COUNT):
        frames[index, 20:36, 4 * index : 4 * index + 12] = (200, 40, 40)
    return frames


def muxed(path: Path, times: list[int], *, sound: bool = False, b_frames: int = 0, options: dict | None = None) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "4", "bf": str(b_frames), "preset": "medium"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for time, picture in zip(times, pictures(), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time + (30 if sound else 0), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if audio is not None:
            for start in range(0, 16000, 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def held_gif(path: Path) -> Path:
    images = [Image.fromarray(picture) for picture in pictures()]
    images[0].save(path, save_all=True, append_images=images[1:], duration=[3000] + [80] * (COUNT - 1), disposal=1)
    return path


MAKERS = {
    "varying.mp4": lambda path: muxed(path, TIMES),
    "sound_first.mp4": lambda path: muxed(path, [4 * index for index in range(COUNT)], sound=True),
    "b_frames.mp4": lambda path: muxed(
        path, [4 * index for index in range(COUNT)], b_frames=3, options={"use_editlist": "0"}
    ),
    "varying.mkv": lambda path: muxed(path, TIMES, b_frames=2),
    "held.gif": held_gif,
}
# Largest error of lossy codecs and a GIF's palette; neighbouring frames differ by far more.
CLOSE = 8


@pytest.fixture(params=MAKERS)
def video(request, tmp_path):
    (tmp_path / "clip").mkdir()
    return MAKERS[request.param](tmp_path / "clip" / f"a{Path(request.param).suffix}")


def error(frames: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.abs(frames.astype(int) - others).mean(axis=(1, 2, 3))


def test_preparation_evaluation_and_animation_see_each_stored_frame_once(video):
    frames, _ = read_video(video)
    assert len(frames) == COUNT
    assert (error(frames, pictures()) < CLOSE).all()
    assert (error(frames[1:], pictures()[:-1]) > error(frames[1:], pictures()[1:])).all()

    boxes = np.tile(np.array([0.1, 0.3, 0.4, 0.6], np.float32), (COUNT, 1, 1))
    tracks = BoxTracks(boxes, np.ones((COUNT, 1)), ("square",), "a square moves")
    save_tracks(tracks, video.with_name("tracks.json"), format="smcd-tracks")
    clip = make_source("tracks_folder", video.parents[1]).clip("train", 0)
    assert (error(np.stack([decode_frame(frame) for frame in clip.frames]), pictures()) < CLOSE).all()

    asked = EvalClip("a", 0, 0, "", ("square",), boxes, np.ones((COUNT, 1), bool), (0,), ())
    read, has_more = read_clip_video(video.parent, asked)
    assert not has_more
    np.testing.assert_array_equal(read, frames)

    np.testing.assert_array_equal(read_picture(video), frames[0])


def test_psnr_is_that_of_the_same_pictures_as_png(video, tmp_path):
    from smcd_jax.media import write_frames

    frames, _ = read_video(video)
    as_png, _ = read_video(write_frames(frames, tmp_path / "png"))
    np.testing.assert_array_equal(as_png, frames)


@pytest.mark.slow
def test_case_17_ao_and_psnr_are_those_of_the_frames_with_an_edit_list(shared, tmp_path):
    folder = shared / "field_cases" / "17_video_starts_late" / "eval"
    program = "import sys; from smcd_jax.cli import main; sys.exit(main(sys.argv[1:]))"

    def smcd(*arguments):
        done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sizes = [f"--option={split}_clips={count}" for split, count in (("train", 40), ("test", 4), ("val", 4))]
    smcd("prepare", "sprites", "--output", tmp_path / "records", *sizes)
    flags = ["--data", tmp_path / "records", "--split", "test", "--list", folder / "lst.json"]
    flags += ["--metrics", "psnr,grounding", "--trackers", "sprites"]
    table = smcd("evaluate", "--videos", folder / "vB", "--output", tmp_path / "ev", *flags)
    rows = {line.split()[0]: float(line.split()[2]) for line in table.splitlines() if line.startswith(("ao-s", "psnr"))}
    assert rows["psnr"] == pytest.approx(33.3, abs=0.1)
    assert rows["ao-sprite-detector-1"] == pytest.approx(0.958, abs=0.002)
