"""Still pictures: reading as 8-bit sRGB, resizing, and conversion to and from the model's range of -1..1."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from smcd_jax.errors import SMCDError
from smcd_jax.files.placeholders import check_is_content
from smcd_jax.media.picture_metadata import JPEG_START, PNG_START, stored_orientation, without_bad_metadata

logger = logging.getLogger(__name__)

# Pillow reads more formats, some by starting other programs (EPS: Ghostscript), which is unsafe for untrusted files.
PICTURE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000", "HEIF")
PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".jp2"),
    *(".heic", ".heif"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Matroska and WebM, Ogg, MPEG program streams, Flash.
_VIDEO_STARTS = (b"\x1aE\xdf\xa3", b"OggS", b"\0\0\x01\xba", b"FLV\x01")
_OTHER_KINDS = {
    b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file",
    b"<svg": "an SVG",
    b"<?xml": "an SVG or another XML file",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"PK\x03\x04": "an archive",
}

# Exceptions of Pillow's decoders on damaged files: from its documentation, and found by truncating and changing files.
_DECODER_ERRORS = (OSError, EOFError, SyntaxError, ValueError, IndexError, RuntimeError, struct.error, zlib.error)

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

# The transposition that makes a picture of each EXIF orientation upright.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_ARGUMENT = "picture"  # name of an image or array in messages

LARGEST_SIDE = 16384  # largest side of a picture or video in pixels; encoders do not accept much more


def read_picture(picture: str | os.PathLike[str] | Image.Image | np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture as 8-bit sRGB.

    The EXIF orientation is applied. An embedded colour profile (Adobe RGB, Display P3, CMYK) is converted to sRGB,
    which the reference does not do. Transparency is composited on white. 16-bit values are scaled to 8 bits, not
    clipped. From an animated file or a video the first frame is read, from a PIL image its current frame.

    Args:
        picture: Path, PIL image, or array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (the fourth channel is opacity):
            uint8 in 0..255, uint16 in 0..65535, or floating point in 0..1. It is not modified.

    Returns:
        New array, uint8 [h, w, 3], channels red, green, blue.

    Raises:
        SMCDError: The file is missing, is not a picture, is truncated or damaged, or has too many pixels; or the array
            has another shape, type or range.
    """
    if isinstance(picture, str | os.PathLike):
        return _read_file(Path(picture))
    image = picture if isinstance(picture, Image.Image) else _image_from_array(np.asarray(picture))
    with decoding(_ARGUMENT):
        return image_to_array(image, _ARGUMENT)


def resize_picture(
    picture: UInt8[np.ndarray, "h w 3"], *, height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes a picture to ``height`` x ``width`` pixels without cropping; the aspect ratio may change.

    Bilinear with antialiasing: when shrinking, each pixel averages the area it covers. The reference uses OpenCV's
    bilinear interpolation, which reads four pixels and aliases; when enlarging the two agree.

    Raises:
        SMCDError: ``height`` or ``width`` is below 1.
    """
    for argument, pixels in (("height", height), ("width", width)):
        if pixels < 1:
            raise SMCDError(f"{argument} must be at least 1 pixel, got {pixels}", argument=argument, value=pixels)
    if picture.shape[:2] == (height, width):
        return picture.copy()
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def to_model_range(picture: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Converts uint8 in 0..255 to float32 in -1..1, of any shape: (x / 255 - 0.5) / 0.5, exact at both ends."""
    return (np.asarray(picture, np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def to_uint8(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Converts floating point in -1..1, of any shape and precision, to uint8: rounded to nearest, clipped outside.

    Raises:
        SMCDError: A value is NaN or infinite.
    """
    values = np.asarray(values).astype(np.float32)
    if not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        raise SMCDError(
            f"pixel values must be finite, got {count} of {values.size} that are NaN or infinite; "
            "check the weights, or run in float32",
            argument="values",
            value=count,
        )
    return np.clip(np.rint((values + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)


def image_to_array(image: Image.Image, source: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Converts a PIL image of any mode to 8-bit sRGB on white; messages name ``source``, a path or an argument."""
    image = _upright(image, source)
    profile = image.info.get("icc_profile")
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image), source))
    opacity = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colours = _without_opacity(image)
    colours = _to_srgb(colours, profile, source) if profile else colours.convert("RGB")
    if opacity is not None:
        colours = Image.composite(colours, Image.new("RGB", colours.size, "white"), opacity)
    return np.array(colours)


def _upright(image: Image.Image, source: str | Path) -> Image.Image:
    """Returns the image rotated and mirrored by its EXIF orientation, even if other parts of EXIF are broken."""
    try:
        return ImageOps.exif_transpose(image)
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        image.load()  # raises an error for damaged pixels
        logger.warning("%s: damaged EXIF data (%s); only the orientation is read", source, error)
        method = _TRANSPOSE.get(stored_orientation(image.info.get("exif") or b""))
        return image if method is None else image.transpose(method)


def _read_file(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        if path.is_dir():
            raise SMCDError(f"{path}: a folder, not a picture; pass the path of one picture", path=path)
        check_is_content(path)
        if _is_video(path):
            from smcd_jax.media.decoder import first_frame

            logger.warning("%s: a video; its first frame is read", path)
            return first_frame(path)
        with path.open("rb") as file, decoding(path), open_image(file) as image:
            return image_to_array(image, path)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> SMCDError:
    """Returns the error for a file that the operating system cannot open."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SMCDError(f"{path}: no such file; check the path", path=path)
    reason = (error.strerror or str(error)).lower()
    return SMCDError(f"{path}: cannot be read ({reason}); check its permissions and the disk", path=path)


@contextlib.contextmanager
def decoding(source: str | Path) -> Iterator[None]:
    """Turns Pillow's errors in the block into an `SMCDError` about ``source``, and its warnings into log lines.

    Args:
        source: Path of the file, or name of the argument that holds the picture.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)  # such as damaged EXIF data next to intact pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except SMCDError:
        raise
    except _OtherKindError as error:
        raise _refusal(source, str(error)) from error
    except UnidentifiedImageError as error:
        raise _refusal(source, "not a supported picture; use PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        millions = Image.MAX_IMAGE_PIXELS // 1_000_000
        raise _refusal(source, f"more than {millions} million pixels; make the picture smaller") from error
    except _DECODER_ERRORS as error:
        raise _refusal(source, f"damaged or truncated ({error}); copy or convert the file again") from error
    for warning in caught:
        logger.warning("%s: %s", source, warning.message)


def _refusal(source: str | Path, reason: str, value: Any = None) -> SMCDError:
    field = {"path": source} if isinstance(source, Path) else {"argument": source}
    return SMCDError(f"{source}: {reason}", value=value, **field)


def open_image(file: io.BufferedReader) -> Image.Image:
    """Opens a picture or animation of one of `PICTURE_FORMATS` with Pillow; call it inside `decoding`.

    Text, colour profiles and EXIF that are damaged or too large are left out, with a warning.
    """
    start = file.read(32)
    file.seek(0)
    _check_kind(start)
    if start.startswith((PNG_START, JPEG_START)):
        data, left_out = without_bad_metadata(file.read())
        file = io.BytesIO(data)
        for part in left_out:
            warnings.warn(f"{part} is left out", UserWarning, stacklevel=2)
    try:
        return Image.open(file, formats=[kind for kind in PICTURE_FORMATS if kind in _formats_of_this_pillow()])
    except UnidentifiedImageError as error:
        if _brand(start) in _HEIF_BRANDS:
            raise OSError("incomplete HEIC header") from error
        raise


def _check_kind(start: bytes) -> None:
    """Rejects common kinds of files that are not supported, with a message for each kind.

    Raises:
        _OtherKindError: The first bytes are those of such a file.
    """
    brand = _brand(start)
    if brand in _HEIF_BRANDS and not _register_heif():
        raise _OtherKindError(
            "HEIC (as iPhones store it), which is not read; save it as JPEG, or pip install pillow-heif"
        )
    if brand in (b"avif", b"avis") and "AVIF" not in _formats_of_this_pillow():
        raise _OtherKindError("AVIF, which this Pillow does not read; save it as JPEG, or pip install 'pillow>=11.3'")
    if _begins_as_video(start):
        raise _OtherKindError("a video, not a picture; save one of its frames as a picture")
    for mark, kind in _OTHER_KINDS.items():
        if start.startswith(mark):
            raise _OtherKindError(f"{kind}, which is not read; save it as PNG or JPEG")


def _brand(start: bytes) -> bytes:
    """Returns the brand of an ISO media file (HEIC, AVIF, MP4) from its first bytes, or an empty string."""
    return start[8:12] if start[4:8] == b"ftyp" else b""


def _is_video(path: Path) -> bool:
    with path.open("rb") as file:
        return _begins_as_video(file.read(32))


def _begins_as_video(start: bytes) -> bool:
    if brand := _brand(start):
        return brand not in (*_HEIF_BRANDS, b"avif", b"avis")
    return start.startswith(_VIDEO_STARTS) or (start.startswith(b"RIFF") and start[8:12] == b"AVI ")


def _register_heif() -> bool:
    """Returns whether Pillow reads HEIF files, through the optional library pillow-heif."""
    if "HEIF" in _formats_of_this_pillow():
        return True
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


class _OtherKindError(Exception):
    """A file of an unsupported kind; the message completes a sentence about the file."""


def _formats_of_this_pillow() -> dict:
    Image.init()  # loads the plugins, once
    return Image.OPEN


def _image_from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        reason = f"the array must have shape [height, width, 3], got {array.shape}"
        raise _refusal(_ARGUMENT, reason, array.shape)
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array, _ARGUMENT)))


def _eight_bits(values: np.ndarray, source: str | Path) -> np.ndarray:
    """Scales 16-bit integers, or floats in 0..1, to uint8 in 0..255, rounded; returns uint8 unchanged."""
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        top, kind = 1, "floating-point values"
    elif values.dtype in (np.uint16, np.int32):  # Pillow holds some 16-bit files as int32
        top, kind = 65535, "16-bit values"
    else:
        reason = f"the values must be uint8, uint16 or floating point, got {values.dtype}"
        raise _refusal(source, reason, values.dtype)
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= top):  # also true for NaN
        raise _refusal(source, f"{kind} must lie in 0..{top}, got {low:g}..{high:g}", (float(low), float(high)))
    return np.rint(values * (255 / top)).astype(np.uint8)


def _without_opacity(image: Image.Image) -> Image.Image:
    """Returns the image without opacity, in a mode that a colour profile can describe: L, RGB or CMYK."""
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _to_srgb(image: Image.Image, profile: bytes, source: str | Path) -> Image.Image:
    from PIL import ImageCms

    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "L" and embedded.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        return ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as error:
        logger.warning("%s: invalid colour profile (%s); the colours are read as sRGB", source, error)
        return image.convert("RGB")
