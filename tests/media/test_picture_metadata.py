"""Broken or large metadata (text, profiles, EXIF) never prevents reading a picture; errors name other formats."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from smcd_jax.media import pictures, read_picture
from smcd_jax.media.picture_metadata import stored_orientation, without_bad_metadata
from tests.errors import refused
from tests.media.samples import gradient

PICTURE = gradient(24, 32)


def png(**options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG", **options)
    return buffer.getvalue()


def jpeg(**options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes, *, intact: bool = True) -> bytes:
    checksum = zlib.crc32(kind + content) ^ (not intact)
    return len(content).to_bytes(4, "big") + kind + content + checksum.to_bytes(4, "big")


def with_chunk(extra: bytes, *, at_end: bool = False) -> bytes:
    data = png()
    at = data.index(b"\0\0\0\0IEND") if at_end else 33  # right after IHDR
    return data[:at] + extra + data[at:]


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("name", ["bigtext.png", "bigicc.png", "mine/c/0.png"])
def test_case_20_large_text_and_profiles(shared, name):
    assert read_picture(shared / "field_cases" / "20_png_big_text" / name).ndim == 3


BOMB = zlib.compress(b"\0" * (40 << 20))


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tEXt", b"Comment\0" + b"x" * (2 << 20)),
        chunk(b"zTXt", b"Comment\0\0" + BOMB),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
        chunk(b"iTXt", b"broken"),
        chunk(b"iCCP", b"profile\0\0" + BOMB),
        chunk(b"iCCP", b"profile\0\7" + BOMB[:9]),
        chunk(b"tEXt", b"Comment\0text", intact=False),
        chunk(b"eXIf", b"not EXIF at all"),
        chunk(b"tIME", b"12"),
        chunk(b"pHYs", b"1234"),
        chunk(b"gAMA", b""),
        chunk(b"prVt", b"private", intact=False),
    ],
)
def test_a_png_is_read_with_any_further_chunk(tmp_path, extra, at_end, caplog):
    (tmp_path / "a.png").write_bytes(with_chunk(extra, at_end=at_end))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), PICTURE)


def test_a_png_with_many_texts_is_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    for number in range(100):
        info.add_text(f"k{number}", "x" * (1 << 20), zip=True)
    (tmp_path / "a.png").write_bytes(png(pnginfo=info))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), PICTURE)


def test_valid_metadata_is_unchanged():
    for data in (png(), jpeg(), jpeg(exif=turned(6), comment=b"x"), png(exif=turned(3)), b"GIF89a", b""):
        assert without_bad_metadata(data) == (data, [])


BROKEN_EXIF = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIHH", 900, 0x0112, 3, 1, 6, 0) + b"\xff" * 40


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe1" + (len(BROKEN_EXIF) + 2).to_bytes(2, "big") + BROKEN_EXIF,
        b"\xff\xed\0\x20Photoshop 3.0\0" + b"8BIM" + b"\xff" * 12,
        b"\xff\xe2\0\x10MPF\0" + b"\xff" * 10,
        b"\xff\xe2\0\x14ICC_PROFILE\0\x05\x01" + b"\0" * 4,
        b"\xff\xe1\0\x30http://ns.adobe.com/xap/1.0/\0" + b"<" * 17,
        b"\xff\xee\0\x08Adobe\0",
    ],
)
def test_a_jpeg_is_read_with_any_further_segment(tmp_path, segment):
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.shape in (PICTURE.shape, PICTURE.swapaxes(0, 1).shape)
    upright = picture if picture.shape == PICTURE.shape else np.rot90(picture)
    assert np.abs(upright.astype(int) - PICTURE).mean() < 20


def test_the_orientation_is_honoured_beside_broken_exif(tmp_path, caplog):
    segment = b"\xff\xe1" + (len(BROKEN_EXIF) + 2).to_bytes(2, "big") + BROKEN_EXIF
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    assert read_picture(tmp_path / "a.jpg").shape == (32, 24, 3)
    assert stored_orientation(BROKEN_EXIF) == 6
    assert stored_orientation(b"Exif\0\0MM") == 1
    (tmp_path / "a.webp").write_bytes(b"")
    Image.fromarray(PICTURE).save(tmp_path / "a.webp", lossless=True, exif=BROKEN_EXIF)
    assert read_picture(tmp_path / "a.webp").shape == (32, 24, 3)


def test_case_22_heic_is_named(shared, monkeypatch):
    monkeypatch.setattr(pictures, "_register_heif", lambda: False)
    path = shared / "field_cases" / "22_heic" / "IMG_0001.HEIC"
    with refused(path=path) as record:
        read_picture(path)
    assert "pillow-heif" in str(record.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_read_upright(tmp_path, orientation):
    pytest.importorskip("pillow_heif")
    assert pictures._register_heif()
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = Image.fromarray(PICTURE).resize((96, 128), Image.Resampling.NEAREST)
    for name in ("a.heic", "a.jpg"):
        large.save(tmp_path / name, quality=95, exif=exif.tobytes())
    heic, jpg = (read_picture(tmp_path / name).astype(int) for name in ("a.heic", "a.jpg"))
    assert heic.shape == jpg.shape
    assert np.abs(heic - jpg).mean() < 6


def test_damaged_heic_is_refused(tmp_path):
    pytest.importorskip("pillow_heif")
    assert pictures._register_heif()
    Image.fromarray(PICTURE).resize((96, 128)).save(tmp_path / "whole.heic")
    whole = (tmp_path / "whole.heic").read_bytes()
    for length in (40, 200, len(whole) // 2):
        (tmp_path / "cut.heic").write_bytes(whole[:length])
        with refused(path=tmp_path / "cut.heic") as record:
            read_picture(tmp_path / "cut.heic")
        assert "damaged" in str(record.value)
    Image.fromarray(PICTURE).save(tmp_path / "jpeg.heic", "JPEG")
    assert read_picture(tmp_path / "jpeg.heic").shape == PICTURE.shape


@pytest.mark.parametrize(
    ("start", "word"),
    [
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x18ftypisom", "video"),
        (b"\0\0\0\x18ftypmif1", "HEIC"),  # fails even with HEIC support, because the file ends here
        (b"<svg xmlns=", "SVG"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
    ],
)
def test_the_kind_of_a_file_other_than_a_picture_is_named(tmp_path, start, word):
    (tmp_path / "a.jpg").write_bytes(start + b"\0" * 64)
    with refused(path=tmp_path / "a.jpg") as record:
        read_picture(tmp_path / "a.jpg")
    assert word in str(record.value)


def test_avif_is_read():
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "AVIF", quality=95)
    buffer.seek(0)
    assert np.abs(read_picture(Image.open(buffer)).astype(int) - PICTURE).mean() < 6
