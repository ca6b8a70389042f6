"""Sprites: read from the package's atlas, recolored, mirrored, and drawn at any position and size."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

import smcd_jax
from data_pipeline.checks import require
from data_pipeline.sprites.colors import COLORS, recolor
from smcd_jax.errors import SMCDError

ATLAS_FOLDER = Path(smcd_jax.__file__).parent / "assets" / "sprites"
ATLAS_VERSION = 1
# Smallest length of a sprite's shorter side in pixels: smaller sprites are unrecognizable and exceed the margin.
SMALLEST_SIDE = 4

# Margin around a sprite's shadow for its blur, and size of the blur, relative to the square root of the sprite's area.
SHADOW_MARGIN, _SHADOW_BLUR = 0.2, 0.06

# Transparent pixels around a sprite at each level. Drawing reads one output pixel beyond the sprite plus one for the
# width of the filter, and a level is at most four times as large as the sprite drawn from it.
_MARGIN = 8


class Patch(NamedTuple):
    """A rectangle of pixels to paint on a picture.

    Attributes:
        left: First column.
        top: First row.
        pixels: Premultiplied RGBA, uint8 [h, w, 4].
    """

    left: int
    top: int
    pixels: UInt8[np.ndarray, "h w 4"]

    @property
    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the patch covers."""
        height, width = self.pixels.shape[:2]
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True)
class SpriteClass:
    """One class of the atlas.

    Attributes:
        name: Name used in labels.
        facing: `left` or `right` if the picture faces a side, else None.
        box: Tight box of its picture in the atlas, x1, y1, x2, y2 in pixels.
        hue: Main hue and reach, in degrees, of the parts that are recolored; None for a class with fixed colors.
    """

    name: str
    facing: str | None
    box: tuple[int, int, int, int]
    hue: tuple[float, float] | None

    @property
    def aspect(self) -> float:
        """Width divided by height."""
        return (self.box[2] - self.box[0]) / (self.box[3] - self.box[1])


class Sprite:
    """A drawable picture: a class in one color, mirrored or not.

    Attributes:
        aspect: Width divided by height.
        opacity: Mean opacity over its box, 0..1.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "h w 4"]):
        height, width = pixels.shape[:2]
        self.aspect = width / height
        self.opacity = float(pixels[..., 3].mean()) / 255
        # Premultiplied ("RGBa"), so that resizing does not mix in the color of transparent pixels.
        self._levels = _levels(Image.fromarray(pixels).convert("RGBa"))

    def draw(self, box: tuple[float, float, float, float], width: int, height: int) -> Patch | None:
        """Draws the sprite into a box, clipped to the picture; partly covered pixels are partly transparent.

        Args:
            box: Box x1, y1, x2, y2 in pixels, sides at least `SMALLEST_SIDE`; may exceed the picture.
            width: Width of the picture in pixels.
            height: Height of the picture in pixels.

        Returns:
            Patch of drawn pixels, or None if the box lies outside the picture.
        """
        x1, y1, x2, y2 = box
        left, top = max(int(np.floor(x1)), 0), max(int(np.floor(y1)), 0)
        right, bottom = min(int(np.ceil(x2)), width), min(int(np.ceil(y2)), height)
        if left >= right or top >= bottom:
            return None
        level = self._level(x2 - x1, y2 - y1)
        scale_x = (level.width - 2 * _MARGIN) / (x2 - x1)
        scale_y = (level.height - 2 * _MARGIN) / (y2 - y1)
        source = (
            _MARGIN + (left - x1) * scale_x,
            _MARGIN + (top - y1) * scale_y,
            _MARGIN + (right - x1) * scale_x,
            _MARGIN + (bottom - y1) * scale_y,
        )
        # Hamming is about as sharp as bicubic when shrinking but does not overshoot, so color never exceeds opacity.
        size = (right - left, bottom - top)
        drawn = level.resize(size, Image.Resampling.HAMMING, box=source)
        return Patch(left, top, np.frombuffer(drawn.tobytes(), np.uint8).reshape(size[1], size[0], 4))

    def _level(self, width: float, height: float) -> Image.Image:
        """Returns the smallest level at least twice as large as the requested size, or the largest level."""
        for level in reversed(self._levels):
            if level.width - 2 * _MARGIN >= 2 * width and level.height - 2 * _MARGIN >= 2 * height:
                return level
        return self._levels[0]


@functools.cache
def sprite_classes() -> dict[str, SpriteClass]:
    """Returns all classes by name, in the order of the atlas.

    Raises:
        SMCDError: The package's atlas is missing or has another version.
    """
    content = json.loads(_asset("atlas.json").read_text(encoding="utf-8"))
    require(content["version"] == ATLAS_VERSION, "version", f"{ATLAS_VERSION} in the sprite atlas", content["version"])
    return {
        entry["name"]: SpriteClass(
            entry["name"], entry["facing"], tuple(entry["box"]), tuple(entry["hue"]) if "hue" in entry else None
        )
        for entry in content["classes"]
    }


@functools.cache
def sprite(name: str, color: str | None, *, mirrored: bool) -> Sprite:
    """Returns the sprite of a class; cached.

    Args:
        name: Name of the class.
        color: One of `COLORS` for a class with variable colors, else None.
        mirrored: Whether left and right are swapped.

    Raises:
        SMCDError: The class or color does not exist, or the color does not apply to the class.
    """
    sprite_class = sprite_classes().get(name)
    require(sprite_class is not None, "name", f"one of {', '.join(sprite_classes())}", name)
    allowed = f"one of {', '.join(COLORS)}" if sprite_class.hue else "None"
    fits = color in COLORS if sprite_class.hue else color is None
    require(fits, "color", f"{allowed} for sprite {name!r}", color)
    x1, y1, x2, y2 = sprite_class.box
    pixels = _atlas()[y1:y2, x1:x2]
    if color is not None:
        pixels = recolor(pixels, color, hue=sprite_class.hue[0], reach=sprite_class.hue[1])
    return Sprite(np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels))


@functools.cache
def shadow(name: str, *, mirrored: bool) -> Sprite:
    """Returns the soft shadow of a class: black, with `SHADOW_MARGIN` of the sprite's size on each side; cached."""
    x1, y1, x2, y2 = sprite_classes()[name].box
    opacity = _atlas()[y1:y2, x1:x2, 3]
    side = round(float(np.sqrt(opacity.size)))
    padded = Image.fromarray(np.pad(opacity[:, ::-1] if mirrored else opacity, round(SHADOW_MARGIN * side)))
    soft = np.asarray(padded.filter(ImageFilter.GaussianBlur(_SHADOW_BLUR * side)))
    return Sprite(np.concatenate([np.zeros((*soft.shape, 3), np.uint8), soft[..., None]], axis=-1))


@functools.cache
def _atlas() -> UInt8[np.ndarray, "h w 4"]:
    with Image.open(_asset("atlas.png")) as image:
        return np.array(image.convert("RGBA"))


def _asset(name: str) -> Path:
    path = ATLAS_FOLDER / name
    if not path.is_file():
        raise SMCDError(f"{path}: the sprite atlas is missing; reinstall smcd_jax", path=path)
    return path


def _levels(image: Image.Image) -> list[Image.Image]:
    """Returns an image pyramid with margins, from full size down, so that small drawings read few pixels."""
    levels, width, height = [], image.width, image.height
    while not levels or min(width, height) >= 2 * SMALLEST_SIDE:
        padded = Image.new("RGBa", (width + 2 * _MARGIN, height + 2 * _MARGIN))
        padded.paste(image.resize((width, height), Image.Resampling.BOX), (_MARGIN, _MARGIN))
        levels.append(padded)
        width, height = round(width / 2), round(height / 2)
    return levels
