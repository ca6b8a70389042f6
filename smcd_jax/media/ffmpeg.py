"""Owns the ffmpeg program: encoding, decoding and inspecting video through pipes, with its chatter kept and read."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from smcd_jax.errors import SMCDError

MAX_VIDEO_BYTES = 8 * 2**30  # of decoded frames; more is surely the wrong file and would fill the memory

# bt709 is what players assume of H.264; without the tags some assume bt601 and show other colours.
_TO_YUV420P = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p,"
    "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)
# crf 14 is near transparent and still small for clips of seconds; faststart lets a browser play before all has arrived.
MP4_OPTIONS = ("-vf", _TO_YUV420P, "-c:v", "libx264", "-crf", "14", "-movflags", "+faststart", "-f", "mp4")

# One palette for the whole clip, and dithering redone only where the picture changes: still parts do not shimmer.
_TO_PALETTE = (
    "split[frames][sample];[sample]palettegen=stats_mode=full[palette];"
    "[frames][palette]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
)
GIF_OPTIONS = ("-filter_complex", _TO_PALETTE, "-loop", "0", "-f", "gif")


def encode(
    frames: Iterable[np.ndarray], path: Path, options: Iterable[str], *, fps: Fraction, name: str | Path
) -> None:
    """Encode frames into one file.

    Args:
        frames: uint8 [h, w, 3] each, all of one size; at least one. Read one at a time.
        path: the file to write, which exists and is overwritten.
        options: ffmpeg's options for filter, codec and container.
        fps: frames per second.
        name: what messages call the file.

    Raises:
        SMCDError: ffmpeg is missing or failed; the line says why.
    """
    frames = iter(frames)
    first = next(frames)
    height, width, _ = first.shape
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "pipe:0"]
    with tempfile.TemporaryFile() as log:
        with _running([*source, *options, "-y", f"file:{path}"], log, stdin=subprocess.PIPE) as process:
            # If ffmpeg dies the pipe breaks; its exit status and its log then say why.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(np.ascontiguousarray(first).data)
                for frame in frames:
                    process.stdin.write(np.ascontiguousarray(frame).data)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if process.returncode != 0:
            complaint = _complaint(_text(log)).replace(str(path), str(name))
            raise SMCDError(f"cannot write {name}: {complaint}; check the free space, the size and the frame rate")


def decode(path: Path) -> tuple[UInt8[np.ndarray, "f h w 3"], float]:
    """Decode the first video stream of a file at a constant rate: frames (held ones repeated), and frames per second.

    The rate is as ffmpeg prints it, to two decimals. Rotation flags are applied.

    Raises:
        SMCDError: not a video, damaged or cut short anywhere, too long for memory, or ffmpeg is missing.
    """
    with tempfile.TemporaryFile() as log:
        # PPM frames carry their own size. -xerror: stop at the first damaged packet instead of concealing it.
        with _running(
            [*_input(path), "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"],
            log,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            frames = list(_ppm_frames(process.stdout, path))
        header = _checked_header(process, log, path)
    if not frames:
        raise SMCDError(f"{path} holds no frames; give another video")
    return np.stack(frames), _streams(header, path)[-1]["fps"]


def probe(path: Path) -> dict:
    """Inspect the first video stream of a file, decoding it all to count its frames.

    Returns:
        codec, pix_fmt (as ffmpeg names them), width, height, frames, fps (to two decimals), duration in seconds.

    Raises:
        SMCDError: not a video, or damaged; or ffmpeg is missing.
    """
    with tempfile.TemporaryFile() as log:
        with _running(
            [*_input(path), "-progress", "pipe:1", "-f", "null", "-"],
            log,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        ) as process:
            progress = process.stdout.read().decode("utf-8", "replace")
        header = _checked_header(process, log, path)
    stream = _streams(header, path)[0]
    counts = re.findall(r"^frame=\s*(\d+)", progress, re.MULTILINE)
    stream["frames"] = int(counts[-1]) if counts else 0
    duration = re.search(r"Duration: (\d+):(\d\d):(\d\d\.\d+)", header)
    if duration:
        hours, minutes, seconds = duration.groups()
        stream["duration"] = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    else:
        stream["duration"] = stream["frames"] / stream["fps"]
    return stream


def find_ffmpeg() -> str:
    """The ffmpeg program: that of the environment variable IMAGEIO_FFMPEG_EXE, imageio-ffmpeg's own, or the system's.

    Raises:
        SMCDError: there is none.
    """
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise SMCDError(
            "no ffmpeg program found; install imageio-ffmpeg for your platform or point IMAGEIO_FFMPEG_EXE at an ffmpeg"
        ) from error


@contextlib.contextmanager
def _running(arguments: list[str], log: IO[bytes], **pipes: int) -> Iterator[subprocess.Popen]:
    """Run ffmpeg for the length of the block, then wait for it; kill it if the block raises.

    imageio-ffmpeg's own generators are not used: they ignore the exit status, leave stderr on the terminal when
    writing, and fork with a hook, of which JAX warns in a process with threads.
    """
    command = [find_ffmpeg(), "-hide_banner", "-nostats", "-v", "level+info", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | pipes
    try:
        process = subprocess.Popen(command, stderr=log, **pipes)
    except OSError as error:
        raise SMCDError(f"cannot start ffmpeg, {command[0]}: {error.strerror}; check IMAGEIO_FFMPEG_EXE") from error
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            if process.stdin:
                process.stdin.close()
        if process.stdout:
            process.stdout.close()
        process.wait()


def _input(path: Path) -> list[str]:
    # "file:" and the whitelist: a name with a colon is no address, and a playlist in disguise opens nothing else.
    # 0:V:0 is the first stream that is no cover picture.
    return ["-xerror", "-protocol_whitelist", "file", "-i", f"file:{path}", "-map", "0:V:0"]


def _ppm_frames(stream: IO[bytes], path: Path) -> Iterator[np.ndarray]:
    total = 0
    while stream.readline() == b"P6\n":
        width, height = (int(number) for number in stream.readline().split())
        stream.readline()  # the largest value, 255
        total += width * height * 3
        if total > MAX_VIDEO_BYTES:
            raise SMCDError(f"{path} holds more than {MAX_VIDEO_BYTES >> 30} GiB of frames; cut or shrink it first")
        data = stream.read(width * height * 3)
        if len(data) < width * height * 3:
            return  # ffmpeg died, and its exit status says so
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _checked_header(process: subprocess.Popen, log: IO[bytes], path: Path) -> str:
    text = _text(log)
    if process.returncode != 0:
        raise SMCDError(
            f"{path} is not a video, or is damaged or cut short ({_complaint(text)}); fetch or make it anew"
        )
    return text


def _streams(header: str, path: Path) -> list[dict]:
    """The video streams ffmpeg printed: those of the file, then the one it made of them."""
    streams = []
    for line in re.findall(r"Stream #.*Video: (.*)", header):
        codec, rest = line.split(maxsplit=1)
        found = re.search(r"(\w+)(?:\([^)]*\))?, (\d+)x(\d+)", rest)
        rate = re.search(r"([\d.]+)(k?) fps", rest)
        if found and rate:
            pix_fmt, width, height = found.groups()
            fps = float(rate[1]) * (1000 if rate[2] else 1)
            shape = {"width": int(width), "height": int(height)}
            streams.append({"codec": codec.rstrip(","), "pix_fmt": pix_fmt, **shape, "fps": fps})
    if not streams:
        raise SMCDError(f"{path} has no video stream with a size and a frame rate; give another video")
    return streams


def _text(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode("utf-8", "replace")


def _complaint(text: str) -> str:
    """The first error ffmpeg logged, without its [module @ address] [level] marks: the later ones follow from it."""
    errors = [line for line in text.splitlines() if "[error]" in line or "[fatal]" in line]
    return re.sub(r"^(\[[^\]]*\]\s*)+", "", errors[0]).rstrip(".") if errors else "ffmpeg stopped without a word"
