"""Encoded frames: validation before they are stored, and resizing on request."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.checks import require
from data_pipeline.records.schema import JPEG_START, PNG_START, BadClip, Clip
from smcd_jax.errors import SMCDError
from smcd_jax.media import read_picture, resize_picture
from smcd_jax.media.picture_metadata import without_bad_metadata
from smcd_jax.media.pictures import decoding, open_image

UNREADABLE, MISSING = "unreadable frame", "missing frame"
JPEG_QUALITY = 95
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


@dataclasses.dataclass(frozen=True)
class Frame:
    """One encoded picture, jpeg or png, that has been decoded successfully.

    Attributes:
        data: Encoded bytes.
        size: Width and height in pixels.
        recoded: Whether the bytes differ from those of the raw data.
    """

    data: bytes
    size: tuple[int, int]
    recoded: bool = False


def read_frame(path: Path) -> Frame:
    """Reads and checks the picture in a file (`check_frame`).

    Raises:
        BadClip: The file does not exist, or is not a picture that decodes completely.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise BadClip(f"{path}: file not found", kind=MISSING) from error
    except OSError as error:
        raise BadClip(f"{path}: cannot be read ({error.strerror})", kind=UNREADABLE) from error
    return check_frame(data, str(path))


def check_frame(data: bytes, name: str) -> Frame:
    """Returns an encoded picture unchanged if TensorFlow and Pillow decode it to the same pixels, else as png.

    Upright jpeg and png files, grey or color, with 8 bits and no transparency stay unchanged. Anything else that
    `smcd_jax.media.read_picture` reads (rotated by EXIF, CMYK, 16 bit, transparent, other formats) is stored as the
    pixels it returns. Every picture is decoded completely.

    Args:
        data: Bytes of the file.
        name: Name of the picture in messages.

    Raises:
        BadClip: The data are not a picture, or the picture is damaged or truncated.
    """
    data, left_out = without_bad_metadata(data)
    try:
        with decoding(name), open_image(io.BytesIO(data)) as image:
            size = image.size
            if data.startswith((JPEG_START, PNG_START)) and _is_plain(image):
                # At 1/8 size, Pillow reads all bits of a jpeg but computes few pixels.
                image.draft(None, (size[0] // 8, size[1] // 8))
                image.load()
                return Frame(data, size, recoded=bool(left_out))
            picture = read_picture(image)
    except SMCDError as error:
        raise BadClip(str(error), kind=UNREADABLE) from error
    return Frame(encode_png(picture), (picture.shape[1], picture.shape[0]), recoded=True)


def decode_frame(data: bytes) -> np.ndarray:
    """Decodes a frame to uint8 [h, w, 3].

    Raises:
        BadClip: The frame is damaged.
    """
    try:
        with decoding("frame"), open_image(io.BytesIO(data)) as image:
            return read_picture(image)
    except SMCDError as error:
        raise BadClip(str(error), kind=UNREADABLE) from error


def encode_png(picture: np.ndarray) -> bytes:
    """Encodes uint8 [h, w, 3] as png."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def encode_jpeg(picture: np.ndarray | Image.Image) -> bytes:
    """Encodes uint8 [h, w, 3], or a PIL image of mode RGB, as jpeg of quality 95 without chroma subsampling."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class StoredFrames:
    """Size at which frames are stored: `short_side`, `size`, or neither for the original size.

    A frame that already has the size keeps its bytes; any other is stored as jpeg of quality 95. Boxes are relative to
    the picture and do not change.

    Attributes:
        short_side: Largest length of the shorter side in pixels, at least 1; larger frames are shrunk, keeping their
            aspect ratio to the nearest pixel.
        size: Width and height of every frame in pixels, both at least 1; frames are resized without cropping, as by
            `smcd_jax.media.resize_picture`.

    Raises:
        SMCDError: A value is out of range, or both are given.
    """

    short_side: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self):
        if self.short_side is not None and self.size is not None:
            raise SMCDError("short_side and frame_size must not be combined; use one of them", argument="frame_size")
        require(self.short_side is None or self.short_side >= 1, "short_side", "at least 1", self.short_side)
        require(self.size is None or min(self.size) >= 1, "frame_size", "at least 1 x 1", self.size)

    @property
    def jpeg_quality(self) -> int | None:
        """Quality of re-encoded frames; None if frames keep their bytes."""
        return None if self.short_side is None and self.size is None else JPEG_QUALITY

    def apply(self, clip: Clip) -> Clip:
        """Returns the clip with its frames at the stored size.

        Raises:
            BadClip: A frame is damaged.
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
            # Decodes a jpeg at the smallest scale of 1, 1/2, 1/4 and 1/8 that is not below the requested size.
            image.draft("RGB", size)
            return encode_jpeg(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    except SMCDError as error:
        raise BadClip(str(error), kind=UNREADABLE) from error


def _is_plain(image: Image.Image) -> bool:
    eight_bits = image.mode in ("1", "L", "P", "RGB")
    return eight_bits and not image.has_transparency_data and image.getexif().get(_ORIENTATION, 1) == 1
