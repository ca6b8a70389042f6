"""Owns video files: writing and reading frames as .mp4, .gif, .webp or a folder of pictures, chosen by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.files.atomic import write_atomically, write_folder_atomically
from smcd_jax.media import animations, ffmpeg
from smcd_jax.media.pictures import PICTURE_SUFFIXES, read_picture

MAX_FPS = 1000  # WebP counts milliseconds
FOLDER_FPS = 8.0  # a folder of pictures has no rate of its own: the rate at which the reference plays its results

_ANIMATIONS = (".gif", ".webp")
_FRAME_NAME = re.compile(r"\d{4,}\.png")


def write_video(frames: Iterable[np.ndarray], path: str | os.PathLike[str], *, fps: float | int) -> Path:
    """Write frames as a video file, whole or not at all, in the format that the name asks for.

    - ``.mp4``: H.264, yuv420p, which browsers play. It needs even sizes: an odd height or width is padded by repeating
      the last row or column.
    - ``.gif``: true speed. GIF counts 1/100 s, so frames last a unit more or less, and their sum is the right one.
    - ``.webp``: animated, lossy at quality 90.
    - a name that ends in ``/`` or in ``frames`` without a suffix: a folder of PNG files, see ``write_frames``.

    Args:
        frames: uint8 [f, h, w, 3], or an iterable of uint8 [h, w, 3] of one size; of an .mp4 one at a time is held.
        path: the file or folder; the folder that holds it must exist. A file of that name is replaced.
        fps: frames per second, above 0 and at most 1000, for GIF at most 50.

    Returns:
        The path written.

    Raises:
        SMCDError: unknown suffix, frames of another kind, bad ``fps``, or the file cannot be written. What ``frames``
            itself raises passes. In every case nothing is left behind and an older file stays as it was.
    """
    rate = _checked_fps(fps)
    if _names_a_folder(path):
        return write_frames(frames, path)
    path = Path(path)
    writers = {".mp4": _write_mp4, ".gif": animations.write_gif, ".webp": animations.write_webp}
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise SMCDError(f"cannot write {path}: unknown suffix; use .mp4, .gif, .webp, or a folder name ending in /")
    with write_atomically(path) as temporary:
        writer(_checked(frames), temporary, fps=rate, name=path)
    return path


def write_frames(frames: Iterable[np.ndarray], folder: str | os.PathLike[str]) -> Path:
    """Write frames, as ``write_video`` takes them, as ``folder``/0000.png, 0001.png and so on, all or none.

    A folder that holds nothing but such frames is replaced; any other is refused.

    Returns:
        The folder written.
    """

    def is_frame(entry: Path) -> bool:
        return _FRAME_NAME.fullmatch(entry.name) is not None and entry.is_file()

    with write_folder_atomically(folder, may_replace=is_frame) as temporary:
        for index, frame in enumerate(_checked(frames)):
            Image.fromarray(frame).save(temporary / f"{index:04d}.png")
    return Path(folder)


def read_video(path: str | os.PathLike[str]) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """Read a video: a file (.mp4, .gif, .webp, or whatever else ffmpeg reads) or a folder of pictures of one size.

    Variable frame rates become constant, by repeating frames. The pictures of a folder are taken in the order of the
    numbers in their names; other files in it, such as ground truth, are passed over.

    Returns:
        Frames, uint8 [f, h, w, 3], and frames per second: of a file as it says, to about two decimals; of a folder 8.

    Raises:
        SMCDError: no such file, not a video, damaged or cut short, or a folder without pictures or of unequal ones.
    """
    path = _existing(path)
    if path.is_dir():
        return _read_folder(path), FOLDER_FPS
    if path.suffix.lower() in _ANIMATIONS:
        return animations.read_animation(path)
    return ffmpeg.decode(path)


def probe_video(path: str | os.PathLike[str]) -> dict:
    """Inspect a video file, reading all of it.

    Returns:
        A dict: ``codec`` and ``pix_fmt`` (ffmpeg's names), ``width``, ``height``, ``frames`` (as stored), ``fps``
        (to two decimals), ``duration`` in seconds.

    Raises:
        SMCDError: no such file, not a video, or damaged.
    """
    path = _existing(path)
    if path.is_dir():
        raise SMCDError(f"{path} is a folder, not a video file; give a file")
    if path.suffix.lower() in _ANIMATIONS:
        return animations.probe_animation(path)
    return ffmpeg.probe(path)


def _write_mp4(frames: Iterable[np.ndarray], path: Path, *, fps: Fraction, name: Path) -> None:
    even = (np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge") for frame in frames)
    ffmpeg.encode(even, path, ffmpeg.MP4_OPTIONS, fps=fps, name=name)


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pass frames on, each uint8 [h, w, 3] and of the size of the first, at least one."""
    shape = None
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
            raise SMCDError(
                f"frame {index} is {frame.dtype} of shape {frame.shape}; a video takes uint8 [height, width, 3] "
                "(to_uint8 makes it of -1..1)"
            )
        shape = shape or frame.shape
        if frame.shape != shape:
            raise SMCDError(f"frame {index} has shape {frame.shape}, frame 0 has {shape}; all must be of one size")
        yield frame
    if shape is None:
        raise SMCDError("a video needs at least one frame, and there are none")


def _checked_fps(fps: float | int) -> Fraction:
    if not 0 < fps <= MAX_FPS:  # also false of NaN
        raise SMCDError(f"cannot play {fps} frames a second; give a number above 0 and at most {MAX_FPS}")
    rate = Fraction(fps).limit_denominator(1001)  # 29.97... becomes 30000/1001 again
    if rate == 0:
        raise SMCDError(f"cannot play {fps} frames a second; give at least 1/1000")
    return rate


def _names_a_folder(path: str | os.PathLike[str]) -> bool:
    text = os.fspath(path)
    return text.endswith(("/", os.sep)) or (Path(text).suffix == "" and Path(text).name.endswith("frames"))


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    try:
        path.stat()
    except OSError as error:
        raise SMCDError(f"cannot read {path}: {(error.strerror or str(error)).lower()}; check the path") from error
    return path


def _read_folder(folder: Path) -> UInt8[np.ndarray, "f h w 3"]:
    names = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in PICTURE_SUFFIXES and entry.is_file()]
    names = [name for name in names if not name.startswith(".")]
    if not names:
        raise SMCDError(f"the folder {folder} holds no pictures; give a folder of frames such as 0000.png, 0001.png")
    pictures = [read_picture(folder / name) for name in sorted(names, key=_by_numbers)]
    for name, picture in zip(sorted(names, key=_by_numbers), pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = "{1} x {0}".format(*picture.shape[:2]), "{1} x {0}".format(*pictures[0].shape[:2])
            raise SMCDError(f"{folder / name} is {sizes[0]} pixels, the first frame is {sizes[1]}; make them one size")
    return np.stack(pictures)


def _by_numbers(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"\d+", name)], name
