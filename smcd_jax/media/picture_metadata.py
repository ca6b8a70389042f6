"""Removal of picture metadata (text, colour profiles, EXIF) that is broken or so large that reading would fail."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

PNG_START, JPEG_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"

_MAX_UNPACKED = 1 << 20  # bytes of an unpacked text or colour profile; Pillow rejects pictures with larger ones
_MAX_TEXTS = 32  # texts per picture; Pillow rejects it if they unpack to more than 64 MiB in total
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_LENGTHS = {b"pHYs": 9, b"tIME": 7, b"gAMA": 4, b"cHRM": 32, b"sRGB": 1}
# Ancillary chunks that change how the picture looks; the others may be left out.
_VISIBLE = (b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT")


def without_bad_metadata(data: bytes) -> tuple[bytes, list[str]]:
    """Returns an encoded picture without metadata that would stop its decoder.

    Args:
        data: Bytes of the file. Those of formats other than PNG and JPEG are returned unchanged.

    Returns:
        The bytes, and descriptions of what was removed. For most pictures nothing is removed, and the bytes are
        unchanged.
    """
    if data.startswith(PNG_START):
        return _clean_png(data)
    if data.startswith(JPEG_START):
        return _clean_jpeg(data)
    return data, []


def stored_orientation(exif: bytes) -> int:
    """Returns the orientation, 1 to 8, from EXIF data whose other parts may be broken; 1 if it is missing."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 1
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
        if tag == _ORIENTATION and kind == 3 and 1 <= value <= 8:
            return value
    return 1


class _Chunk(NamedTuple):
    kind: bytes
    content: bytes
    whole: bytes
    intact: bool


def _png_chunks(data: bytes) -> Iterator[_Chunk]:
    """Yields the chunks of a PNG; the last holds all remaining bytes if its length is wrong."""
    at = len(PNG_START)
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(data):
            yield _Chunk(b"", b"", data[at:], True)
            return
        content = data[at + 8 : end - 4]
        intact = zlib.crc32(kind + content).to_bytes(4, "big") == data[end - 4 : end]
        yield _Chunk(kind, content, data[at:end], intact)
        at = end


def _clean_png(data: bytes) -> tuple[bytes, list[str]]:
    chunks = list(_png_chunks(data))
    problems = [_png_problem(chunk) for chunk in chunks]
    if sum(chunk.kind in _TEXTS for chunk in chunks) > _MAX_TEXTS:
        problems.append("a large text")
    if not any(problems):
        return data, []
    kept = [
        chunk.whole
        for chunk, problem in zip(chunks, problems, strict=False)
        if _is_critical(chunk.kind) or (chunk.kind in _VISIBLE and not problem)
    ]
    return PNG_START + b"".join(kept), sorted({problem for problem in problems if problem})


def _is_critical(kind: bytes) -> bool:
    return not kind[:1].islower()


def _png_problem(chunk: _Chunk) -> str:
    """Returns what is wrong with an ancillary chunk, as text; empty if nothing is."""
    name = {b"iCCP": "colour profile", b"eXIf": "EXIF"}.get(chunk.kind, "text or time")
    if _is_critical(chunk.kind):
        return ""
    if not chunk.intact or len(chunk.content) != _LENGTHS.get(chunk.kind, len(chunk.content)):
        return f"a damaged {name}"
    if chunk.kind in (b"iCCP", b"zTXt", b"iTXt") and _unpacks_beyond(chunk):
        return f"a large {name}"
    if chunk.kind in _TEXTS and (len(chunk.content) > _MAX_UNPACKED or b"\0" not in chunk.content):
        return f"a large or damaged {name}"
    return ""


def _unpacks_beyond(chunk: _Chunk) -> bool:
    """Returns whether the packed part of a chunk exceeds the limit when unpacked, or uses an unknown method."""
    _, _, rest = chunk.content.partition(b"\0")
    if chunk.kind == b"iTXt":
        if rest[:1] != b"\1":
            return False
        rest = rest[1:2] + rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    if rest[:1] != b"\0":  # the only compression method is number 0
        return True
    try:
        return len(zlib.decompressobj().decompress(rest[1:], _MAX_UNPACKED + 1)) > _MAX_UNPACKED
    except zlib.error:
        return False  # Pillow itself leaves these out


def _clean_jpeg(data: bytes) -> tuple[bytes, list[str]]:
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as image:
            image.getexif().get(_ORIENTATION)
        return data, []
    except Exception:  # Pillow raises many types for broken segments; broken pixels show when they are decoded
        stripped, exif = _strip_jpeg(data)
    orientation = stored_orientation(exif) if exif else 1
    if orientation != 1:
        upright = Image.Exif()
        upright[_ORIENTATION] = orientation
        content = upright.tobytes()
        segment = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
        stripped = stripped[:2] + segment + stripped[2:]
    return stripped, ["damaged metadata"]


def _strip_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """Returns a JPEG without comments and application segments (except JFIF's and Adobe's), and its EXIF data."""
    kept, exif, at = [data[:2]], b"", 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at : at + 2 + length]
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            exif = exif or segment[4:]
        if not (0xE1 <= marker <= 0xEF or marker == 0xFE) or (marker == 0xEE and length >= 14):
            kept.append(segment)
        at += 2 + max(2, length)
    return b"".join(kept) + data[at:], exif
