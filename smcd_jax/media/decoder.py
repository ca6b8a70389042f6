"""Decoding videos with PyAV, the Python binding of FFmpeg's libraries: frames as stored, never resampled."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.filter
import numpy as np
from jaxtyping import UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.media.pyav_errors import pyav_errors_as_ours
from smcd_jax.media.video_info import VideoInfo, check_decoded_size, frame_timing


def decode(path: Path) -> tuple[UInt8[np.ndarray, "f h w 3"], VideoInfo]:
    """Decodes the first video stream of a file: each stored frame once, in the order of presentation.

    Timestamps and edit lists neither repeat nor drop frames. Rotation and mirroring stored with the video are applied.

    Raises:
        SMCDError: The file is not a video, is damaged or truncated, or is too long for memory.
    """
    pictures: list[np.ndarray] = []
    graphs: dict[tuple, av.filter.Graph] = {}
    size = 0

    def keep(frame: av.VideoFrame) -> None:
        nonlocal size
        size += frame.width * frame.height * 3
        check_decoded_size(size, path)
        picture = _oriented(_to_rgb(frame, graphs), _display_matrix(frame))
        if pictures and picture.shape != pictures[0].shape:
            raise SMCDError(
                f"{path}: frame {len(pictures)} is {_size(picture)} pixels, frame 0 is {_size(pictures[0])}; "
                "convert the video to one size",
                path=path,
            )
        pictures.append(picture)

    info = _decoded(path, keep)
    return np.stack(pictures), info


def first_frame(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the first stored frame of a video in the order of presentation, rotated as the video states.

    Raises:
        SMCDError: The file is not a video, or is damaged before its first frame.
    """
    with _reading(path), _opened(path, ignore_editlist="1") as (container, stream):
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise _damaged(path, "frame 0 cannot be decoded")
            return np.ascontiguousarray(_oriented(_to_rgb(frame, {}), _display_matrix(frame)))
    raise SMCDError(f"{path}: no frames in the video stream; use another video", path=path)


def probe(path: Path) -> VideoInfo:
    """Inspects the first video stream of a file; decodes all of it, so damage anywhere is found.

    Raises:
        SMCDError: The file is not a video, or is damaged or truncated.
    """
    return _decoded(path, lambda frame: None)


def _decoded(path: Path, keep: Callable[[av.VideoFrame], None]) -> VideoInfo:
    """Passes each decoded frame to ``keep``, then returns the properties of the video."""
    start, hidden = _edit_list(path)
    times: list[int | None] = []
    last_duration, matrix = 0, None
    # The option belongs to the MOV and MP4 reader; other readers ignore it.
    with _reading(path), _opened(path, ignore_editlist="1") as (container, stream):
        stream.thread_type = "AUTO"
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _damaged(path, "truncated packet")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise _damaged(path, f"frame {len(times)} cannot be decoded")
                times.append(frame.pts)
                last_duration, matrix = frame.duration, _display_matrix(frame)
                keep(frame)
        if not times:
            raise SMCDError(f"{path}: no frames in the video stream; use another video", path=path)
        # Only MOV and MP4 state an exact number; a missing frame means that the decoder dropped one silently.
        if "mp4" in container.format.name and stream.frames > len(times):
            raise _damaged(path, f"{len(times)} of {stream.frames} frames can be decoded")
        context = stream.codec_context
        timing = frame_timing(_display_times(times, last_duration, stream), stream.time_base)
        width, height = context.width, context.height
        turned = matrix is not None and abs(matrix[0]) < abs(matrix[1])
        return VideoInfo(
            codec=context.codec.canonical_name,
            pix_fmt=context.pix_fmt,
            width=height if turned else width,
            height=width if turned else height,
            frames=len(times),
            **timing._asdict(),
            start=start,
            hidden_frames=hidden,
        )


def _edit_list(path: Path) -> tuple[float, int]:
    """Returns how many seconds after the sound the first frame starts, and how many frames an edit list hides."""
    with _reading(path), _opened(path) as (container, stream):
        start = 0.0
        if stream.start_time is not None and container.start_time is not None:
            start = float(stream.start_time * stream.time_base) - container.start_time / av.time_base
        hidden = 0
        if "mp4" in container.format.name:
            hidden = sum(packet.is_discard for packet in container.demux(stream))
    return max(0.0, start), hidden


@contextlib.contextmanager
def _opened(path: Path, **options: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    # With "file:", a name with a colon is not read as a URL; with the whitelist, a playlist cannot open network
    # addresses.
    options = {"protocol_whitelist": "file", **options}
    # Broken metadata must not stop a video.
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise SMCDError(f"{path}: no video stream; use another video", path=path)
        if streams[0].codec_context is None:
            raise SMCDError(f"{path}: FFmpeg cannot decode this codec; convert the video to H.264", path=path)
        yield container, streams[0]


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & (av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails))


def _reading(path: Path) -> contextlib.AbstractContextManager[None]:
    return pyav_errors_as_ours(lambda reason: str(_damaged(path, reason)), path)


def _damaged(path: Path, reason: str) -> SMCDError:
    return SMCDError(
        f"{path}: not a video, or damaged or truncated ({reason}); copy or convert the file again", path=path
    )


def _display_times(times: list[int | None], last: int, stream: av.VideoStream) -> list[int]:
    """Returns how long each frame is displayed, in units of the stream's time base."""
    ordered = None not in times and all(start < end for start, end in itertools.pairwise(times))
    if not ordered or len(times) == 1:  # raw streams have no timestamps
        rate = stream.guessed_rate or stream.average_rate or 25
        return [(ordered and last) or max(1, round(1 / (rate * stream.time_base)))] * len(times)
    ticks = [end - start for start, end in itertools.pairwise(times)]
    return [*ticks, last or round(sum(ticks) / len(ticks))]


def _to_rgb(frame: av.VideoFrame, graphs: dict[tuple, av.filter.Graph]) -> np.ndarray:
    """Converts a frame by its own colour matrix and range; ``graphs`` holds one converter per kind of frame."""
    kind = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
    if kind not in graphs:
        graph = av.filter.Graph()
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(frame.time_base),
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        )
        graph.link_nodes(source, graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        graphs[kind] = graph
    graphs[kind].push(frame)
    return graphs[kind].vpull().to_ndarray()


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Returns the first two rows of the frame's display matrix (FFmpeg's libavutil/display.h), if it has one."""
    data = frame.side_data.get("DISPLAYMATRIX")
    return None if data is None else struct.unpack("=6i", bytes(data)[:24])


def _oriented(picture: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """Returns the picture as displayed: rotated by 90-degree steps and mirrored according to the display matrix."""
    if matrix is None:
        return picture
    a, b, _, c, d, _ = matrix  # x' = a x + c y, y' = b x + d y
    if abs(a) < abs(b):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"
