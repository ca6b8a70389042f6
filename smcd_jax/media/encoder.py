"""Encoding videos with PyAV, the Python binding of FFmpeg's libraries."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.media.pyav_errors import pyav_errors_as_ours

_BT709, _LIMITED_RANGE = 1, 1  # AVCOL_SPC_BT709, AVCOL_PRI_BT709, AVCOL_TRC_BT709; AVCOL_RANGE_MPEG


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Codec, container and their options.

    Attributes:
        codec: Name of the encoder.
        container: Name of the container format.
        pix_fmt: Pixel format that the encoder receives.
        filters: Names and arguments of the filters from RGB frames to ``pix_fmt``; ignored for a palette.
        codec_options: Options of the encoder.
        container_options: Options of the container format.
        bt709: Whether the stream is tagged as BT.709 of limited range.
    """

    codec: str
    container: str
    pix_fmt: str
    filters: tuple[tuple[str, str], ...] = ()
    codec_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    container_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    bt709: bool = False


# Side in pixels. For smaller frames, x264's macroblock-tree rate control depends on memory that it does not initialise,
# so the same frames give different files (3 different ones in 60 runs at 32 x 32).
_SMALL = 64

# Players assume BT.709 for H.264; without the tags some assume BT.601 and show other colours. CRF 14 is close to
# transparent and still small for clips of seconds; faststart lets a browser play before the whole file has arrived.
MP4 = Encoding(
    codec="libx264",
    container="mp4",
    pix_fmt="yuv420p",
    filters=(
        ("scale", "out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int"),
        ("format", "yuv420p"),
        ("setparams", "range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"),
    ),
    codec_options={"crf": "14"},
    container_options={"movflags": "+faststart"},
    bt709=True,
)
# Pillow's and libwebp's own animation encoders merge equal frames; this one stores each frame.
WEBP = Encoding(
    codec="libwebp",
    container="webp",
    pix_fmt="bgra",
    filters=(("format", "bgra"),),
    codec_options={"quality": "90", "compression_level": "4"},
    container_options={"loop": "0"},
)


def gif_encoding(count: int, fps: Fraction) -> Encoding:
    """Returns the encoding of a GIF that repeats forever; the last of its ``count`` frames ends at ``count`` / fps."""
    # FFmpeg rounds the start of each frame to 1/100 s and cannot know how long the last one is displayed.
    last, end = (int(100 * frames / fps + Fraction(1, 2)) for frames in (count - 1, count))
    options = {"loop": "0", "final_delay": str(end - last)}
    return Encoding(codec="gif", container="gif", pix_fmt="pal8", container_options=options)


def check_encoder(encoding: Encoding | None = None) -> None:
    """Raises an `SMCDError` if the installed FFmpeg libraries lack the encoder, by default that of .mp4."""
    encoding = encoding or MP4
    if encoding.codec not in av.codecs_available:
        raise SMCDError(
            f"the encoder {encoding.codec} is missing from the FFmpeg libraries of PyAV {av.__version__}; "
            "install PyAV from its wheel: pip install --force-reinstall --only-binary av av",
            value=encoding.codec,
        )


def encode(frames: Iterable[np.ndarray], path: Path, encoding: Encoding, *, fps: Fraction, name: Path) -> None:
    """Encodes frames into one file.

    Args:
        frames: Frames, uint8 [h, w, 3] each, all of one size; at least one. For all formats but GIF they are read
            one at a time.
        path: File to write. An existing one is overwritten.
        encoding: Codec and container.
        fps: Frames per second.
        name: Path of the file in messages.

    Raises:
        SMCDError: The encoder is missing or fails, or the file cannot be written.
    """
    check_encoder(encoding)
    frames = iter(frames)
    first = next(frames)
    options = dict(encoding.container_options)
    with (
        pyav_errors_as_ours(
            lambda reason: f"cannot write {name}: {reason}; check the free space and the frame size", name
        ),
        av.open(f"file:{path}", "w", format=encoding.container, options=options) as container,
    ):
        codec_options = dict(encoding.codec_options)
        if encoding.codec == "libx264" and min(first.shape[:2]) < _SMALL:
            codec_options["x264-params"] = "mbtree=0"
        stream = container.add_stream(encoding.codec, rate=fps, options=codec_options)
        stream.height, stream.width, _ = first.shape
        stream.pix_fmt = encoding.pix_fmt
        context = stream.codec_context
        context.time_base = 1 / fps
        context.thread_type = "AUTO"  # PyAV's default splits frames into slices, which reduces quality
        if encoding.bt709:
            context.color_range = _LIMITED_RANGE
            context.colorspace = context.color_primaries = context.color_trc = _BT709
        graph = _palette_graph(first, fps) if encoding.pix_fmt == "pal8" else _graph(first, fps, encoding.filters)
        for index, frame in enumerate(itertools.chain([first], frames)):
            graph.push(_video_frame(frame, index, fps))
            _encode_available(graph, stream, container)
        graph.push(None)
        _encode_available(graph, stream, container)
        container.mux(stream.encode(None))


def _graph(first: np.ndarray, fps: Fraction, filters: Iterable[tuple[str, str]]) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=first.shape[1], height=first.shape[0], format="rgb24", time_base=1 / fps)
    graph.link_nodes(source, *(graph.add(*item) for item in filters), graph.add("buffersink")).configure()
    return graph


def _palette_graph(first: np.ndarray, fps: Fraction) -> av.filter.Graph:
    """Returns filters with one palette for the clip; dithering changes only where the picture does."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=first.shape[1], height=first.shape[0], format="rgb24", time_base=1 / fps)
    split, palette = graph.add("split"), graph.add("palettegen", "stats_mode=full")
    use = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _video_frame(frame: np.ndarray, index: int, fps: Fraction) -> av.VideoFrame:
    video_frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    video_frame.pts, video_frame.time_base = index, 1 / fps
    return video_frame


def _encode_available(graph: av.filter.Graph, stream: av.VideoStream, container: av.container.OutputContainer) -> None:
    """Encodes the frames that have passed the filters."""
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        container.mux(stream.encode(frame))
