"""Owns animated pictures, GIF and WebP: true frame times when written, frames at a constant rate when read."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.media import ffmpeg
from smcd_jax.media.pictures import decoding, image_to_array, open_image, unreadable

GIF_MAX_FPS = 50  # a delay of 2/100 s; viewers slow down what asks for less
_UNTIMED_SECONDS = 0.1  # what viewers make of a frame without a duration


def frame_durations(count: int, fps: Fraction, *, per_second: int) -> list[int]:
    """Whole durations of ``count`` frames in units of 1/``per_second`` s, rounded so that their sums never drift.

    The first k durations sum to k * per_second / fps, rounded half up, for every k.
    """
    ends = [int(k * per_second / fps + Fraction(1, 2)) for k in range(count + 1)]
    return [end - start for start, end in itertools.pairwise(ends)]


def write_gif(frames: Iterable[np.ndarray], path: Path, *, fps: Fraction, name: Path) -> None:
    """Write frames, uint8 [h, w, 3], as a GIF that repeats for ever, at true speed, with one palette made for the clip.

    Raises:
        SMCDError: more than 50 frames a second, which GIF cannot show.
    """
    if fps > GIF_MAX_FPS:
        raise SMCDError(
            f"cannot write {name}: a GIF shows at most {GIF_MAX_FPS} frames a second, not {float(fps):g}; "
            "lower the frame rate or write .mp4 or .webp"
        )
    frames = list(frames)
    # ffmpeg rounds the start of each frame as frame_durations does, but must be told how long the last one stays.
    last = frame_durations(len(frames), fps, per_second=100)[-1]
    options = [*ffmpeg.GIF_OPTIONS[:-2], "-final_delay", str(last), *ffmpeg.GIF_OPTIONS[-2:]]
    ffmpeg.encode(frames, path, options, fps=fps, name=name)


def write_webp(frames: Iterable[np.ndarray], path: Path, *, fps: Fraction, name: Path) -> None:
    """Write frames, uint8 [h, w, 3], as a lossy WebP animation (quality 90) that repeats for ever.

    Raises:
        SMCDError: WebP cannot hold the picture size.
    """
    images = [Image.fromarray(frame) for frame in frames]
    if max(images[0].size) > 16383:
        raise SMCDError(f"cannot write {name}: WebP holds at most 16383 pixels a side, not {max(images[0].size)}")
    durations = frame_durations(len(images), fps, per_second=1000)
    images[0].save(
        path, format="WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, quality=90, method=4
    )


def read_animation(path: Path) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """Read a GIF or WebP at a constant rate: frames (held ones repeated), and frames per second.

    The rate is the number of frames over the total time, so it is off by what the format rounds: a GIF of eight frames
    made at 7 frames a second reads as 8 / 1.14 s = 7.02.

    Raises:
        SMCDError: no such file, not an animation, damaged or cut short, or too long for memory.
    """
    pictures, seconds, _ = _read(path)
    # Encoders merge equal frames into one that stays longer; the others tell how long one frame lasts.
    shortest = min(seconds)
    period = float(np.mean([duration for duration in seconds if duration < 1.5 * shortest]))
    counts = [max(1, round(duration / period)) for duration in seconds]
    if sum(counts) * pictures[0].nbytes > ffmpeg.MAX_VIDEO_BYTES:
        raise SMCDError(f"{path} holds more than {ffmpeg.MAX_VIDEO_BYTES >> 30} GiB of frames; cut or shrink it first")
    return np.repeat(np.stack(pictures), counts, axis=0), sum(counts) / sum(seconds)


def probe_animation(path: Path) -> dict:
    """Inspect a GIF or WebP: codec, pix_fmt, width, height, frames (as stored), fps (the mean), duration in seconds."""
    pictures, seconds, codec = _read(path)
    height, width, _ = pictures[0].shape
    return {
        "codec": codec,
        "pix_fmt": "pal8" if codec == "gif" else "rgb24",
        "width": width,
        "height": height,
        "fps": len(pictures) / sum(seconds),
        "frames": len(pictures),
        "duration": sum(seconds),
    }


def _read(path: Path) -> tuple[list[np.ndarray], list[float], str]:
    """The stored frames, how long each stays in seconds, and the format."""
    try:
        with path.open("rb") as file:
            with decoding(str(path)), open_image(file) as image:
                codec = image.format.lower()
                pictures, seconds = _frames_of(image, str(path))
            if codec == "gif":
                _check_end_of_gif(file, path)
    except OSError as error:
        raise unreadable(path, error) from error
    return pictures, seconds, codec


def _frames_of(image: Image.Image, name: str) -> tuple[list[np.ndarray], list[float]]:
    pictures, seconds = [], []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()  # WebP knows a frame's duration only now
        pictures.append(image_to_array(image, name))
        seconds.append(image.info.get("duration", 0) / 1000 or _UNTIMED_SECONDS)
        if pictures[-1].shape != pictures[0].shape:
            raise SMCDError(
                f"{name} is damaged (frame {index} is of another size than the first); fetch or make it anew"
            )
    return pictures, seconds


def _check_end_of_gif(file: io.BufferedReader, path: Path) -> None:
    # Pillow takes a file that stops between or inside later frames for a shorter animation.
    file.seek(0)
    if not file.read().rstrip(b"\0").endswith(b";"):
        raise SMCDError(f"{path} is cut short (it has no end mark); fetch or make it anew")
