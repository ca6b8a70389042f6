"""Encoded frames: checked to be readable before they are stored, and made smaller where that is asked for."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.records.schema import JPEG_START, PNG_START, BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.media import read_picture, resize_picture
from smcd_jax.media.pictures import decoding, open_image

UNREADABLE, MISSING = "unreadable frame", "missing frame"
JPEG_QUALITY = 95
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


@dataclasses.dataclass(frozen=True)
class Frame:
    """One encoded picture, jpeg or png, known to decode to `size` (width, height).

    `recoded` is True where its bytes are not those of the raw data.
    """

    data: bytes
    size: tuple[int, int]
    recoded: bool = False


def read_frame(path: Path) -> Frame:
    """The picture in a file, as `check_frame`.

    Raises:
        BadClip: no such file, or not a picture that decodes to its end.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadClip(f"{path}: no such file", kind=MISSING) from error
    except OSError as error:
        raise BadClip(f"{path}: cannot read: {error.strerror}", kind=UNREADABLE) from error
    return check_frame(data, str(path))


def check_frame(data: bytes, name: str) -> Frame:
    """An encoded picture as it is, if TensorFlow and Pillow decode it to the same pixels; else encoded anew as png.

    Left as they are: upright jpeg and png files, grey or coloured, of 8 bits and without transparency. Anything else
    that `smcd_jax.media.read_picture` reads (turned by EXIF, CMYK, 16 bit, transparent, other formats) is stored as it
    reads it. Every picture is decoded to its end.

    Args:
        data: the file's bytes.
        name: stands for the picture in messages.

    Raises:
        BadClip: not a picture, damaged or cut short.
    """
    try:
        with decoding(name), open_image(io.BytesIO(data)) as image:
            size = image.size
            if data.startswith((JPEG_START, PNG_START)) and _plain(image):
                # An eighth of a jpeg's size: all its bits are read, but few pixels are computed.
                image.draft(None, (size[0] // 8, size[1] // 8))
                image.load()
                return Frame(data, size)
            picture = read_picture(image)
    except SMCDError as error:
        raise BadClip(str(error), kind=UNREADABLE) from error
    return Frame(encode_png(picture), (picture.shape[1], picture.shape[0]), recoded=True)


def decode_frame(data: bytes) -> np.ndarray:
    """An encoded frame as uint8 [h, w, 3].

    Raises:
        BadClip: damaged.
    """
    try:
        with decoding("a frame"), open_image(io.BytesIO(data)) as image:
            return read_picture(image)
    except SMCDError as error:
        raise BadClip(str(error), kind=UNREADABLE) from error


def encode_png(picture: np.ndarray) -> bytes:
    """uint8 [h, w, 3] as png, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def encode_jpeg(picture: np.ndarray | Image.Image) -> bytes:
    """uint8 [h, w, 3], or a PIL image of mode RGB, as jpeg of quality 95 with colours at full resolution."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class StoredFrames:
    """In what size frames are stored; at most one of the two is given, and with neither they stay as they are.

    A frame that has the size already keeps its bytes; any other is stored as jpeg of quality 95. Boxes are in 0..1 of
    the picture, so they stay as they are.

    Attributes:
        short_side: pixels that the shorter side may have; larger frames are shrunk, their aspect kept to the nearest
            pixel.
        size: width and height that every frame gets, enlarged where it is smaller, not cropped: as
            `smcd_jax.media.resize_picture`.
    """

    short_side: int | None = None
    size: tuple[int, int] | None = None

    @property
    def jpeg_quality(self) -> int | None:
        """Of frames that are encoded anew; None where none is."""
        return None if self.short_side is None and self.size is None else JPEG_QUALITY

    def apply(self, clip: Clip) -> Clip:
        """The clip with frames as they are to be stored.

        Raises:
            BadClip: a frame is damaged.
        """
        size = self._size_of(clip)
        if size == (clip.width, clip.height):
            return clip
        resize = _shrunk if self.size is None else _resized
        frames = tuple(resize(frame, clip.clip_id, size=size) for frame in clip.frames)
        return dataclasses.replace(clip, width=size[0], height=size[1], frames=frames)

    def _size_of(self, clip: Clip) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        short = min(clip.width, clip.height)
        if self.short_side is None or short <= self.short_side:
            return clip.width, clip.height
        width, height = (max(1, round(side * self.short_side / short)) for side in (clip.width, clip.height))
        return width, height


def _resized(frame: bytes, name: str, *, size: tuple[int, int]) -> bytes:
    try:
        picture = decode_frame(frame)
    except BadClip as error:
        raise BadClip(f"{name}: {error.reason}", kind=error.kind) from error
    return encode_jpeg(resize_picture(picture, width=size[0], height=size[1]))


def _shrunk(frame: bytes, name: str, *, size: tuple[int, int]) -> bytes:
    try:
        with decoding(name), open_image(io.BytesIO(frame)) as image:
            # A jpeg is decoded at the least of 1, 1/2, 1/4 and 1/8 that is no smaller than what is wanted.
            image.draft("RGB", size)
            return encode_jpeg(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    except SMCDError as error:
        raise BadClip(str(error), kind=UNREADABLE) from error


def _plain(image: Image.Image) -> bool:
    eight_bits = image.mode in ("1", "L", "P", "RGB")
    return eight_bits and not image.has_transparency_data and image.getexif().get(_ORIENTATION, 1) == 1
