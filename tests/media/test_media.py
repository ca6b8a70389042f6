"""Pictures of every kind, video files that are whole or absent, and drawing that touches only what it should."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from smcd_jax import files, media
from smcd_jax.errors import SMCDError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def gradient(height: int, width: int) -> np.ndarray:
    """A smooth picture, which lossy formats keep closely."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def moving(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.stack([np.roll(gradient(height, width), 3 * i, axis=1) for i in range(frames)])


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def one_line(error: pytest.ExceptionInfo, *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


# --- pictures ------------------------------------------------------------------------------------------------------


def test_a_png_an_image_and_an_array_read_as_themselves(tmp_path):
    pixels = noise(5, 7, 3)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    for given in (path, str(path), Image.fromarray(pixels), pixels, pixels.astype(np.float32) / 255):
        read = media.read_picture(given)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, pixels)


def test_reading_an_array_gives_a_copy():
    pixels = noise(5, 7, 3)
    before = pixels.copy()
    media.read_picture(pixels)[:] = 0
    np.testing.assert_array_equal(pixels, before)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "a.png")
    for given in (path, values):
        np.testing.assert_array_equal(media.read_picture(given)[0, :, 0], [0, 1, 128, 255])


def test_sixteen_bit_colour_is_scaled_not_clipped(tmp_path):
    header = b"P6\n2 1\n65535\n"
    values = np.array([[[0, 257, 65535], [128 * 257, 3 * 257, 200 * 257]]], ">u2")
    (tmp_path / "a.ppm").write_bytes(header + values.tobytes())
    np.testing.assert_array_equal(media.read_picture(tmp_path / "a.ppm"), [[[0, 1, 255], [128, 3, 200]]])


@pytest.mark.parametrize(("mode", "color", "expected"), [("L", 77, (77,) * 3), ("1", 1, (255,) * 3)])
def test_grey_and_bilevel_fill_all_three_channels(tmp_path, mode, color, expected):
    path = saved(Image.new(mode, (3, 2), color), tmp_path / "a.png")
    assert (media.read_picture(path) == expected).all()


def test_cmyk_is_converted(tmp_path):
    path = saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=95)
    # JPEG is lossy: a level or two.
    np.testing.assert_allclose(media.read_picture(path).reshape(-1, 3).mean(0), (0, 255, 255), atol=2)


def test_transparency_is_composited_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = (0, 128, 255)
    expected = [[[255, 255, 255], [227, 127, 127], [200, 0, 0]]]  # 128/255 of the colour, the rest white
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    for given in (path, pixels):
        np.testing.assert_allclose(media.read_picture(given).astype(int), expected, atol=1)  # one for rounding


def test_a_palette_with_a_transparent_colour_shows_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = saved(image, tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(media.read_picture(path), [[[255, 255, 255], [0, 0, 255]]])


def test_exif_orientation_is_applied(tmp_path):
    pixels = noise(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned clockwise by a quarter
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(media.read_picture(path), np.rot90(pixels, -1))


def test_a_colour_profile_is_converted_to_srgb(tmp_path):
    # Linear light, gamma 1: middle grey 0.5 of linear light is level 188 in sRGB (IEC 61966-2-1).
    profile = linear_grey_profile()
    path = saved(Image.new("L", (2, 2), 128), tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(media.read_picture(path).astype(int), 188, atol=1)  # one for rounding


def linear_grey_profile() -> bytes:
    """The smallest ICC v2 profile: grey, white point D50, tone curve the identity."""

    def tag(kind: bytes, data: bytes) -> bytes:
        body = kind + bytes(4) + data
        return body + bytes(-len(body) % 4)

    d50 = b"".join(int(value * 65536).to_bytes(4, "big") for value in (0.9642, 1.0, 0.8249))
    text = b"linear\0"
    description = len(text).to_bytes(4, "big") + text + bytes(4 + 4 + 2 + 1 + 67)
    tags = [
        (b"desc", tag(b"desc", description)),
        (b"wtpt", tag(b"XYZ ", d50)),
        (b"kTRC", tag(b"curv", bytes(4))),
        (b"cprt", tag(b"text", b"none\0")),
    ]
    offset = 128 + 4 + 12 * len(tags)
    table, body = len(tags).to_bytes(4, "big"), b""
    for name, data in tags:
        table += name + (offset + len(body)).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        body += data
    size = (offset + len(body)).to_bytes(4, "big")
    version, date = b"\x02\x40\x00\x00", b"\x07\xd0\x00\x01\x00\x01" + bytes(6)
    header = size + bytes(4) + version + b"mntrGRAYXYZ " + date + b"acsp" + bytes(28) + d50
    return header + bytes(128 - len(header)) + table + body


def test_an_srgb_profile_changes_nothing(tmp_path):
    pixels = noise(8, 8, 3)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(media.read_picture(path).astype(int), pixels, atol=1)  # one for rounding


def test_an_unusable_colour_profile_is_named_in_the_log(tmp_path, caplog):
    pixels = noise(8, 8, 3)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", icc_profile=b"rubbish")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(media.read_picture(path), pixels)
    assert str(path) in caplog.text
    assert "colour profile" in caplog.text


def test_damaged_exif_beside_whole_pixels_is_logged_and_read(tmp_path, caplog):
    path = saved(Image.fromarray(gradient(16, 16)), tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    with caplog.at_level(logging.WARNING):
        assert media.read_picture(path).shape == (16, 16, 3)
    assert str(path) in caplog.text


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_reads_as_its_first_frame(tmp_path, suffix):
    first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if suffix == ".webp" else {}
    path = saved(first, tmp_path / f"a{suffix}", save_all=True, append_images=[second], duration=100, **options)
    assert (media.read_picture(path) == (255, 0, 0)).all()


def test_a_missing_file_a_folder_and_a_text_are_refused(tmp_path):
    with pytest.raises(SMCDError) as error:
        media.read_picture(tmp_path / "none.png")
    one_line(error, "none.png", "no such file")
    with pytest.raises(SMCDError) as error:
        media.read_picture(tmp_path)
    one_line(error, str(tmp_path), "is a folder")
    for content in (b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(SMCDError) as error:
            media.read_picture(tmp_path / "a.png")
        one_line(error, "a.png", "is not a picture")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_a_truncated_file_is_refused(tmp_path, kind):
    file = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(file, format=kind)
    path = tmp_path / "a.picture"
    path.write_bytes(file.getvalue()[: file.tell() // 2])
    with pytest.raises(SMCDError) as error:
        media.read_picture(path)
    one_line(error, "a.picture")


def test_flipped_bytes_never_raise_anything_but_our_error(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "AVIF"):
        file = io.BytesIO()
        Image.fromarray(noise(16, 16, 3)).save(file, format=kind)
        for _ in range(60):
            content = np.frombuffer(file.getvalue(), np.uint8).copy()
            content[generator.integers(0, len(content), 4)] = generator.integers(0, 256, 4)
            (tmp_path / "a").write_bytes(content.tobytes())
            with contextlib.suppress(SMCDError):  # all others fail the test
                assert media.read_picture(tmp_path / "a").dtype == np.uint8


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    # 100 million pixels of one colour: a few kilobytes on disk.
    path = saved(Image.new("1", (10_000, 10_000)), tmp_path / "a.png")
    with pytest.raises(SMCDError) as error:
        media.read_picture(path)
    one_line(error, "a.png", "million pixels")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.int64),
        np.full((4, 4, 3), -0.5, np.float32),
        np.full((4, 4, 3), np.nan, np.float32),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array):
    with pytest.raises(SMCDError):
        media.read_picture(array)


def test_the_example_photographs_read(shared):
    for name, shape in (("rocket", (427, 640, 3)), ("cat", (300, 451, 3))):
        assert media.read_picture(shared / "examples" / name / "img.png").shape == shape


def test_resizing_squashes_instead_of_cropping_and_averages_all_pixels():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 40:] = 255  # the right half
    resized = media.resize_picture(picture, height=20, width=20)
    assert resized.shape == (20, 20, 3)
    assert (resized[:, :9] == 0).all()
    assert (resized[:, 11:] == 255).all()
    # Antialiasing: a fine chequerboard becomes its mean, where point sampling would give 0 or 255.
    board = np.broadcast_to((np.indices((64, 64)).sum(0) % 2 * 255)[..., None], (64, 64, 3)).astype(np.uint8)
    small = media.resize_picture(board, height=8, width=8)
    np.testing.assert_allclose(small.astype(int), 127.5, atol=2)  # the triangle's weights are quantised


def test_resizing_to_the_same_size_copies_and_to_nothing_is_refused():
    picture = noise(6, 6, 3)
    same = media.resize_picture(picture, height=6, width=6)
    np.testing.assert_array_equal(same, picture)
    assert not np.shares_memory(same, picture)
    with pytest.raises(SMCDError):
        media.resize_picture(picture, height=0, width=6)


def test_the_models_range_goes_both_ways_without_loss():
    levels = np.arange(256, dtype=np.uint8)
    values = media.to_model_range(levels)
    assert values.dtype == np.float32
    assert values[0] == -1
    assert values[-1] == 1
    np.testing.assert_allclose(values, levels / 127.5 - 1, atol=2e-7)  # float32 rounding near 1
    np.testing.assert_array_equal(media.to_uint8(values), levels)


def test_to_uint8_rounds_clips_and_refuses_nan():
    step = 2 / 255
    values = np.array([-7, -1, -1 + 0.4 * step, -1 + 0.6 * step, 1, 9], np.float32)
    np.testing.assert_array_equal(media.to_uint8(values), [0, 0, 0, 1, 255, 255])
    with pytest.raises(SMCDError) as error:
        media.to_uint8(np.array([0, np.nan], np.float32))
    one_line(error, "1 of 2")


# --- video ---------------------------------------------------------------------------------------------------------


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
        "duration": pytest.approx(11 / 8, abs=0.011),  # ffmpeg prints 1/100 s
    }


def test_an_mp4_starts_with_its_index_so_that_browsers_play_at_once(tmp_path):
    content = media.write_video(moving(4), tmp_path / "a.mp4", fps=8).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (90, 160, 30)])
def test_an_mp4_keeps_colours(tmp_path, color):
    frames = np.broadcast_to(np.array(color, np.uint8), (2, 32, 32, 3))
    read, _ = media.read_video(media.write_video(frames, tmp_path / "a.mp4", fps=8))
    # 8-bit yuv of limited range has about 219 levels: 3 levels of rgb. Confusing bt601 with bt709 would cost 20 to 70.
    np.testing.assert_allclose(read.astype(int), frames, atol=4)


def test_an_mp4_reads_back_close_to_what_was_written(tmp_path):
    frames = moving(6)
    read, fps = media.read_video(media.write_video(frames, tmp_path / "a.mp4", fps=12.5))
    assert read.shape == frames.shape
    assert fps == 12.5
    # The moving edge is a jump of colour, which 4:2:0 halves in resolution; the mean error stays small.
    assert np.abs(read.astype(int) - frames).mean() < 6


def test_odd_sizes_are_padded_by_one_repeated_row_and_column(tmp_path):
    frames = np.broadcast_to(gradient(31, 47), (3, 31, 47, 3))
    read, _ = media.read_video(media.write_video(frames, tmp_path / "a.mp4", fps=8))
    assert read.shape == (3, 32, 48, 3)
    np.testing.assert_allclose(read[:, 31].astype(int), read[:, 30].astype(int), atol=12)  # lossy; one copies the other
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


def test_a_gif_faster_than_gif_can_be_is_refused(tmp_path):
    with pytest.raises(SMCDError) as error:
        media.write_video(moving(3), tmp_path / "a.gif", fps=60)
    one_line(error, "a.gif", "50", "60", ".mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_gif_has_a_good_palette_and_still_parts_do_not_shimmer(tmp_path):
    frames = np.concatenate([moving(5), np.broadcast_to(gradient(32, 48), (5, 32, 48, 3))], axis=2)
    read, _ = media.read_video(media.write_video(frames, tmp_path / "a.gif", fps=8))
    error = np.sqrt(np.mean((read.astype(float) - frames) ** 2))
    assert error < 10  # 256 colours for a picture of thousands; a fixed web palette gives over 25
    still = read[:, :, 48:].astype(int)
    assert (still == still[0]).all()


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_held_frames_of_an_animation_are_counted(tmp_path, suffix):
    frames = moving(3)[[0, 1, 1, 1, 2, 2]]
    read, fps = media.read_video(media.write_video(frames, tmp_path / f"a{suffix}", fps=10))
    assert len(read) == 6
    assert fps == pytest.approx(10)
    np.testing.assert_array_equal(read[1], read[3])
    assert np.abs(read.astype(int) - frames).mean() < 8  # lossy or 256 colours


def test_a_webp_is_animated_at_true_speed(tmp_path):
    path = media.write_video(moving(7), tmp_path / "a.webp", fps=30)
    probed = media.probe_video(path)
    assert (probed["codec"], probed["frames"], probed["width"], probed["height"]) == ("webp", 7, 48, 32)
    assert probed["duration"] == pytest.approx(7 / 30, abs=0.0006)  # WebP counts milliseconds


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
    with pytest.raises(SMCDError) as error:
        media.write_frames(moving(3), tmp_path / "frames")
    one_line(error, "frames", "thesis.txt")
    assert (tmp_path / "frames" / "thesis.txt").read_text() == "years of work"
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in (2, 10, 1):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "groundtruth.txt").write_text("1,2,3,4")
    assert media.read_video(tmp_path)[0][:, 0, 0, 0].tolist() == [1, 2, 10]


def test_folders_without_pictures_or_of_unequal_ones_are_refused(tmp_path):
    with pytest.raises(SMCDError) as error:
        media.read_video(tmp_path)
    one_line(error, str(tmp_path), "no pictures")
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "1.png")
    with pytest.raises(SMCDError) as error:
        media.read_video(tmp_path)
    one_line(error, "1.png", "5 x 4", "4 x 4")


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_bad_video_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for read in (media.read_video, media.probe_video):
        path.unlink(missing_ok=True)
        with pytest.raises(SMCDError) as error:
            read(path)
        one_line(error, path.name, "no such file")
        media.write_video(noise(6, 64, 64, 3), path, fps=8)
        whole = path.read_bytes()
        for content in (b"", b"not a video", whole[:60], whole[: len(whole) * 2 // 3]):
            path.write_bytes(content)
            with pytest.raises(SMCDError) as error:
                read(path)
            one_line(error, path.name)


def test_a_gif_that_ends_between_two_frames_is_not_taken_for_a_shorter_one(tmp_path):
    path = media.write_video(noise(6, 16, 16, 3), tmp_path / "a.gif", fps=8)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\x21\xf9\x04")])  # where the control block of the last frame begins
    with pytest.raises(SMCDError) as error:
        media.read_video(path)
    one_line(error, "a.gif", "cut short")


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
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
    with pytest.raises(SMCDError):
        media.read_video(path)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "frames"])
def test_frames_that_break_off_leave_nothing_and_the_older_file_whole(tmp_path, name):
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
def test_a_place_that_cannot_be_written_is_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(SMCDError) as error:
            media.write_video(moving(2), parent / name, fps=8)
        one_line(error, str(parent / name), "cannot write", str(parent))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "frames"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, name):
    """A limit on file size stands for the full disk; in a process of its own, whose limit ends with it."""
    code = f"""
import resource, sys
import numpy as np
from smcd_jax import files, media
frames = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    media.write_video(frames, {str(tmp_path / name)!r}, fps=8)
except media.video.SMCDError as error:
    print(error)
"""
    root = Path(media.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"cannot write {tmp_path / name}: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "word"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one frame"),
        (np.zeros((2, 4, 4, 3), np.float32), "to_uint8"),
        (np.zeros((2, 4, 4, 4), np.uint8), "(4, 4, 4)"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], "frame 1"),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "frames"])
def test_frames_of_another_kind_are_refused(tmp_path, frames, word, name):
    with pytest.raises(SMCDError) as error:
        media.write_video(frames, tmp_path / name, fps=8)
    one_line(error, word)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e-9, 1001])
def test_impossible_frame_rates_are_refused(tmp_path, fps):
    with pytest.raises(SMCDError) as error:
        media.write_video(moving(2), tmp_path / "a.mp4", fps=fps)
    one_line(error, "frames a second")


def test_an_unknown_suffix_is_refused_with_those_known(tmp_path):
    with pytest.raises(SMCDError) as error:
        media.write_video(moving(2), tmp_path / "a.avi", fps=8)
    one_line(error, "a.avi", ".mp4", ".gif", ".webp")


# --- whole files ---------------------------------------------------------------------------------------------------


def test_a_file_appears_only_when_the_block_ends_well(tmp_path):
    path = tmp_path / "a.txt"
    with files.write_atomically(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "new"

    def write_half():
        with files.write_atomically(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_about_other_files_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"), files.write_atomically(tmp_path / "a.txt"):
        (tmp_path / "elsewhere").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="file permissions of Unix")
def test_a_file_gets_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_name_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    files.write_json(path, [1])
    assert json.loads(path.read_text()) == [1]
    with pytest.raises(SMCDError) as error:
        files.write_json(tmp_path / ("n" * 300 + ".json"), [1])
    one_line(error, "cannot write", "another name")


def test_json_is_readable_and_whole_or_absent(tmp_path):
    data = {"prompt": "une fusée", "seed": 3, "box": [0.1, 0.2]}
    path = files.write_json(tmp_path / "a.json", data)
    assert "fusée" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == data
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == data
    with pytest.raises(SMCDError) as error:
        files.write_json(tmp_path, data)
    one_line(error, str(tmp_path), "folder")


# --- drawing -------------------------------------------------------------------------------------------------------


def test_drawing_changes_only_the_border_and_the_label():
    frames = noise(2, 256, 256, 3)
    before = frames.copy()
    boxes = np.array([[[0.25, 0.5, 0.75, 0.875]], [[0.25, 0.5, 0.75, 0.875]]], np.float32)
    drawn = media.draw_boxes(frames, boxes, np.array([[1], [0]]), ["cat"], colors=[(255, 0, 255)])
    np.testing.assert_array_equal(frames, before)
    assert not np.shares_memory(drawn, frames)
    np.testing.assert_array_equal(drawn[1], frames[1])  # absent there
    for line in (drawn[0, 128, 64:192], drawn[0, 223, 64:192], drawn[0, 128:224, 64], drawn[0, 128:224, 191]):
        assert (line == (255, 0, 255)).all()
    changed = (drawn[0] != frames[0]).any(-1)
    assert not changed[131:221, 67:189].any()  # the inside, lines of at most three pixels left out
    changed[128:224, 64:192] = False
    label = np.argwhere(changed)  # what is left stands on the box, at its left corner, no larger than three letters are
    assert label.min(0).tolist()[1] == 64
    assert label.max(0).tolist()[0] == 127
    assert np.ptp(label, axis=0).max() < 30
    assert len(label) > 150


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_a_label_is_legible_at_every_size(size):
    """Legible: black letters at least six pixels high on a tag of the object's colour, wherever the box is."""
    frames = np.full((1, size, size, 3), 60, np.uint8)
    color = media.object_colors(1)[0]
    widths = []
    for corner in ([0.4, 0.5, 0.9, 0.9], [0, 0, 0.3, 0.3], [0.9, 0.9, 1, 1]):
        box = np.array([[corner]], np.float32)
        plain = media.draw_boxes(frames, box, np.ones((1, 1)), [""])
        drawn = media.draw_boxes(frames, box, np.ones((1, 1)), ["HHH"])
        tag = np.argwhere((drawn != plain).any(-1)[0])
        (top, left), (bottom, right) = tag.min(0), tag.max(0) + 1
        pixels = drawn[0, top:bottom, left:right]
        ink = np.argwhere(pixels.astype(int).sum(-1) < 150)
        assert (pixels == color).all(-1).mean() > 0.3
        assert np.ptp(ink[:, 0]) + 1 >= max(6, size // 50)
        assert np.ptp(ink[:, 0]) + 1 < size / 6  # and does not cover the picture
        widths.append(right - left)
    assert min(widths) > 0.7 * max(widths)  # a line of the box may hide its edge, the picture's edge cuts nothing off


def test_lines_grow_with_the_picture():
    widths = []
    for size in (64, 1024):
        frames = np.zeros((1, size, size, 3), np.uint8)
        drawn = media.draw_boxes(frames, np.array([[[0.25, 0.25, 0.75, 0.75]]]), np.ones((1, 1)), [""])
        widths.append(int(drawn[0, size // 2, : size // 2].any(-1).sum()))
    assert widths == [1, 7]


@pytest.mark.parametrize(
    "label", ["日本のロケット", "ракета", "صاروخ", "🚀", "a\nb\tc", "\x00", "e\u0301", "very " * 99]
)
def test_any_label_can_be_drawn(label):
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    drawn = media.draw_boxes(frames, np.array([[[0.2, 0.5, 0.8, 0.9]]]), np.ones((1, 1)), [label])
    assert drawn.shape == frames.shape
    assert drawn.any()


def test_a_label_stays_on_one_line():
    frames, boxes = np.zeros((1, 64, 64, 3), np.uint8), np.array([[[0.2, 0.5, 0.8, 0.9]]])
    broken, plain = (media.draw_boxes(frames, boxes, np.ones((1, 1)), [label]) for label in ("a\nb\r\tc", "a b  c"))
    np.testing.assert_array_equal(broken, plain)


def test_boxes_at_and_beyond_the_edge_are_drawn_clipped():
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    color = [(9, 9, 9)]
    whole = media.draw_boxes(frames, np.array([[[-3.0, -1, 2, 5]]]), np.ones((1, 1)), [""], colors=color)
    np.testing.assert_array_equal(
        whole, media.draw_boxes(frames, np.array([[[0, 0, 1.0, 1]]]), np.ones((1, 1)), [""], colors=color)
    )
    point = media.draw_boxes(frames, np.array([[[1.0, 1, 1, 1]]]), np.ones((1, 1)), [""], colors=color)
    np.testing.assert_array_equal(np.argwhere(point[0].any(-1)), [[31, 31]])


def test_a_later_box_does_not_cross_an_earlier_label():
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    boxes = np.array([[[0.2, 0.5, 0.6, 0.9], [0.22, 0.2, 0.3, 0.7]]])
    alone = media.draw_boxes(frames, boxes, np.array([[1, 0]]), ["under", ""])
    both = media.draw_boxes(frames, boxes, np.array([[1, 1]]), ["under", ""])
    tag = slice(52, 62), slice(26, 50)
    assert alone[0][tag].any(-1).all()
    np.testing.assert_array_equal(both[0][tag], alone[0][tag])


def test_twenty_one_objects_have_distinct_colours():
    colors = media.object_colors(21)
    assert len(set(colors)) == 21
    assert media.object_colors(22)[21] == colors[0]
    assert colors[:2] == [(230, 159, 0), (86, 180, 233)]  # Okabe and Ito's orange and sky blue


def test_drawing_refuses_what_does_not_fit():
    frames, boxes, mask = noise(2, 16, 16, 3), np.zeros((2, 1, 4), np.float32), np.ones((2, 1))
    boxes[..., 2:] = 0.5
    for bad in (
        (frames.astype(np.float32), boxes, mask, ["a"]),
        (frames[:1], boxes, mask, ["a"]),
        (frames, boxes, mask[:, :0], ["a"]),
        (frames, boxes, mask, ["a", "b"]),
    ):
        with pytest.raises(SMCDError):
            media.draw_boxes(*bad)
    boxes[1, 0, 2] = np.nan
    with pytest.raises(SMCDError) as error:
        media.draw_boxes(frames, boxes, mask, ["cat"])
    one_line(error, "object 0", "cat", "frame 1")
    media.draw_boxes(frames, boxes, np.array([[1], [0]]), ["cat"])  # masked out, it does no harm


def test_a_contact_sheet_holds_every_frame():
    first, second = noise(3, 20, 30, 3, seed=1), noise(5, 24, 16, 3, seed=2)
    for columns in (None, 1, 2):
        sheet = media.contact_sheet([first, second], columns=columns, captions=["one", "two"])
        windows = {
            frame.shape: np.lib.stride_tricks.sliding_window_view(sheet, frame.shape)[:, :, 0]
            for frame in (first[0], second[0])
        }
        for frame in [*first, *second]:
            assert (windows[frame.shape] == frame).all((-1, -2, -3)).sum() == 1


def test_frames_of_a_contact_sheet_stand_apart_in_both_directions():
    sheet = media.contact_sheet([np.zeros((4, 16, 16, 3), np.uint8)], columns=2)
    for line in (sheet[10, :, 0], sheet[:, 10, 0]):
        edges = np.flatnonzero(np.diff(line.astype(int)))
        assert np.diff(edges).tolist() == [16, 2, 16]


def test_a_contact_sheets_captions_are_dark_on_white_above_each_row():
    videos = [np.full((2, 32, 32, 3), 200, np.uint8)] * 2
    plain = media.contact_sheet(videos)
    captioned = media.contact_sheet(videos, captions=["first", "second"])
    assert captioned.shape[1] == plain.shape[1]
    assert captioned.shape[0] > plain.shape[0]
    assert captioned[: (captioned.shape[0] - plain.shape[0]) // 2].min() < 60
    assert plain.min() == 200


def test_a_contact_sheet_refuses_what_does_not_fit():
    video = noise(2, 8, 8, 3)
    for videos, options in (([], {}), ([video], {"captions": []}), ([video], {"columns": 0}), ([video[0]], {})):
        with pytest.raises(SMCDError):
            media.contact_sheet(videos, **options)
