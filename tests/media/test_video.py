"""Video files: writing is atomic, and reading returns the stored frames."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from smcd_jax import media
from smcd_jax.errors import SMCDError
from smcd_jax.media import encoder
from tests.errors import refused
from tests.media.samples import gradient, moving, noise


def test_an_mp4_is_h264_yuv420p_with_every_frame(tmp_path):
    path = media.write_video(moving(11), tmp_path / "a.mp4", fps=8)
    assert path == tmp_path / "a.mp4"
    assert media.probe_video(path) == {
        "codec": "h264",
        "pix_fmt": "yuv420p",
        "width": 48,
        "height": 32,
        "frames": 11,
        "fps": 8.0,
        "duration": 11 / 8,
        "variable_rate": False,
        "start": 0.0,
        "hidden_frames": 0,
    }


def test_an_mp4_starts_with_its_index_so_that_browsers_play_at_once(tmp_path):
    content = media.write_video(moving(4), tmp_path / "a.mp4", fps=8).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (90, 160, 30)])
def test_an_mp4_keeps_colours(tmp_path, color):
    frames = np.broadcast_to(np.array(color, np.uint8), (2, 32, 32, 3))
    read, _ = media.read_video(media.write_video(frames, tmp_path / "a.mp4", fps=8))
    # Limited-range YUV has 219 levels, so RGB is off by up to 3. Confusing BT.601 with BT.709 would cost 20 to 70.
    np.testing.assert_allclose(read.astype(int), frames, atol=4)


def test_an_mp4_reads_back_close_to_what_was_written(tmp_path):
    frames = moving(6)
    read, fps = media.read_video(media.write_video(frames, tmp_path / "a.mp4", fps=12.5))
    assert read.shape == frames.shape
    assert fps == 12.5
    # At the moving edge the colour changes abruptly, and 4:2:0 halves its resolution; the mean error stays small.
    assert np.abs(read.astype(int) - frames).mean() < 6


def test_odd_sizes_are_padded_by_one_repeated_row_and_column(tmp_path):
    frames = np.broadcast_to(gradient(31, 47), (3, 31, 47, 3))
    read, _ = media.read_video(media.write_video(frames, tmp_path / "a.mp4", fps=8))
    assert read.shape == (3, 32, 48, 3)
    np.testing.assert_allclose(read[:, 31].astype(int), read[:, 30].astype(int), atol=12)  # equal but for lossy coding
    np.testing.assert_allclose(read[:, :, 47].astype(int), read[:, :, 46].astype(int), atol=12)


def test_the_smallest_video_is_one_pixel_once(tmp_path):
    for suffix, shape in ((".mp4", (1, 2, 2, 3)), (".gif", (1, 1, 1, 3)), (".webp", (1, 1, 1, 3))):
        path = media.write_video(np.full((1, 1, 1, 3), 128, np.uint8), tmp_path / f"a{suffix}", fps=8)
        assert media.read_video(path)[0].shape == shape


def gif_hundredths(path: Path) -> list[int]:
    with Image.open(path) as image:
        hundredths = []
        for index in range(image.n_frames):
            image.seek(index)
            hundredths.append(round(image.info["duration"] / 10))
    return hundredths


@pytest.mark.parametrize("fps", [7, 8, 12, 30, 50, 23.976])
@pytest.mark.parametrize("count", [1, 8, 25])
def test_a_gif_plays_for_the_right_time(tmp_path, fps, count):
    hundredths = gif_hundredths(media.write_video(moving(count), tmp_path / "a.gif", fps=fps))
    assert len(hundredths) == count
    assert sum(hundredths) == int(100 * count / fps + 0.5)
    assert all(abs(duration - 100 / fps) < 1 for duration in hundredths)


def test_a_frame_rate_above_the_limit_of_gif_is_refused(tmp_path):
    with refused("fps", value=60):
        media.write_video(moving(3), tmp_path / "a.gif", fps=60)
    assert list(tmp_path.iterdir()) == []


def test_a_gif_has_a_good_palette_and_still_parts_do_not_shimmer(tmp_path):
    frames = np.concatenate([moving(5), np.broadcast_to(gradient(32, 48), (5, 32, 48, 3))], axis=2)
    read, _ = media.read_video(media.write_video(frames, tmp_path / "a.gif", fps=8))
    error = np.sqrt(np.mean((read.astype(float) - frames) ** 2))
    assert error < 10  # 256 colours for a picture with thousands; a fixed web palette has an error over 25
    still = read[:, :, 48:].astype(int)
    assert (still == still[0]).all()


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_equal_frames_in_succession_stay_separate_frames(tmp_path, suffix):
    frames = moving(3)[[0, 1, 1, 1, 2, 2]]
    path = media.write_video(frames, tmp_path / f"a{suffix}", fps=10)
    read, fps = media.read_video(path)
    assert len(read) == 6
    assert fps == 10
    assert not media.probe_video(path)["variable_rate"]
    assert np.abs(read.astype(int) - frames).mean() < 8  # lossy coding, or only 256 colours


def test_a_webp_is_animated_at_true_speed(tmp_path):
    path = media.write_video(moving(7), tmp_path / "a.webp", fps=30)
    probed = media.probe_video(path)
    assert (probed["codec"], probed["frames"], probed["width"], probed["height"]) == ("webp", 7, 48, 32)
    assert probed["duration"] == pytest.approx(7 / 30, abs=0.0006)  # WebP stores durations in milliseconds


@pytest.mark.parametrize("name", ["out/", "frames", "rocket_frames"])
def test_a_folder_name_writes_numbered_png_frames(tmp_path, name):
    frames = moving(12)
    media.write_video(frames, f"{tmp_path}/{name}", fps=8)
    folder = tmp_path / name
    assert sorted(entry.name for entry in folder.iterdir()) == [f"{i:04d}.png" for i in range(12)]
    read, fps = media.read_video(folder)
    np.testing.assert_array_equal(read, frames)
    assert fps == 8


def test_frames_replace_frames_but_no_other_files(tmp_path):
    media.write_frames(moving(5), tmp_path / "frames")
    media.write_frames(moving(2), tmp_path / "frames")
    assert len(list((tmp_path / "frames").iterdir())) == 2
    (tmp_path / "frames" / "thesis.txt").write_text("years of work")
    with refused() as error:
        media.write_frames(moving(3), tmp_path / "frames")
    assert "thesis.txt" in str(error.value)
    assert (tmp_path / "frames" / "thesis.txt").read_text() == "years of work"
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in (2, 10, 1):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "groundtruth.txt").write_text("1,2,3,4")
    assert media.read_video(tmp_path)[0][:, 0, 0, 0].tolist() == [1, 2, 10]


def test_folders_without_pictures_or_of_unequal_ones_are_refused(tmp_path):
    with refused(path=tmp_path):
        media.read_video(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "1.png")
    with refused(path=tmp_path / "1.png", value=(4, 5, 3)):
        media.read_video(tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_bad_video_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for read in (media.read_video, media.probe_video):
        path.unlink(missing_ok=True)
        with refused(path=path):
            read(path)
        media.write_video(noise(6, 64, 64, 3), path, fps=8)
        whole = path.read_bytes()
        for content in (b"", b"not a video", whole[:60], whole[: len(whole) * 2 // 3]):
            path.write_bytes(content)
            with refused(path=path):
                read(path)


def test_a_gif_truncated_between_two_frames_is_refused(tmp_path):
    path = media.write_video(noise(6, 16, 16, 3), tmp_path / "a.gif", fps=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\x21\xf9\x04")])  # ends before the last frame's control block
    with refused(path=path):
        media.read_video(path)


def test_a_name_that_looks_like_a_url_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = media.write_video(moving(3), "http:a-%d.mp4", fps=8)
    assert len(media.read_video(path)[0]) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_nothing_reaches_the_terminal(tmp_path, capfd, suffix):
    path = media.write_video(moving(3), tmp_path / f"a{suffix}", fps=8)
    media.read_video(path)
    media.probe_video(path)
    path.write_bytes(b"rubbish")
    with refused(path=path):
        media.read_video(path)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "frames"])
def test_a_failing_iterator_of_frames_leaves_the_older_file_unchanged(tmp_path, name):
    def broken():
        yield from moving(3)
        raise RuntimeError("the decoder died")

    with pytest.raises(RuntimeError, match="the decoder died"):
        media.write_video(broken(), tmp_path / name, fps=8)
    assert list(tmp_path.iterdir()) == []
    media.write_video(moving(5), tmp_path / name, fps=8)
    with pytest.raises(RuntimeError, match="the decoder died"):
        media.write_video(broken(), tmp_path / name, fps=8)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert len(media.read_video(tmp_path / name)[0]) == 5


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "frames"])
def test_an_unwritable_path_is_refused_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "none", tmp_path / "file"):
        with refused() as error:
            media.write_video(moving(2), parent / name, fps=8)
        assert str(parent / name) in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "frames"])
def test_a_full_disk_is_reported_in_one_line_and_leaves_no_file(tmp_path, name):
    """A file size limit simulates the full disk; it is set in a subprocess, so that it affects nothing else."""
    code = f"""
import resource, sys
import numpy as np
from smcd_jax import errors, media
frames = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    media.write_video(frames, {str(tmp_path / name)!r}, fps=8)
except errors.SMCDError as error:
    print(error)
"""
    root = Path(media.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / name) in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "value"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), 0),
        (np.zeros((2, 4, 4, 3), np.float32), (4, 4, 3)),
        (np.zeros((2, 4, 4, 4), np.uint8), (4, 4, 4)),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], (4, 6, 3)),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "frames"])
def test_frames_of_another_kind_are_refused(tmp_path, frames, value, name):
    with refused("frames", value=value):
        media.write_video(frames, tmp_path / name, fps=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("inf"), 1e-9, 1001])
def test_impossible_frame_rates_are_refused(tmp_path, fps):
    with refused("fps", value=fps):
        media.write_video(moving(2), tmp_path / "a.mp4", fps=fps)


def test_a_frame_rate_of_nan_is_refused(tmp_path):
    with refused("fps"):
        media.write_video(moving(2), tmp_path / "a.mp4", fps=float("nan"))


def test_an_unknown_suffix_is_refused(tmp_path):
    with refused(path=tmp_path / "a.avi", value=".avi"):
        media.write_video(moving(2), tmp_path / "a.avi", fps=8)


def test_a_picture_too_large_for_webp_is_refused(tmp_path):
    with refused("frames", path=tmp_path / "a.webp", value=16384):
        media.write_video(np.zeros((1, 1, 16384, 3), np.uint8), tmp_path / "a.webp", fps=8)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_encoder_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder, "MP4", dataclasses.replace(encoder.MP4, codec="no_such_encoder"))
    with refused(value="no_such_encoder"):
        media.check_encoder()
    with refused(value="no_such_encoder"):
        media.write_video(moving(2), tmp_path / "a.mp4", fps=8)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_fails_is_one_line_with_the_path(tmp_path, monkeypatch):
    options = {"crf": "14", "profile": "no_such_profile"}
    monkeypatch.setattr(encoder, "MP4", dataclasses.replace(encoder.MP4, codec_options=options))
    with refused(path=tmp_path / "a.mp4"):
        media.write_video(moving(2), tmp_path / "a.mp4", fps=8)
    assert list(tmp_path.iterdir()) == []


# --- stored frames -------------------------------------------------------------------------------------------------


def muxed(path: Path, times: list[int], *, sound: int = 0, late: int = 0, size: tuple[int, int] = (32, 48)) -> Path:
    """Writes an H.264 file whose frame i has the grey level 20 i and is displayed at ``times[i]``, in 1/100 s.

    Args:
        path: File to write; its suffix selects the container.
        times: Start time of each frame, in 1/100 s.
        sound: Duration of the sound, in 1/100 s; 0 for a file without sound.
        late: Delay of the video relative to the sound, in 1/100 s.
        size: Height and width.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "2"})
        video.height, video.width = size
        video.pix_fmt, video.codec_context.time_base = "yuv420p", Fraction(1, 100)
        audio = container.add_stream("aac", rate=8000) if sound else None
        for index, time in enumerate(times):
            grey = np.full((*size, 3), 20 * index, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = time + late, Fraction(1, 100)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio:
            for start in range(0, 80 * sound, 1024):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 8000, start, Fraction(1, 8000)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def assert_stored_frames(path: Path, count: int) -> None:
    frames, _ = media.read_video(path)
    levels = frames.reshape(len(frames), -1).mean(axis=1)
    np.testing.assert_allclose(levels, 20 * np.arange(count), atol=3)  # H.264 is lossy
    assert media.probe_video(path)["frames"] == count


VARYING = [0, 4, 8, 12, 62, 66, 70, 71, 72, 73, 74, 75]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_varying_rate_neither_repeats_nor_drops_frames_and_is_noted(tmp_path, suffix, caplog):
    path = muxed(tmp_path / f"a{suffix}", VARYING)
    assert_stored_frames(path, 12)
    info = media.probe_video(path)
    assert info["variable_rate"]
    assert info["fps"] == pytest.approx(12 / info["duration"])
    assert info["duration"] == pytest.approx(0.76, abs=0.04)  # containers differ in the duration of the last frame
    assert str(path) in caplog.text


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_video_that_starts_after_its_sound_is_read_from_its_first_frame(tmp_path, suffix, caplog):
    path = muxed(tmp_path / f"a{suffix}", list(range(0, 36, 4)), sound=100, late=50)
    assert_stored_frames(path, 9)
    assert media.probe_video(path)["start"] == pytest.approx(0.5, abs=0.15)  # the sound track starts with padding
    assert str(path) in caplog.text


def test_frames_that_an_edit_list_hides_are_read_and_noted(tmp_path, caplog):
    whole = muxed(tmp_path / "whole.mp4", list(range(0, 48, 4)))
    path = tmp_path / "cut.mp4"
    path.write_bytes(edited(whole.read_bytes(), first=20))
    assert_stored_frames(path, 12)
    assert media.probe_video(path)["hidden_frames"] == 5
    assert str(path) in caplog.text


def edited(content: bytes, *, first: int) -> bytes:
    """Returns an MP4 file's content with its edit list changed to start ``first`` hundredths of a second later."""
    elst = content.index(b"elst")
    entry = elst + 12  # after the name, version, flags and number of entries
    start = entry + 4
    mdhd = content.index(b"mdhd")
    scale = int.from_bytes(content[mdhd + 16 : mdhd + 20], "big")
    media_time = int.from_bytes(content[start : start + 4], "big") + first * scale // 100
    return content[:start] + media_time.to_bytes(4, "big") + content[start + 4 :]


def test_a_constant_rate_is_not_noted(tmp_path, caplog):
    for fps in (7, 8, 24000 / 1001, 30):
        for suffix in (".mp4", ".gif", ".webp"):
            media.read_video(media.write_video(moving(9), tmp_path / f"a{suffix}", fps=fps))
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_each_picture_of_an_animation_is_one_frame_however_long_it_is_displayed(tmp_path, suffix, caplog):
    pictures = [Image.new("RGB", (8, 8), (30 * i, 0, 0)) for i in range(4)]
    path = tmp_path / f"a{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[1000, 120, 120, 120])
    frames, fps = media.read_video(path)
    np.testing.assert_allclose(frames[:, 0, 0, 0].astype(int), [0, 30, 60, 90], atol=4)  # lossy coding
    assert fps == pytest.approx(4 / 1.36)
    assert media.probe_video(path)["variable_rate"]
    assert str(path) in caplog.text


# Values of the display matrix, to be stored in 16.16 fixed point, and the equivalent transform in NumPy.
TURNS = [
    ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    ((0, -1, 1, 0), np.rot90),
    ((-1, 0, 0, 1), np.fliplr),
    ((1, 0, 0, -1), np.flipud),
    ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
]


@pytest.mark.parametrize(("matrix", "turn"), TURNS, ids=lambda value: str(value) if isinstance(value, tuple) else "")
def test_a_rotation_stored_with_the_video_is_applied(tmp_path, matrix, turn):
    frames = np.broadcast_to(gradient(32, 48), (3, 32, 48, 3))
    path = media.write_video(frames, tmp_path / "a.mp4", fps=8)
    upright, _ = media.read_video(path)
    content = path.read_bytes()
    a, b, c, d = (value << 16 for value in matrix)
    identity, turned = (
        b"".join(value.to_bytes(4, "big", signed=True) for value in values)
        for values in ((1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    )
    track = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:track] + turned + content[track + len(turned) :])
    read, _ = media.read_video(path)
    np.testing.assert_array_equal(read[1], turn(upright[1]))
    info = media.probe_video(path)
    assert (info["height"], info["width"]) == read.shape[1:3]


@pytest.mark.parametrize(
    "content",
    [
        b"a text\n" * 500,
        b"\x1b[1mcolours\x1b[0m\n" * 300,
        b"1\n00:00:01,000 --> 00:00:02,000\nsubtitle\n\n" * 9,
        bytes(9999),
    ],
    ids=["text", "terminal", "subtitles", "zeros"],
)
def test_other_files_named_mp4_are_refused(tmp_path, content):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for read in (media.read_video, media.probe_video):
        with refused(path=path):
            read(path)


def test_a_file_with_sound_alone_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    with refused(path=path):
        media.read_video(path)


def test_a_truncated_or_changed_mp4_is_refused_or_read_completely(tmp_path):
    whole = media.write_video(noise(6, 64, 64, 3), tmp_path / "whole.mp4", fps=8).read_bytes()
    path = tmp_path / "a.mp4"
    for length in np.linspace(1, len(whole) - 100, 40).astype(int):
        path.write_bytes(whole[:length])
        with refused(path=path):
            media.read_video(path)
    generator = np.random.default_rng(0)
    for _ in range(100):
        content = np.frombuffer(whole, np.uint8).copy()
        content[generator.integers(0, len(content), 4)] = generator.integers(0, 256, 4)
        path.write_bytes(content.tobytes())
        with contextlib.suppress(SMCDError):  # any other exception fails the test
            assert len(media.read_video(path)[0]) == 6


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_the_same_frames_give_the_same_bytes(tmp_path, suffix):
    first, second = (
        media.write_video(moving(5), tmp_path / f"{name}{suffix}", fps=8).read_bytes() for name in ("a", "b")
    )
    assert first == second


@pytest.mark.parametrize(
    ("video", "count"),
    [("16_vfr_video/mine/clip1/video.mp4", 12), ("17_video_starts_late/mine/clip1/video.mp4", 9)]
    + [(f"17_video_starts_late/eval/vB/sprites-test-00000000{number}.mp4", 8) for number in (0, 2, 3)]
    + [(f"52_gif_hold/vids/sprites-test-00000000{number}.gif", 8) for number in (0, 2, 3)],
)
def test_reported_videos_are_read_as_stored(shared, video, count):
    frames, _ = media.read_video(shared / "field_cases" / video)
    assert len(frames) == count
    differences = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (differences > 0).all()  # no frame repeats the previous one
