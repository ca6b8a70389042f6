"""Backgrounds: soft still pictures in few colors, the same at every resolution.

Colors are pale, muted or deep, so that the saturated sprites stand out; patterns are coarse, so that a small
autoencoder can represent them. Coordinates are in units of the picture's shorter side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from data_pipeline.sprites.colors import hsv_to_rgb
from data_pipeline.sprites.photographs import PHOTOGRAPHS, draw_photograph
from data_pipeline.sprites.rng import ClipRng

# ((lowest saturation, highest saturation, lowest value, highest value), weight)
_TONES = (
    ((0.10, 0.34, 0.88, 0.99), 0.55),  # pale
    ((0.22, 0.42, 0.60, 0.80), 0.25),  # muted
    ((0.35, 0.62, 0.22, 0.42), 0.20),  # deep
)


def draw_background(kind: str, rng: ClipRng, *, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a background.

    Args:
        kind: Name of the pattern, one of `BACKGROUNDS` or `photographs.PHOTOGRAPHS`.
        rng: Random numbers, used first for the colors.
        width: Width in pixels.
        height: Height in pixels.
    """
    if kind in PHOTOGRAPHS:
        return draw_photograph(kind, rng, width=width, height=height)
    palette = _palette(rng)
    shorter = min(width, height)
    x = ((np.arange(width, dtype=np.float32) + 0.5) / shorter)[None, :]
    y = ((np.arange(height, dtype=np.float32) + 0.5) / shorter)[:, None]
    shares = BACKGROUNDS[kind](rng, x, y)
    picture = np.tensordot(shares, palette[: shares.shape[-1]], axes=1)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _palette(rng: ClipRng) -> Float32[np.ndarray, "3 3"]:
    """Draws three matching colors: close in hue and tone, but distinguishable."""
    low_saturation, high_saturation, low_value, high_value = rng.weighted(_TONES)
    hue, turn = rng.uniform(0, 360), rng.pick((-1, 1)) * rng.uniform(18, 48)
    value, step = rng.uniform(low_value, high_value), rng.uniform(0.07, 0.14)
    step *= -1 if value > 0.7 else 1
    saturations = [rng.uniform(low_saturation, high_saturation) for _ in range(3)]
    hues = (np.array([0, 1, 2]) * turn + hue) % 360
    values = np.clip(value + np.array([0, 1, 0.4]) * step, 0, 1)
    return hsv_to_rgb(hues, np.array(saturations), values).astype(np.float32)


def _gradient(rng: ClipRng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    along = _along(rng.uniform(0, 2 * math.pi), x, y)
    return _three_shares(_stretched(along))


def _glow(rng: ClipRng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from_x, from_y = rng.uniform(0.1, 0.9) * x.max(), rng.uniform(0.1, 0.9) * y.max()
    return _three_shares(_stretched(np.sqrt((x - from_x) ** 2 + (y - from_y) ** 2)))


def _stripes(rng: ClipRng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = rng.below(4) * math.pi / 4 + rng.uniform(-0.15, 0.15)
    wobble, turns = rng.uniform(0, 0.06) * rng.below(2), rng.uniform(1, 2)
    across = _along(angle + math.pi / 2, x, y)
    along = _along(angle, x, y) + wobble * np.sin(2 * math.pi * turns * across)
    return _two_shares(_soft_wave(along * rng.uniform(2, 4) + rng.unit(), rng.uniform(0.8, 4)))


def _checks(rng: ClipRng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = rng.weighted(((0.0, 0.6), (math.pi / 4, 0.4)))
    count, sharpness = rng.uniform(1.5, 2.8), rng.uniform(2, 5)
    first = 2 * _soft_wave(_along(angle, x, y) * count + rng.unit(), sharpness) - 1
    second = 2 * _soft_wave(_along(angle + math.pi / 2, x, y) * count + rng.unit(), sharpness) - 1
    return _two_shares((1 + first * second) / 2)


def _clouds(rng: ClipRng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    cells = rng.below(3) + 3
    grid = np.array([rng.unit() for _ in range(cells * cells)], np.float32).reshape(cells, cells)
    smooth = Image.fromarray(grid).resize((x.size, y.size), Image.Resampling.BICUBIC)
    return _three_shares(_stretched(np.asarray(smooth)))


def _dots(rng: ClipRng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle, count = rng.uniform(0.1, 0.6), rng.uniform(2.5, 4)
    first = (_along(angle, x, y) * count + rng.unit()) % 1 - 0.5
    second = (_along(angle + math.pi / 2, x, y) * count + rng.unit()) % 1 - 0.5
    distance = np.sqrt(first**2 + second**2)
    return _two_shares(_edge(rng.uniform(0.2, 0.34) - distance, count / min(x.size, y.size)))


def _hills(rng: ClipRng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    shares = _two_shares(_stretched(y + 0 * x) * 0.35)
    shares = np.concatenate([shares, np.zeros_like(shares[..., :1])], axis=-1)
    for level, color in ((rng.uniform(0.45, 0.6), (0.3, 0.7, 0)), (rng.uniform(0.68, 0.8), (0, 0, 1))):
        swing, turns, phase = rng.uniform(0.04, 0.1), rng.uniform(0.5, 1.2), rng.unit()
        ridge = level * y.max() + swing * np.sin(2 * math.pi * (turns * x + phase))
        below = _edge(y - ridge, 1 / min(x.size, y.size))[..., None]
        shares = shares * (1 - below) + below * np.array(color, np.float32)
    return shares


# Each function takes rng, x [1, w] and y [h, 1], and returns the shares of two or three palette colors, [h, w, 2 or 3].
BACKGROUNDS: dict[str, Callable[[ClipRng, np.ndarray, np.ndarray], np.ndarray]] = {
    "gradient": _gradient,
    "glow": _glow,
    "stripes": _stripes,
    "checks": _checks,
    "clouds": _clouds,
    "dots": _dots,
    "hills": _hills,
}


def _along(angle: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return math.cos(angle) * x + math.sin(angle) * y


def _stretched(values: np.ndarray) -> np.ndarray:
    """Scales values to 0..1."""
    return (values - values.min()) / (values.max() - values.min())


def _soft_wave(turns: np.ndarray, sharpness: float) -> np.ndarray:
    """Returns a sine wave in 0..1 with one period per turn, clipped flat if sharpness exceeds 1."""
    return np.clip(0.5 + sharpness * np.sin(2 * math.pi * turns) / 2, 0, 1)


def _edge(inside: np.ndarray, pixel: float) -> np.ndarray:
    """Returns 1 where positive and 0 where negative, with a ramp two pixels wide in between."""
    return np.clip(0.5 + inside / (2 * pixel), 0, 1)


def _two_shares(second: np.ndarray) -> np.ndarray:
    return np.stack([1 - second, second], axis=-1)


def _three_shares(place: np.ndarray) -> np.ndarray:
    """Returns shares that blend from the first color at 0 through the third at 1/2 to the second at 1."""
    first, second = np.clip(1 - 2 * place, 0, 1), np.clip(2 * place - 1, 0, 1)
    return np.stack([first, second, 1 - first - second], axis=-1)
