"""Reading pictures of every kind, resizing, and conversion to the model's range."""

from __future__ import annotations

import contextlib
import io
import logging

import numpy as np
import pytest
from PIL import Image, ImageCms

from smcd_jax import media
from smcd_jax.errors import SMCDError
from tests.errors import refused
from tests.media.samples import gradient, noise, saved


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
    # JPEG is lossy: values may change by a level or two.
    np.testing.assert_allclose(media.read_picture(path).reshape(-1, 3).mean(0), (0, 255, 255), atol=2)


def test_transparency_is_composited_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = (0, 128, 255)
    expected = [[[255, 255, 255], [227, 127, 127], [200, 0, 0]]]  # 128/255 of the colour and the rest white
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    for given in (path, pixels):
        np.testing.assert_allclose(media.read_picture(given).astype(int), expected, atol=1)  # rounding


def test_a_palette_with_a_transparent_colour_shows_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = saved(image, tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(media.read_picture(path), [[[255, 255, 255], [0, 0, 255]]])


def test_exif_orientation_is_applied(tmp_path):
    pixels = noise(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated, so the picture is displayed rotated clockwise by 90 degrees
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(media.read_picture(path), np.rot90(pixels, -1))


def test_a_colour_profile_is_converted_to_srgb(tmp_path):
    # The profile is linear (gamma 1): 0.5 in linear light is level 188 in sRGB (IEC 61966-2-1).
    profile = linear_grey_profile()
    path = saved(Image.new("L", (2, 2), 128), tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(media.read_picture(path).astype(int), 188, atol=1)  # rounding


def linear_grey_profile() -> bytes:
    """Returns the smallest ICC v2 profile: grey, white point D50, and the identity as tone curve."""

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
    np.testing.assert_allclose(media.read_picture(path).astype(int), pixels, atol=1)  # rounding


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
    for path in (tmp_path / "none.png", tmp_path):
        with refused(path=path):
            media.read_picture(path)
    for content in (b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        (tmp_path / "a.png").write_bytes(content)
        with refused(path=tmp_path / "a.png") as error:
            media.read_picture(tmp_path / "a.png")
        assert "not a supported picture" in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_a_truncated_file_is_refused(tmp_path, kind):
    file = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(file, format=kind)
    path = tmp_path / "a.picture"
    path.write_bytes(file.getvalue()[: file.tell() // 2])
    with refused(path=path):
        media.read_picture(path)


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
            with contextlib.suppress(SMCDError):  # any other exception fails the test
                assert media.read_picture(tmp_path / "a").dtype == np.uint8


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    # 100 million pixels of one colour take only a few kilobytes on disk.
    path = saved(Image.new("1", (10_000, 10_000)), tmp_path / "a.png")
    with refused(path=path) as error:
        media.read_picture(path)
    assert isinstance(error.value.__cause__, Image.DecompressionBombWarning)


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.zeros((4, 4, 2), np.uint8), (4, 4, 2)),
        (np.zeros((2, 4, 4, 3), np.uint8), (2, 4, 4, 3)),
        (np.zeros((0, 4, 3), np.uint8), (0, 4, 3)),
        (np.zeros((4, 4, 3), np.int64), np.dtype(np.int64)),
        (np.full((4, 4, 3), -0.5, np.float32), (-0.5, -0.5)),
        (np.full((4, 4, 3), 1.5, np.float32), (1.5, 1.5)),
    ],
)
def test_arrays_of_another_shape_type_or_range_are_refused(array, value):
    with refused("picture", value=value):
        media.read_picture(array)


def test_an_array_with_nan_is_refused():
    with refused("picture"):
        media.read_picture(np.full((4, 4, 3), np.nan, np.float32))


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
    # With antialiasing, a fine chequerboard becomes its mean; point sampling would give 0 or 255.
    board = np.broadcast_to((np.indices((64, 64)).sum(0) % 2 * 255)[..., None], (64, 64, 3)).astype(np.uint8)
    small = media.resize_picture(board, height=8, width=8)
    np.testing.assert_allclose(small.astype(int), 127.5, atol=2)  # the filter's weights are quantised


def test_resizing_to_the_same_size_copies_and_an_empty_size_is_refused():
    picture = noise(6, 6, 3)
    same = media.resize_picture(picture, height=6, width=6)
    np.testing.assert_array_equal(same, picture)
    assert not np.shares_memory(same, picture)
    with refused("height", value=0):
        media.resize_picture(picture, height=0, width=6)
    with refused("width", value=-1):
        media.resize_picture(picture, height=6, width=-1)


def test_converting_to_the_range_of_the_model_and_back_is_lossless():
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
    with refused("values", value=1):
        media.to_uint8(np.array([0, np.nan], np.float32))
