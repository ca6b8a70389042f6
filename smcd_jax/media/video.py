"""Writing and reading videos as .mp4, .gif, .webp or a folder of pictures; the name selects the format."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.files.atomic import write_atomically, write_folder_atomically
from smcd_jax.media import animations
from smcd_jax.media.pictures import PICTURE_SUFFIXES, read_picture, unreadable
from smcd_jax.media.video_info import VideoInfo, timing_note

logger = logging.getLogger(__name__)

MAX_FPS = 1000  # WebP states times in milliseconds
GIF_MAX_FPS = 50  # a delay of 2/100 s; viewers slow down GIFs with shorter delays
FOLDER_FPS = 8.0  # a folder of pictures has no frame rate; the reference plays its results at this one

_WEBP_MAX_SIDE = 16383  # pixels
_ANIMATIONS = (".gif", ".webp")
_WRITABLE = (".mp4", *_ANIMATIONS)
_FRAME_NAME = re.compile(r"\d{4,}\.png")


def write_video(frames: Iterable[np.ndarray], path: str | os.PathLike[str], *, fps: float | int) -> Path:
    """Writes frames as a video file, atomically, in the format of the file name.

    - ``.mp4``: H.264, yuv420p, which browsers play. The format requires even sizes: an odd height or width is padded
      by repeating the last row or column.
    - ``.gif``: one palette for the clip. GIF counts 1/100 s, so single frames are off by up to one unit; the total
      time is exact to one unit.
    - ``.webp``: animated, lossy at quality 90.
    - a name that ends in ``/``, or in ``frames`` without a suffix: a folder of PNG files, see `write_frames`.

    Args:
        frames: Frames, uint8 [f, h, w, 3], or an iterable of uint8 [h, w, 3] of one size. They are consumed one at a
            time, except for GIF.
        path: File or folder to write; its parent folder must exist. An existing file is replaced.
        fps: Frames per second, above 0 and at most 1000; at most 50 for GIF.

    Returns:
        The path written.

    Raises:
        SMCDError: The suffix is unknown, the frames or ``fps`` are invalid, or the file cannot be written. Exceptions
            of ``frames`` itself are passed on. In all cases no partial file remains, and an older file is unchanged.
    """
    suffix = Path(path).suffix.lower()
    rate = _checked_fps(fps, most=GIF_MAX_FPS if suffix == ".gif" else MAX_FPS)
    if _names_a_folder(path):
        return write_frames(frames, path)
    path = Path(path)
    if suffix not in _WRITABLE:
        raise SMCDError(
            f"{path}: unknown video suffix {suffix!r}; use {', '.join(_WRITABLE)}, or a folder name ending in /",
            path=path,
            value=suffix,
        )
    from smcd_jax.media import encoder  # needs PyAV, which folders of pictures do not

    with write_atomically(path) as temporary:
        checked = _checked_frames(frames)
        if suffix == ".gif":
            checked = list(checked)
            encoding = encoder.gif_encoding(len(checked), rate)
        elif suffix == ".webp":
            checked, encoding = _fitting_webp(checked, path), encoder.WEBP
        else:
            checked, encoding = map(_padded_to_even, checked), encoder.MP4
        encoder.encode(checked, temporary, encoding, fps=rate, name=path)
    return path


def write_frames(frames: Iterable[np.ndarray], folder: str | os.PathLike[str]) -> Path:
    """Writes frames, as `write_video` accepts them, as ``folder``/0000.png, 0001.png and so on, atomically.

    A folder that contains only such frames is replaced.

    Returns:
        The folder written.

    Raises:
        SMCDError: The folder contains other files or cannot be written, or the frames are invalid.
    """

    def is_frame(entry: Path) -> bool:
        return _FRAME_NAME.fullmatch(entry.name) is not None and entry.is_file()

    with write_folder_atomically(folder, may_replace=is_frame) as temporary:
        for index, frame in enumerate(_checked_frames(frames)):
            Image.fromarray(frame).save(temporary / f"{index:04d}.png")
    return Path(folder)


def read_video(path: str | os.PathLike[str]) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """Reads a video: a file (.mp4, .gif, .webp, or any other format of FFmpeg) or a folder of pictures of one size.

    Each stored frame is returned once, in the order of presentation; nothing is resampled. A note is
    logged if the frame rate varies, the video starts late, or an edit list hides frames. The pictures of a folder are
    ordered by the numbers in their names; its other files, such as ground truth, are ignored.

    Returns:
        Frames, uint8 [f, h, w, 3], and the mean number of frames per second; 8 for a folder.

    Raises:
        SMCDError: The file is missing, is not a video, or is damaged or truncated; or the folder contains no pictures
            or pictures of several sizes.
    """
    path = _existing(path)
    if path.is_dir():
        return _read_folder(path), FOLDER_FPS
    frames, info = animations.read_animation(path) if _is_animation(path) else _decoder().decode(path)
    note = timing_note(info)
    if note is not None:
        logger.warning("%s: %s", path, note)
    return frames, info["fps"]


def probe_video(path: str | os.PathLike[str]) -> VideoInfo:
    """Returns size, number of frames and timing of a video file, after decoding all of it.

    Raises:
        SMCDError: The file is missing, is not a video, or is damaged or truncated.
    """
    path = _existing(path)
    if path.is_dir():
        raise SMCDError(f"{path}: a folder, not a video file; pass a file", path=path)
    return animations.read_animation(path)[1] if _is_animation(path) else _decoder().probe(path)


def _decoder() -> ModuleType:
    """Returns the module that needs PyAV, which folders of pictures do not."""
    from smcd_jax.media import decoder

    return decoder


def _is_animation(path: Path) -> bool:
    return path.suffix.lower() in _ANIMATIONS


def _padded_to_even(frame: np.ndarray) -> np.ndarray:
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _fitting_webp(frames: Iterable[np.ndarray], path: Path) -> Iterator[np.ndarray]:
    for frame in frames:
        side = max(frame.shape)
        if side > _WEBP_MAX_SIDE:
            raise SMCDError(
                f"{path}: a side of a WebP picture must be at most {_WEBP_MAX_SIDE} pixels, got {side}",
                argument="frames",
                path=path,
                value=side,
            )
        yield frame


def _checked_frames(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the frames, each uint8 [h, w, 3] and of the size of the first; at least one."""
    shape = None
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
            raise SMCDError(
                f"frame {index} must be uint8 [height, width, 3], got {frame.dtype} of shape {frame.shape}; "
                "to_uint8 converts values in -1..1",
                argument="frames",
                value=frame.shape,
            )
        shape = shape or frame.shape
        if frame.shape != shape:
            raise SMCDError(
                f"frame {index} must have the shape of frame 0, {shape}, got {frame.shape}",
                argument="frames",
                value=frame.shape,
            )
        yield frame
    if shape is None:
        raise SMCDError("a video must have at least one frame, got 0", argument="frames", value=0)


def _checked_fps(fps: float | int, *, most: int) -> Fraction:
    rate = Fraction(0)
    if 0 < fps <= most:  # false for NaN
        rate = Fraction(fps).limit_denominator(1001)  # 29.97... becomes 30000/1001 again
    if rate == 0:
        hint = "; lower it or write .mp4 or .webp" if most < fps <= MAX_FPS else ""
        raise SMCDError(f"fps must be at least 1/1000 and at most {most}, got {fps}{hint}", argument="fps", value=fps)
    return rate


def _names_a_folder(path: str | os.PathLike[str]) -> bool:
    text = os.fspath(path)
    return text.endswith(("/", os.sep)) or (Path(text).suffix == "" and Path(text).name.endswith("frames"))


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    try:
        path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    return path


def _read_folder(folder: Path) -> UInt8[np.ndarray, "f h w 3"]:
    files = [entry for entry in folder.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()]
    files = sorted((file for file in files if not file.name.startswith(".")), key=_by_numbers)
    if not files:
        raise SMCDError(f"{folder}: no pictures; use a folder of frames such as 0000.png, 0001.png", path=folder)
    pictures = [read_picture(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = "{1} x {0}".format(*picture.shape[:2]), "{1} x {0}".format(*pictures[0].shape[:2])
            raise SMCDError(
                f"{file}: {sizes[0]} pixels, but the first frame is {sizes[1]}; resize the pictures to one size",
                path=file,
                value=picture.shape,
            )
    return np.stack(pictures)


def _by_numbers(path: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", path.name)], path.name
