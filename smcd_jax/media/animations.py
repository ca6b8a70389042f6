"""Reading GIF and WebP animations through Pillow: the stored pictures and how long each is displayed."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.media.pictures import decoding, image_to_array, open_image, unreadable
from smcd_jax.media.video_info import VideoInfo, check_decoded_size, frame_timing

_UNTIMED = 100  # milliseconds; what browsers use for a frame without a duration


def read_animation(path: Path) -> tuple[UInt8[np.ndarray, "f h w 3"], VideoInfo]:
    """Reads a GIF or WebP: each stored picture once, however long it is displayed.

    The frame rate follows from the stored times, which the format rounds: a GIF of eight frames at 7 frames per second
    lasts 1.14 s, which is 7.02 frames per second.

    Raises:
        SMCDError: The file is missing, is not an animation, is damaged or truncated, or is too long for memory.
    """
    try:
        with path.open("rb") as file:
            with decoding(path), open_image(file) as image:
                codec = image.format.lower()
                pictures, milliseconds = _frames(image, path)
            if codec == "gif":
                _check_end_of_gif(file, path)
    except OSError as error:
        raise unreadable(path, error) from error
    height, width, _ = pictures[0].shape
    unit = 10 if codec == "gif" else 1  # milliseconds
    info = VideoInfo(
        codec=codec,
        pix_fmt="pal8" if codec == "gif" else "rgb24",
        width=width,
        height=height,
        frames=len(pictures),
        **frame_timing([round(time / unit) for time in milliseconds], Fraction(unit, 1000))._asdict(),
        start=0.0,
        hidden_frames=0,
    )
    return np.stack(pictures), info


def _frames(image: Image.Image, path: Path) -> tuple[list[np.ndarray], list[int]]:
    """Returns the stored pictures, uint8 [h, w, 3], and the display time of each in milliseconds."""
    pictures, milliseconds = [], []
    count = getattr(image, "n_frames", 1)
    check_decoded_size(count * image.width * image.height * 3, path)
    for index in range(count):
        image.seek(index)
        image.load()  # for WebP, Pillow sets the duration here
        pictures.append(image_to_array(image, path))
        milliseconds.append(round(image.info.get("duration", 0)) or _UNTIMED)
        if pictures[-1].shape != pictures[0].shape:
            raise SMCDError(
                f"{path}: damaged (frame {index} and frame 0 differ in size); copy or convert the file again", path=path
            )
    return pictures, milliseconds


def _check_end_of_gif(file: io.BufferedReader, path: Path) -> None:
    # Pillow reads a file that stops between or inside later frames as a shorter animation.
    file.seek(0)
    if not file.read().rstrip(b"\0").endswith(b";"):
        raise SMCDError(f"{path}: truncated (no end marker); copy or convert the file again", path=path)
