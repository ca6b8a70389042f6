"""Makes the sprite atlas, one picture and one index, from the glyphs of Noto Color Emoji.

Run this module after changing the table of classes. The output is part of the package and read by ``atlas.py``::

    python -m data_pipeline.sprites.make_atlas NotoColorEmoji.ttf smcd_jax/assets/sprites

The font is Debian's package ``fonts-noto-color-emoji`` (2.042), SIL Open Font License 1.1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.sprites.atlas import ATLAS_VERSION
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically, write_json

_FONT_SIZE = 109  # the only size in which the font has bitmaps
_CELL = 128
_COLUMNS = 8

# Name, glyph and facing side: sprites that face a side are mirrored to face their direction of motion.
_FIXED = (
    ("cat", "🐈", "left"),
    ("dog", "🐕", "left"),
    ("panda", "🐼", None),
    ("fox", "🦊", None),
    ("frog", "🐸", None),
    ("lion", "🦁", None),
    ("pig", "🐷", None),
    ("rabbit", "🐇", "left"),
    ("owl", "🦉", None),
    ("penguin", "🐧", "left"),
    ("bee", "🐝", "left"),
    ("turtle", "🐢", "left"),
    ("crab", "🦀", None),
    ("duck", "🦆", "left"),
    ("elephant", "🐘", "left"),
    ("unicorn", "🦄", "left"),
    ("whale", "🐳", "left"),
    ("bus", "🚌", "left"),
    ("train", "🚂", "left"),
    ("rocket", "🚀", "right"),
    ("airplane", "✈", "right"),
    ("sailboat", "⛵", "right"),
    ("soccer ball", "⚽", None),
    ("strawberry", "🍓", None),
    ("pizza", "🍕", None),
    ("donut", "🍩", None),
    ("cactus", "🌵", None),
    ("tree", "🌳", None),
    ("sunflower", "🌻", None),
    ("pumpkin", "🎃", None),
    ("snowman", "⛄", None),
    ("robot", "🤖", None),
)
# As above, followed by the hue that is recolored and its reach to each side, in degrees.
_COLORABLE = (
    ("car", "🚗", "left", 2, 25),
    ("bird", "🐦", "left", 200, 30),
    ("fish", "🐟", "left", 205, 30),
    ("balloon", "🎈", None, 4, 25),
    ("umbrella", "☂", None, 245, 35),
    ("heart", "❤", None, 4, 25),
    ("star", "⭐", None, 47, 30),
    ("apple", "🍎", None, 8, 35),
    ("mushroom", "🍄", None, 12, 14),
    ("tulip", "🌷", None, 335, 35),
    ("book", "📕", None, 4, 25),
    ("shoe", "👟", "left", 207, 30),
    ("butterfly", "🦋", None, 33, 25),
    ("backpack", "🎒", None, 8, 20),
    ("boat", "🚤", "left", 32, 45),
    ("dinosaur", "🦕", "left", 130, 60),
)
TABLE = (*((*row, None) for row in _FIXED), *((*row[:3], row[3:]) for row in _COLORABLE))

_ONE_PIECE = ("rocket",)  # its glyph has detached stars, which would widen its box
_FADED = 1.5  # outer rows and columns whose opacities sum to less, in opaque pixels, are cropped


def main() -> None:
    """Writes ``atlas.png`` and ``atlas.json``. Arguments: the font file and the output folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("font", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_atlas(arguments.font, arguments.folder)


def write_atlas(font_file: Path, folder: Path) -> None:
    """Draws every class of the table, tightly cropped, on a transparent sheet of 8 columns of 128 x 128 pixels.

    Args:
        font_file: Path of NotoColorEmoji.ttf, with bitmaps (CBDT).
        folder: Output folder for ``atlas.png`` (RGBA) and ``atlas.json``, which holds version, source and, per class,
            its name, the side it faces (``facing``), its tight box x1, y1, x2, y2 (``box``) and, for classes with
            variable colors, the hue that changes and its reach in degrees (``hue``).

    Raises:
        SMCDError: The font lacks a glyph of the table.
        OSError: The font cannot be read.
    """
    font = ImageFont.truetype(str(font_file), _FONT_SIZE)
    sheet = Image.new("RGBA", (_COLUMNS * _CELL, -(-len(TABLE) // _COLUMNS) * _CELL))
    classes = []
    for index, (name, character, facing, hue) in enumerate(TABLE):
        glyph = _glyph(font, character, name)
        x, y = index % _COLUMNS * _CELL, index // _COLUMNS * _CELL
        sheet.paste(glyph, (x, y))
        entry = {"name": name, "facing": facing, "box": [x, y, x + glyph.width, y + glyph.height]}
        classes.append(entry | ({"hue": list(hue)} if hue else {}))
    with write_atomically(folder / "atlas.png") as temporary:
        sheet.save(temporary, optimize=True)
    write_json(
        folder / "atlas.json",
        {"version": ATLAS_VERSION, "source": "Noto Color Emoji 2.042, SIL OFL 1.1", "classes": classes},
    )


def _glyph(font: ImageFont.FreeTypeFont, character: str, name: str) -> Image.Image:
    picture = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(picture).text((10, 10), character, font=font, embedded_color=True)
    pixels = np.array(picture)
    if not pixels[..., 3].any():
        raise SMCDError(
            f"font must have a glyph for sprite {name} ({character}); use Noto Color Emoji 2.042",
            argument="font",
            value=character,
        )
    if name in _ONE_PIECE:
        pixels[~_largest_piece(pixels[..., 3] > 0)] = 0
    opacity = pixels[..., 3] / 255
    rows, columns = (np.flatnonzero(opacity.sum(axis=axis) >= _FADED) for axis in (1, 0))
    cut = np.ascontiguousarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    cut[cut[..., 3] == 0] = 0  # the color of transparent pixels would only enlarge the file
    return Image.fromarray(cut)


def _largest_piece(inside: np.ndarray) -> np.ndarray:
    """Returns the largest 4-connected component of ``inside``, bool [h, w]."""
    left, largest = inside.copy(), np.zeros_like(inside)
    while left.sum() > largest.sum():
        piece = np.zeros_like(inside)
        piece[tuple(np.argwhere(left)[0])] = True
        size = 0
        while piece.sum() > size:
            size = piece.sum()
            grown = np.pad(piece, 1)
            piece = left & (grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:] | piece)
        left &= ~piece
        largest = piece if size > largest.sum() else largest
    return largest


if __name__ == "__main__":
    main()
