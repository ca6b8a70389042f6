"""Owns still pictures: reading any of them as 8-bit sRGB, resizing, and the model's range of -1..1."""

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

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from smcd_jax.errors import SMCDError

logger = logging.getLogger(__name__)

# Pillow knows more formats, some of which start other programs (EPS starts Ghostscript): pictures come from strangers.
PICTURE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".jp2")

# What Pillow's decoders raise on damaged files: by its documentation, and by cutting files and flipping their bytes.
_DECODER_ERRORS = (OSError, EOFError, SyntaxError, ValueError, IndexError, RuntimeError, struct.error, zlib.error)

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")

LARGEST_SIDE = 16384  # of a picture or a video, in pixels: no encoder takes much more


def read_picture(picture: str | os.PathLike[str] | Image.Image | np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture as 8-bit sRGB.

    The EXIF orientation is applied; an embedded colour profile (Adobe RGB, Display P3, CMYK) is converted to sRGB,
    which the reference does not do; transparency is composited on white; 16-bit values are scaled to 8 bit, not
    clipped; of an animated file the first frame is read, of a PIL image the frame it stands at.

    Args:
        picture: a path, a PIL image, or an array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (the fourth is opacity):
            uint8 in 0..255, uint16 in 0..65535, or floating point in 0..1. What is given is not changed.

    Returns:
        A new array, uint8, height x width x (red, green, blue).

    Raises:
        SMCDError: no such file, not a picture, cut short or damaged, too many pixels, or an array of another kind.
    """
    if isinstance(picture, str | os.PathLike):
        return _read_file(Path(picture))
    if isinstance(picture, Image.Image):
        image, name = picture, "the picture given"
    else:
        image, name = _image_from_array(np.asarray(picture)), "the array given"
    with decoding(name):
        return image_to_array(image, name)


def resize_picture(
    picture: UInt8[np.ndarray, "h w 3"], *, height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize a picture to ``height`` x ``width`` pixels, without cropping: the aspect changes where it must.

    Bilinear, as the reference, and antialiased: when shrinking, each pixel averages all that it covers. (The
    reference's OpenCV bilinear reads only four pixels and so aliases; when enlarging the two agree.)
    """
    if height < 1 or width < 1:
        raise SMCDError(f"cannot resize a picture to {width} x {height} pixels: both must be at least 1")
    if picture.shape[:2] == (height, width):
        return picture.copy()
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def to_model_range(picture: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Map uint8 0..255 to float32 -1..1, of any shape: (x / 255 - 0.5) / 0.5, exact at both ends."""
    return (np.asarray(picture, np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def to_uint8(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Map floating point -1..1, of any shape and precision, to uint8: rounded to the nearest level, clipped outside.

    Raises:
        SMCDError: a value is NaN or infinite.
    """
    values = np.asarray(values).astype(np.float32)
    if not np.isfinite(values).all():
        bad = int(values.size - np.isfinite(values).sum())
        raise SMCDError(
            f"cannot make a picture of NaN or infinite values: {bad} of {values.size} are; "
            "check the weights, or run in float32"
        )
    return np.clip(np.rint((values + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)


def image_to_array(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Convert a PIL image of any mode to 8-bit sRGB on white; ``name`` stands for it in messages."""
    image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image), name))
    opacity = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    colours = _without_opacity(image)
    colours = _to_srgb(colours, profile, name) if profile else colours.convert("RGB")
    if opacity is not None:
        colours = Image.composite(colours, Image.new("RGB", colours.size, "white"), opacity)
    return np.array(colours)


def _read_file(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        if path.is_dir():
            raise SMCDError(f"{path} is a folder, not a picture; give the path of one picture in it")
        with path.open("rb") as file, decoding(str(path)), open_image(file) as image:
            return image_to_array(image, str(path))
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> SMCDError:
    """The one line for a file that the system does not let us open."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return SMCDError(f"no such file: {path}; check the path")
    return SMCDError(
        f"cannot read {path}: {(error.strerror or str(error)).lower()}; check its permissions and the disk"
    )


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn Pillow's many errors within the block into one line about ``name``, and its warnings into log lines."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)  # such as damaged EXIF data beside whole pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except SMCDError:
        raise
    except UnidentifiedImageError as error:
        raise SMCDError(
            f"{name} is not a picture this program reads; give a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file"
        ) from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise SMCDError(
            f"{name} is larger than {Image.MAX_IMAGE_PIXELS // 1_000_000} million pixels; make it smaller first"
        ) from error
    except _DECODER_ERRORS as error:
        raise SMCDError(f"{name} is damaged or cut short ({error}); fetch or make it anew") from error
    for warning in caught:
        logger.warning("%s: %s", name, warning.message)


def open_image(file: io.BufferedReader) -> Image.Image:
    """Open a picture or animation with Pillow, if it is of a format in ``PICTURE_FORMATS``; call it in ``decoding``."""
    return Image.open(file, formats=[kind for kind in PICTURE_FORMATS if kind in _formats_of_this_pillow()])


def _formats_of_this_pillow() -> dict:
    Image.init()  # loads the plugins; Pillow remembers that it did
    return Image.OPEN


def _image_from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise SMCDError(f"an array of shape {array.shape} is no picture; give [height, width, 3]")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(array, "the array given")))


def _eight_bits(values: np.ndarray, name: str) -> np.ndarray:
    """Scale 16-bit integers, or floats in 0..1, to uint8 in 0..255 (rounded); uint8 passes."""
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        top, wanted = 1, "floating-point values must lie in 0..1"
    elif values.dtype in (np.uint16, np.int32):  # int32 is how Pillow holds some 16-bit files
        top, wanted = 65535, "integer values wider than 8 bit must lie in 0..65535"
    else:
        raise SMCDError(f"{name} holds {values.dtype} values; give uint8 in 0..255 or floating point in 0..1")
    values = values.astype(np.float64)
    if not (values.min() >= 0 and values.max() <= top):  # also true of NaN
        raise SMCDError(f"{name} holds values from {values.min():g} to {values.max():g}; {wanted}")
    return np.rint(values * (255 / top)).astype(np.uint8)


def _without_opacity(image: Image.Image) -> Image.Image:
    """The colours alone, in a mode that a colour profile can describe: L, RGB or CMYK."""
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _to_srgb(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        logger.warning("%s: its colour profile cannot be used (%s); its colours are taken as sRGB", name, error)
        return image.convert("RGB")
