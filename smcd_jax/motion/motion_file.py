"""The motion file format: the motion fields of one video as .npz, for any model that renders motion fields."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.motion.motion import Motion

FORMAT, VERSION = "smcd-motion", 1
MAX_BYTES = 256 * 2**20  # limit in bytes for all arrays together; 1000 frames of 128 x 128 take 197 MB
MAX_FRAMES, MAX_SIDE, MAX_DISPLACEMENT = 4096, 1024, 8.0
_MEMBERS = ("format", "version", "loop", "displacement", "confidence")
_AGAIN = "write a new one with --save_motion"


def save_motion(path: str | os.PathLike[str], motion: Motion) -> None:
    """Writes the motion of one video.

    Args:
        path: File to write, ending in .npz.
        motion: Motion with b = 1.

    Raises:
        SMCDError: The motion does not hold exactly one video, or the file cannot be written.
    """
    if motion.displacement.shape[0] != 1:
        raise SMCDError(
            f"a motion file holds one video, got {motion.displacement.shape[0]}",
            argument="save_motion",
            value=motion.displacement.shape[0],
        )
    with write_atomically(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            format=np.array(FORMAT),
            version=np.int32(VERSION),
            loop=np.bool_(motion.loop),
            displacement=np.asarray(motion.displacement[0], np.float32),
            confidence=np.asarray(motion.confidence[0], np.float32),
        )


def load_motion(path: str | os.PathLike[str]) -> Motion:
    """Reads a motion file.

    Returns:
        Motion with b = 1.

    Raises:
        SMCDError: The file is missing, damaged, too large, or not a motion file.
    """
    path = Path(path)
    if not path.is_file():
        raise _fault(path, "no such file; check the path", None)
    try:
        _check_sizes(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            values = {name: archive[name] for name in _MEMBERS}
    except SMCDError:
        raise
    except Exception as error:  # numpy and zipfile raise many types of exceptions for a damaged file
        raise _fault(path, f"damaged, or not a motion file; {_AGAIN}", None) from error
    if values["format"].shape or str(values["format"]) != FORMAT:
        raise _fault(path, f"not a motion file; {_AGAIN}", None)
    if values["version"].shape or values["version"].dtype.kind != "i" or int(values["version"]) != VERSION:
        raise _fault(path, f"version must be {VERSION}, got {values['version']!s:.20}; {_AGAIN}", None)
    displacement, confidence, loop = (values[name] for name in ("displacement", "confidence", "loop"))
    _check_arrays(path, displacement, confidence)
    if loop.shape or loop.dtype != np.bool_:
        raise _fault(path, f"loop must be true or false; {_AGAIN}", str(loop)[:20])
    return Motion(displacement.astype(np.float32)[None], confidence.astype(np.float32)[None], loop=bool(loop))


def _check_sizes(path: Path) -> None:
    """Raises an error if the arrays exceed `MAX_BYTES`, before any of them is decompressed."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_BYTES:
        raise _fault(path, f"the arrays must have at most {MAX_BYTES >> 20} MB, got {size >> 20} MB", size)


def _check_arrays(path: Path, displacement: np.ndarray, confidence: np.ndarray) -> None:
    shape = displacement.shape
    fits = displacement.ndim == 4 and shape[3] == 2 and confidence.shape == shape[:3]
    if not fits or not 1 <= shape[0] <= MAX_FRAMES or not all(2 <= side <= MAX_SIDE for side in shape[1:3]):
        raise _fault(
            path,
            f"displacement and confidence must have shapes [f, h, w, 2] and [f, h, w] with sides of 2 to {MAX_SIDE}, "
            f"got {list(shape)} and {list(confidence.shape)}; {_AGAIN}",
            shape,
        )
    if displacement.dtype.kind != "f" or confidence.dtype.kind != "f":
        raise _fault(path, f"displacement and confidence must be floating-point numbers; {_AGAIN}", None)
    if not np.isfinite(displacement).all() or np.abs(displacement).max() > MAX_DISPLACEMENT:
        raise _fault(path, f"displacements must be finite and within {MAX_DISPLACEMENT:g} of 0; {_AGAIN}", None)
    if not np.isfinite(confidence).all() or confidence.min() < 0 or confidence.max() > 1:
        raise _fault(path, f"confidences must be in 0..1; {_AGAIN}", None)


def _fault(path: Path, problem: str, value: object) -> SMCDError:
    return SMCDError(f"{path}: {problem}", argument="motion_from", path=path, value=value)
