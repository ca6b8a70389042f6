"""Drawing for visual inspection: labelled boxes on frames, and contact sheets of frames side by side."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from smcd_jax.errors import SMCDError

Color = tuple[int, int, int]

# M. Okabe and K. Ito, "Color Universal Design" (2008): distinct for colour-blind readers too. Their black is left
# out because it is invisible on dark pictures; blue comes last because it is the darkest.
OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (213, 94, 0),  # vermillion
    (204, 121, 167),  # reddish purple
    (0, 114, 178),  # blue
)
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_SMALLEST_TEXT = 10  # pixels; smaller letters are illegible


def object_colors(count: int) -> list[Color]:
    """Returns a colour (red, green, blue) per object: Okabe and Ito's seven, lighter, darker; repeats after 21."""
    lighter = [tuple((channel + 255) // 2 for channel in color) for color in OKABE_ITO]
    darker = [tuple(channel // 2 for channel in color) for color in OKABE_ITO]
    return list(itertools.islice(itertools.cycle([*OKABE_ITO, *lighter, *darker]), count))


def draw_boxes(
    frames: UInt8[np.ndarray, "f h w 3"],
    boxes: Float[np.ndarray, "f n 4"],
    mask: Shaped[np.ndarray, "f n"],
    labels: Sequence[str],
    *,
    colors: Sequence[Color] | None = None,
) -> UInt8[np.ndarray, "f h w 3"]:
    """Draws the box and the label of each present object on copies of the frames.

    Lines lie inside the box. Line width and letter size grow with the shorter side of the picture. A label is placed
    above its box, or inside it where there is no room, and always completely within the picture; a label wider than
    the picture is shortened with an ellipsis. Characters that the font lacks (it contains Latin ones) appear as empty
    boxes.

    Args:
        frames: Frames, uint8. They are not modified.
        boxes: Corners x1, y1, x2, y2 in 0..1 of the picture; parts outside the picture are not drawn.
        mask: 1 or True where the object is present.
        labels: Label of each object; an empty string draws no label.
        colors: Colour of each object as red, green, blue in 0..255. Defaults to `object_colors`.

    Returns:
        New frames, uint8 [f, h, w, 3].

    Raises:
        SMCDError: The shapes do not match, or a present box contains NaN or infinity.
    """
    frames, boxes, present = np.asarray(frames), np.asarray(boxes, np.float32), np.asarray(mask) != 0
    colors = object_colors(len(labels)) if colors is None else list(colors)
    _check(frames, boxes, present, labels, colors)
    drawn = np.empty_like(frames)
    for index, frame in enumerate(frames):
        image = Image.fromarray(frame)
        objects = np.flatnonzero(present[index])
        for item in objects:
            _draw_outline(image, boxes[index, item], colors[item])
        for item in objects:  # labels come after all boxes, so that no line crosses a label
            _draw_label(image, boxes[index, item], labels[item], colors[item])
        drawn[index] = np.asarray(image)
    return drawn


def contact_sheet(
    videos: Sequence[UInt8[np.ndarray, "_ _ _ 3"]], *, columns: int | None = None, captions: Sequence[str] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Arranges the frames of videos side by side on white, one video below the other, each below its caption.

    Args:
        videos: Videos, uint8 [f, h, w, 3] each; numbers of frames and sizes may differ.
        columns: Largest number of frames per row. Defaults to one row per video.
        captions: Caption of each video, shortened with an ellipsis where the sheet is too narrow.

    Returns:
        Sheet, uint8 [H, W, 3].

    Raises:
        SMCDError: There are no videos, one is not uint8 [f, h, w, 3] with at least one frame, ``columns`` is below 1,
            or the number of captions differs from that of videos.
    """
    videos = [np.asarray(video) for video in videos]
    _check_sheet(videos, columns, captions)
    gap = max(2, videos[0].shape[1] // 64)
    grids = [_grid(video, columns or len(video), gap) for video in videos]
    width = max(grid.shape[1] for grid in grids) + 2 * gap
    size = max(_SMALLEST_TEXT + 2, videos[0].shape[1] // 14)
    strips = []
    for index, grid in enumerate(grids):
        if captions is not None:
            strips.append(_caption(captions[index], width, size, gap))
        strips.append(np.pad(grid, ((gap, gap), (gap, width - gap - grid.shape[1]), (0, 0)), constant_values=255))
    return np.concatenate(strips)


def _check(frames: np.ndarray, boxes: np.ndarray, present: np.ndarray, labels: Sequence, colors: Sequence) -> None:
    _check_frames(frames, "frames")
    count, objects = len(frames), len(labels)
    for argument, found, wanted in (
        ("boxes", boxes.shape, (count, objects, 4)),
        ("mask", present.shape, (count, objects)),
        ("colors", (len(colors),), (objects,)),
    ):
        if found != wanted:
            raise SMCDError(
                f"{argument} must have shape {wanted} for {count} frames and {objects} labels, got {found}",
                argument=argument,
                value=found,
            )
    invalid = np.argwhere(present & ~np.isfinite(boxes).all(axis=-1))
    if len(invalid):
        frame, item = invalid[0].tolist()
        box = tuple(boxes[frame, item].tolist())
        raise SMCDError(
            f"the box of object {item} ({labels[item]}) in frame {frame} must be finite, got {box}; correct or mask it",
            argument="boxes",
            value=box,
        )


def _check_frames(frames: np.ndarray, argument: str) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:
        raise SMCDError(
            f"{argument} must be uint8 [frames, height, width, 3], got {frames.dtype} of shape {frames.shape}",
            argument=argument,
            value=frames.shape,
        )


def _corners(image: Image.Image, box: np.ndarray) -> tuple[int, int, int, int]:
    """Returns left, top, right, bottom of a box in pixels, inclusive, within the picture; at least one pixel."""
    width, height = image.size
    x1, y1, x2, y2 = np.rint(np.clip(box, 0, 1) * (width, height, width, height)).astype(int).tolist()
    left, top = min(x1, width - 1), min(y1, height - 1)
    return left, top, max(x2 - 1, left), max(y2 - 1, top)


def _draw_outline(image: Image.Image, box: np.ndarray, color: Color) -> None:
    thickness = _thickness(image)
    left, top, right, bottom = _corners(image, box)
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), outline=tuple(color), width=thickness)


def _draw_label(image: Image.Image, box: np.ndarray, label: str, color: Color) -> None:
    font = _font(max(_SMALLEST_TEXT, min(image.size) // 28))
    pad = max(2, min(image.size) // 160)
    text = _fitted(label, font, image.width - 2 * pad)
    if not text:
        return
    left, top, _, _ = _corners(image, box)
    ascent, descent = font.getmetrics()
    width, height = int(np.ceil(font.getlength(text))) + 2 * pad, ascent + descent + pad
    x = max(0, min(left, image.width - width))
    y = top - height if top >= height else min(top, max(0, image.height - height))
    draw = ImageDraw.Draw(image)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=tuple(color))
    # The perceived brightness (ITU-R BT.601 weights) decides between black and white letters.
    bright = np.dot(color, (0.299, 0.587, 0.114)) > 110
    draw.text((x + pad, y + pad // 2), text, fill=_BLACK if bright else _WHITE, font=font)


def _thickness(image: Image.Image) -> int:
    return max(1, round(min(image.size) / 140))


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns the printable text on one line, shortened with an ellipsis if it is wider than ``width`` pixels."""
    text = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..." if text else ""


def _check_sheet(videos: list[np.ndarray], columns: int | None, captions: Sequence[str] | None) -> None:
    if not videos:
        raise SMCDError("a contact sheet must have at least one video, got 0", argument="videos", value=0)
    for index, video in enumerate(videos):
        _check_frames(video, f"videos[{index}]")
    if columns is not None and columns < 1:
        raise SMCDError(f"columns must be at least 1, got {columns}", argument="columns", value=columns)
    if captions is not None and len(captions) != len(videos):
        raise SMCDError(
            f"captions must have {len(videos)} entries, one per video, got {len(captions)}",
            argument="captions",
            value=len(captions),
        )


def _grid(video: np.ndarray, columns: int, gap: int) -> np.ndarray:
    frames, height, width, _ = video.shape
    columns = min(columns, frames)
    rows = -(-frames // columns)
    grid = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, frame in enumerate(video):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[y : y + height, x : x + width] = frame
    return grid


def _caption(text: str, width: int, size: int, gap: int) -> np.ndarray:
    font = _font(size)
    ascent, descent = font.getmetrics()
    strip = Image.new("RGB", (width, ascent + descent + gap), _WHITE)
    ImageDraw.Draw(strip).text((gap, gap), _fitted(text, font, width - 2 * gap), fill=_BLACK, font=font)
    return np.asarray(strip)
