"""Owns the use of OpenCV: imported when first needed, and kept to one thread and one seed so that it repeats itself."""

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
    """The module `cv2`, checked to have a name that only the contributed build has.

    Args:
        purpose: what cannot be done without it, for the message: "the tracker csrt".
        needs: attribute to check, such as "legacy.TrackerMedianFlow_create".

    Raises:
        SMCDError: OpenCV is not installed, or is another build.
    """
    try:
        import cv2
    except ImportError as error:
        raise SMCDError(f"{purpose} needs OpenCV, which cannot be imported ({error}): {_INSTALL}") from error
    try:
        operator.attrgetter(needs)(cv2)
    except AttributeError as error:
        raise SMCDError(
            f"{purpose} needs cv2.{needs}, which this build of OpenCV {cv2.__version__} lacks: uninstall it, then "
            f"{_INSTALL}, which brings opencv-contrib-python-headless"
        ) from error
    return cv2


@contextlib.contextmanager
def repeatable(cv2: ModuleType) -> Iterator[None]:
    """Within it OpenCV runs on one thread, from one seed: the same input gives the same output. It warns of nothing."""
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
    """Refuses what is no video.

    Raises:
        SMCDError: frames are not uint8 `[f, h, w, 3]`, or there are none.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise SMCDError(
            f"frames are {frames.dtype} of shape {list(frames.shape)}; give uint8 [frames, height, width, 3]"
        )
