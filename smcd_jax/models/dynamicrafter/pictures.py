"""Pictures of any aspect ratio at the size of the video: cropped, or fitted as in the published programs."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from smcd_jax.media import resize_picture, to_model_range
from smcd_jax.models.video_model import FittedPicture

Fit = Literal["crop", "pad", "gui", "stretch"]
FITS: tuple[Fit, ...] = ("crop", "pad", "gui", "stretch")


def fit_picture(picture: UInt8[np.ndarray, "y x 3"], *, height: int, width: int, fit: Fit) -> FittedPicture:
    """Returns the picture at ``height`` x ``width`` pixels.

    - "crop" scales it until it covers the video and cuts off the rest at both ends.
    - "pad" scales its shorter side to the shorter side of the video, as the published scripts do, then cuts off or pads
      the other side with black bars.
    - "gui" is the same in floating point with grey bars, as the published web page does.
    - "stretch" changes the aspect ratio.
    """
    if fit == "stretch":
        changed = abs(picture.shape[1] / picture.shape[0] * height / width - 1) > 0.01
        note = "the picture's aspect ratio is changed to that of the video" if changed else ""
        return FittedPicture(resize_picture(picture, height=height, width=width), note)
    y, x = picture.shape[:2]
    if fit == "crop":
        scale = max(height / y, width / x)
        rows, columns = max(height, round(y * scale)), max(width, round(x * scale))
    else:
        rows, columns = _shorter_side(y, x, min(height, width))
    if fit == "gui":
        pixels = (fit_tensor(to_model_range(picture), height=height, width=width) + 1) * np.float32(127.5)
    else:
        scaled = np.array(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR))
        pixels = _centred(scaled, height, width)
    return FittedPicture(pixels, _note(rows, columns, height, width))


def fit_tensor(
    picture: Float[np.ndarray, "y x 3"], *, height: int, width: int, antialias: bool = True
) -> Float32[np.ndarray, "h w 3"]:
    """Returns the fit "gui" of a picture in -1..1; 0 is grey.

    Args:
        picture: Picture in -1..1.
        height: Height in pixels.
        width: Width in pixels.
        antialias: Whether to antialias; False for torchvision before 0.17, which read four pixels per result pixel.
    """
    rows, columns = _shorter_side(*picture.shape[:2], min(height, width))
    down = bilinear_matrix(picture.shape[0], rows, antialias=antialias)
    across = bilinear_matrix(picture.shape[1], columns, antialias=antialias)
    scaled = np.einsum("ry,yxc,sx->rsc", down, picture, across, optimize=True)
    return _centred(scaled.astype(np.float32), height, width)


def bilinear_matrix(source: int, target: int, *, antialias: bool) -> Float[np.ndarray, "t s"]:
    """Returns the matrix of bilinear interpolation of one axis; ``antialias`` widens the triangle when shrinking."""
    step = source / target
    width = max(step, 1.0) if antialias else 1.0
    centre = np.clip((np.arange(target) + 0.5) * step - 0.5, 0, source - 1)
    weights = np.maximum(0, 1 - np.abs(np.arange(source) - centre[:, None]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def _shorter_side(y: int, x: int, side: int) -> tuple[int, int]:
    return (side, int(side * x / y)) if y <= x else (int(side * y / x), side)


def _centred(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the middle of a picture, padded with zeros if it is too small, as torchvision's CenterCrop does."""
    gaps = [max(0, wanted - found) for wanted, found in zip((height, width), picture.shape[:2], strict=True)]
    padded = np.pad(picture, [(gap // 2, (gap + 1) // 2) for gap in gaps] + [(0, 0)])
    top, left = (round((found - wanted) / 2) for found, wanted in zip(padded.shape[:2], (height, width), strict=True))
    return np.ascontiguousarray(padded[top : top + height, left : left + width])


def _note(rows: int, columns: int, height: int, width: int) -> str:
    changes = []
    for name, found, wanted in (("height", rows, height), ("width", columns, width)):
        if found > wanted and (found - wanted) / found >= 0.01:
            changes.append(f"{100 * (found - wanted) / found:.0f} % of the picture's {name} is cut off")
        if found < wanted:
            changes.append(f"bars fill {100 * (wanted - found) / wanted:.0f} % of the video's {name}")
    return " and ".join(changes)
