"""Owns the sprites: read from the atlas of the package, recoloured, mirrored, and drawn at any place and size."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

import smcd_jax
from data_pipeline.sprites.colors import COLORS, recolor
from smcd_jax.errors import SMCDError

ATLAS_FOLDER = Path(smcd_jax.__file__).parent / "assets" / "sprites"
ATLAS_VERSION = 1
# The fewest pixels of a sprite's shorter side: smaller ones cannot be told apart, and the margin would not suffice.
SMALLEST_SIDE = 4

# Transparent pixels around a sprite at each level. Drawing reads one pixel of the picture beyond the sprite and the
# width of the filter, which is another, and a level is at most four times as large as what is drawn from it.
_MARGIN = 8


class Patch(NamedTuple):
    """Pixels of a picture: columns from `left`, rows from `top`, RGBA with colour already multiplied by opacity."""

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
        name: as in labels.
        facing: `left` or `right` where the picture looks to a side, else None.
        box: x1, y1, x2, y2 of its picture in the atlas, pixels; tight.
        hue: main hue and reach in degrees of the parts that take on colours, None if it has one look only.
    """

    name: str
    facing: str | None
    box: tuple[int, int, int, int]
    hue: tuple[float, float] | None

    @property
    def aspect(self) -> float:
        """Width over height."""
        return (self.box[2] - self.box[0]) / (self.box[3] - self.box[1])


class Sprite:
    """One picture that can be drawn: a class in one colour, mirrored or not.

    Attributes:
        aspect: width over height.
        opacity: mean opacity over its box, 0..1.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "h w 4"]):
        height, width = pixels.shape[:2]
        self.aspect = width / height
        self.opacity = float(pixels[..., 3].mean()) / 255
        # Multiplied by opacity ("RGBa"), so that resizing does not mix in the colour of transparent pixels.
        self._levels = _levels(Image.fromarray(pixels).convert("RGBa"))

    def draw(self, box: tuple[float, float, float, float], width: int, height: int) -> Patch | None:
        """The sprite filling a box, cut to the picture; a pixel that the box covers in part is transparent in part.

        Args:
            box: x1, y1, x2, y2 in pixels, at least `SMALLEST_SIDE` long; may lie outside of the picture.
            width: of the picture, pixels.
            height: of the picture, pixels.

        Returns:
            The pixels that differ from nothing, or None if the box lies outside.
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
        # Hamming: about as sharp as bicubic when shrinking, without overshoot, so that colour never exceeds opacity.
        size = (right - left, bottom - top)
        drawn = level.resize(size, Image.Resampling.HAMMING, box=source)
        return Patch(left, top, np.frombuffer(drawn.tobytes(), np.uint8).reshape(size[1], size[0], 4))

    def _level(self, width: float, height: float) -> Image.Image:
        """The smallest level at least twice as large as asked for, or the largest."""
        for level in reversed(self._levels):
            if level.width - 2 * _MARGIN >= 2 * width and level.height - 2 * _MARGIN >= 2 * height:
                return level
        return self._levels[0]


@functools.cache
def sprite_classes() -> dict[str, SpriteClass]:
    """All classes by name, in the order of the atlas.

    Raises:
        SMCDError: the atlas of the package is missing or of another version.
    """
    content = json.loads(_asset("atlas.json").read_text(encoding="utf-8"))
    if content["version"] != ATLAS_VERSION:
        raise SMCDError(f"sprite atlas: version {content['version']}, this program reads {ATLAS_VERSION}: reinstall")
    return {
        entry["name"]: SpriteClass(
            entry["name"], entry["facing"], tuple(entry["box"]), tuple(entry["hue"]) if "hue" in entry else None
        )
        for entry in content["classes"]
    }


@functools.cache
def sprite(name: str, color: str | None, *, mirrored: bool) -> Sprite:
    """A class, in a colour if it takes one (else None), mirrored or not; made once and kept.

    Raises:
        SMCDError: no such class or colour, a colour for a class that takes none, or none for one that does.
    """
    of_class = sprite_classes().get(name)
    if of_class is None:
        raise SMCDError(f"no sprite of class {name!r}: use one of {', '.join(sprite_classes())}")
    if (color is not None) != (of_class.hue is not None) or (color is not None and color not in COLORS):
        takes = f"one of {', '.join(COLORS)}" if of_class.hue else "no colour"
        raise SMCDError(f"the sprite {name!r} takes {takes}, not {color!r}")
    x1, y1, x2, y2 = of_class.box
    pixels = _atlas()[y1:y2, x1:x2]
    if color is not None:
        pixels = recolor(pixels, color, hue=of_class.hue[0], reach=of_class.hue[1])
    return Sprite(np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels))


@functools.cache
def _atlas() -> UInt8[np.ndarray, "h w 4"]:
    with Image.open(_asset("atlas.png")) as image:
        return np.array(image.convert("RGBA"))


def _asset(name: str) -> Path:
    path = ATLAS_FOLDER / name
    if not path.is_file():
        raise SMCDError(f"{path}: the sprite atlas is missing from the installation: install smcd_jax again")
    return path


def _levels(image: Image.Image) -> list[Image.Image]:
    """The picture with its margin, and halved again and again, so that drawing it small reads few pixels."""
    levels, width, height = [], image.width, image.height
    while not levels or min(width, height) >= 2 * SMALLEST_SIDE:
        padded = Image.new("RGBa", (width + 2 * _MARGIN, height + 2 * _MARGIN))
        padded.paste(image.resize((width, height), Image.Resampling.BOX), (_MARGIN, _MARGIN))
        levels.append(padded)
        width, height = round(width / 2), round(height / 2)
    return levels
