"""Small pictures and clips for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def gradient(height: int, width: int) -> np.ndarray:
    """Returns a smooth picture, which lossy formats barely change."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], -1).astype(np.uint8)


def moving(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.stack([np.roll(gradient(height, width), 3 * i, axis=1) for i in range(frames)])


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path
