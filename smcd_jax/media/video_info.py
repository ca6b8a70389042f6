"""Size and timing of a video, and the note for users whose video does not play at a constant rate from time 0."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypedDict

from smcd_jax.errors import SMCDError

MAX_VIDEO_BYTES = (
    8 * 2**30
)  # limit on the decoded size; a larger video is probably the wrong file and would fill memory


class VideoInfo(TypedDict):
    """Properties of a video.

    Attributes:
        codec: Name of the codec, such as "h264", "gif" or "webp".
        pix_fmt: FFmpeg's name of the pixel format, such as "yuv420p".
        width: Width in pixels, as displayed.
        height: Height in pixels, as displayed.
        frames: Number of stored frames.
        fps: Mean number of frames per second.
        duration: Time from the start of the first frame to the end of the last one, in seconds.
        variable_rate: Whether some frames are displayed clearly longer than others.
        start: Delay of the first frame after the start of the file's sound, in seconds.
        hidden_frames: Number of stored frames that an edit list hides from players. Reading includes them.
    """

    codec: str
    pix_fmt: str
    width: int
    height: int
    frames: int
    fps: float
    duration: float
    variable_rate: bool
    start: float
    hidden_frames: int


class Timing(NamedTuple):
    """The part of `VideoInfo` that follows from how long each frame is displayed."""

    fps: float
    duration: float
    variable_rate: bool


def frame_timing(ticks: Sequence[int], tick: Fraction) -> Timing:
    """Returns the timing of frames.

    Args:
        ticks: Display time of each frame in units of ``tick``. At a constant rate they differ by at most one.
        tick: Unit in which the file counts time, in seconds.
    """
    duration = sum(ticks)
    # Cameras jitter by a few percent at a nominally constant rate.
    variable = max(ticks) - min(ticks) > max(1, 0.1 * duration / len(ticks))
    return Timing(float(len(ticks) / (duration * tick)), float(duration * tick), variable)


def timing_note(info: VideoInfo) -> str | None:
    """Returns a note for users if times and frame numbers of the video do not correspond; None for most videos."""
    reasons = []
    if info["variable_rate"]:
        reasons.append("the frame rate varies")
    if info["start"] > 1 / info["fps"]:
        reasons.append(f"the first frame is displayed {info['start']:.2f} s after the start")
    if info["hidden_frames"]:
        reasons.append(f"an edit list hides {info['hidden_frames']} frames")
    if not reasons:
        return None
    return f"{' and '.join(reasons)}; each of the {info['frames']} stored frames is read once"


def check_decoded_size(size: int, path: Path) -> None:
    """Raises an `SMCDError` if a decoded video of ``size`` bytes is too large for memory."""
    if size > MAX_VIDEO_BYTES:
        raise SMCDError(f"{path}: more than {MAX_VIDEO_BYTES >> 30} GiB of frames; cut or shrink the video", path=path)
