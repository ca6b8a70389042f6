"""Access to OpenCV: imported when first needed, and made deterministic by one thread and a fixed seed."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from smcd_jax.errors import SMCDError

_INSTALL = "pip install 'smcd_jax[eval]'"


def load_cv2(purpose: str, needs: str) -> ModuleType:
    """Imports `cv2` and checks that it has an attribute that only the contrib build has.

    Args:
        purpose: Feature that needs OpenCV, for messages, such as "the tracker csrt".
        needs: Attribute to check, such as "legacy.TrackerMedianFlow_create".

    Raises:
        SMCDError: OpenCV is not installed, or is another build.
    """
    try:
        import cv2
    except ImportError as error:
        raise SMCDError(
            f"{purpose} needs OpenCV, which cannot be imported ({error}); {_INSTALL}", argument="cv2"
        ) from error
    try:
        operator.attrgetter(needs)(cv2)
    except AttributeError as error:
        raise SMCDError(
            f"{purpose} needs cv2.{needs}, which this build of OpenCV {cv2.__version__} lacks; uninstall it, then "
            f"{_INSTALL}, which installs opencv-contrib-python-headless",
            argument="cv2",
            value=needs,
        ) from error
    return cv2


@contextlib.contextmanager
def repeatable(cv2: ModuleType) -> Iterator[None]:
    """Returns a context in which OpenCV is deterministic (one thread, a fixed seed) and prints no warnings."""
    threads, level = cv2.getNumThreads(), cv2.utils.logging.getLogLevel()
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        cv2.utils.logging.setLogLevel(level)


def check_frames(frames: UInt8[np.ndarray, "f h w 3"]) -> None:
    """Checks that frames are a video.

    Raises:
        SMCDError: The frames are not uint8 `[f, h, w, 3]`, or their number is zero.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise SMCDError(
            f"frames must be uint8 of shape [frames, height, width, 3], got {frames.dtype} of shape "
            f"{list(frames.shape)}",
            argument="frames",
            value=frames.shape,
        )
