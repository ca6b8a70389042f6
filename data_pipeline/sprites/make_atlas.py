"""Owns how the sprite atlas is made: one picture and one index from the glyphs of Noto Color Emoji.

Run once, by whoever changes the table of classes; the results are part of the project and read by ``atlas.py``::

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

_FONT_SIZE = 109  # the one size of the font's bitmaps
_CELL = 128
_COLUMNS = 8

# Name, glyph and where the glyph looks: sprites that look to a side are mirrored to look where they go.
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
# As above, then the hue in degrees whose neighbourhood (that many degrees to each side) takes on another colour.
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

_ONE_PIECE = ("rocket",)  # drawn with loose stars around it, which would widen its box
_FADED = 1.5  # pixels: an outer row or column with less opacity than this is cut off


def main() -> None:
    """Write ``atlas.png`` and ``atlas.json``; arguments: the font file and the folder to write to."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("font", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_atlas(arguments.font, arguments.folder)


def write_atlas(font_file: Path, folder: Path) -> None:
    """Draw every class of the table once, cut tight, on a transparent sheet of 8 columns of 128 x 128 pixels.

    Args:
        font_file: NotoColorEmoji.ttf, with bitmaps (CBDT).
        folder: gets ``atlas.png`` (RGBA) and ``atlas.json``: version, source and, for each class, its name, where it
            looks (``facing``), its tight rectangle ``box`` x1, y1, x2, y2, and for classes that take colours the hue in
            degrees that changes and how far that reaches (``hue``).

    Raises:
        SMCDError: the font lacks a glyph of the table.
        OSError: the font cannot be read.
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
        raise SMCDError(f"the font has no glyph for the sprite {name} ({character}); take Noto Color Emoji 2.042")
    if name in _ONE_PIECE:
        pixels[~_largest_piece(pixels[..., 3] > 0)] = 0
    opacity = pixels[..., 3] / 255
    rows, columns = (np.flatnonzero(opacity.sum(axis=axis) >= _FADED) for axis in (1, 0))
    cut = np.ascontiguousarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    cut[cut[..., 3] == 0] = 0  # colour that nobody sees only makes the file longer
    return Image.fromarray(cut)


def _largest_piece(inside: np.ndarray) -> np.ndarray:
    """The largest set of pixels of ``inside``, bool [h, w], that hang together by their sides."""
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
