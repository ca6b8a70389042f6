"""Colors of the sprite world: their names and values, and recoloring of sprites."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

# Hue in degrees, saturation and value in 0..1 of a sprite's main color; lighter and darker parts are scaled with it.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (3, 0.82, 0.90),
    "orange": (27, 0.90, 0.98),
    "yellow": (50, 0.82, 0.99),
    "green": (128, 0.68, 0.70),
    "blue": (214, 0.80, 0.90),
    "purple": (270, 0.62, 0.76),
    "pink": (332, 0.46, 0.98),
}
_KEPT_HUE = 0.35  # share of a pixel's deviation from the main hue that is kept, to preserve shading


def recolor(pixels: UInt8[np.ndarray, "h w 4"], color: str, *, hue: float, reach: float) -> UInt8[np.ndarray, "h w 4"]:
    """Changes the color of the parts of one hue, keeping their shading and all other parts.

    Args:
        pixels: RGBA, not premultiplied.
        color: New color, one of `COLORS`.
        hue: Main hue of the parts to change, in degrees.
        reach: Largest distance from it of a hue to change, in degrees; the effect fades out over the last third.
    """
    rgb = pixels[..., :3] / 255.0
    own_hue, saturation, value = rgb_to_hsv(rgb)
    distance = (own_hue - hue + 180) % 360 - 180
    weight = np.clip(3 * (1 - np.abs(distance) / reach), 0, 1) * np.clip(saturation / 0.15 - 1, 0, 1)
    main = (weight > 0.5) & (pixels[..., 3] > 127)
    main_saturation, main_value = np.median(saturation[main]), np.median(value[main])
    to_hue, to_saturation, to_value = COLORS[color]
    darker = to_value * value / main_value
    lighter = to_value + (1 - to_value) * (value - main_value) / max(1 - main_value, 1e-3)
    new = hsv_to_rgb(
        (to_hue + _KEPT_HUE * distance) % 360,
        np.clip(to_saturation * saturation / main_saturation, 0, 1),
        np.clip(np.where(value > main_value, lighter, darker), 0, 1),
    )
    mixed = rgb + weight[..., None] * (new - rgb)
    return np.concatenate([np.rint(mixed * 255).astype(np.uint8), pixels[..., 3:]], axis=-1)


def rgb_to_hsv(rgb: Float[np.ndarray, "*n 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Converts colors in 0..1 to hue in degrees (0 for greys), and saturation and value in 0..1."""
    value = rgb.max(axis=-1)
    span = value - rgb.min(axis=-1)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    safe = np.where(span > 0, span, 1)
    sextant = np.select(
        [span == 0, value == red, value == green],
        [np.zeros_like(span), ((green - blue) / safe) % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    return 60 * sextant, np.where(value > 0, span / np.where(value > 0, value, 1), 0), value


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> Float[np.ndarray, "*n 3"]:
    """Inverts `rgb_to_hsv`; the arguments broadcast."""
    hue, saturation, value = np.broadcast_arrays(hue, saturation, value)
    offset = np.asarray([5.0, 3.0, 1.0])
    place = (offset + hue[..., None] / 60) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(place, 4 - place), 0, 1))
