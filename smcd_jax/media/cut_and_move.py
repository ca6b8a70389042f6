"""Motion preview without a model: feathered cut-outs of a picture that move along boxes over a filled background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from smcd_jax.errors import SMCDError
from smcd_jax.media.inpainting import fill_holes
from smcd_jax.media.pictures import resize_picture

LARGEST_PREVIEW = 1024  # longer side of a preview in pixels
_FEATHER = 16  # width of the soft edge in pixels: two latent cells
_FEATHER_SHARE = 0.12  # limit of the soft edge as a share of the shorter side of the box


@dataclass(frozen=True, eq=False)
class Cutout:
    """Part of a picture around the first box of an object.

    Attributes:
        pixels: Red, green, blue and opacity, uint8 [h, w, 4]. Opacity is 255 in the box and falls to 0 around it.
        x: Column of the picture where the cut-out starts.
        y: Row of the picture where the cut-out starts.
        box: First box of the object, xyxy in 0..1 of the picture.
    """

    pixels: UInt8[np.ndarray, "h w 4"]
    x: int
    y: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Layers:
    """A picture in layers.

    Attributes:
        background: Picture with the boxes of all objects filled from their surroundings, uint8 [h, w, 3].
        cutouts: One cut-out per object; later ones lie on top.
    """

    background: UInt8[np.ndarray, "h w 3"]
    cutouts: tuple[Cutout, ...]

    def compose(self, boxes: Float[np.ndarray, "n 4"], shown: Shaped[np.ndarray, " n"]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the frame with each shown object moved and scaled from its first box to the given one.

        If every object is shown at its first box, the frame equals the picture.

        Args:
            boxes: Boxes, xyxy in 0..1 of the picture; parts outside are not visible.
            shown: 1 or true for objects that are drawn.
        """
        frame = self.background.copy()
        for cutout, box, visible in zip(self.cutouts, np.asarray(boxes, np.float64), shown, strict=True):
            if visible:
                _paste(frame, cutout, box)
        return frame


def preview_size(width: int, height: int) -> tuple[int, int]:
    """Returns the width and height of a preview: those of the picture, reduced to at most 1024 pixels per side."""
    scale = min(1.0, LARGEST_PREVIEW / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def preview_picture(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the picture resized to the size of its preview."""
    width, height = preview_size(picture.shape[1], picture.shape[0])
    return resize_picture(picture, height=height, width=width)


def cut_layers(
    picture: UInt8[np.ndarray, "h w 3"], first_boxes: Float[np.ndarray, "n 4"] | Sequence[Sequence[float]]
) -> Layers:
    """Returns the picture in layers: a filled background, and a cut-out for the first box of each object.

    Args:
        picture: Picture, RGB.
        first_boxes: First box of each object, xyxy in 0..1 of the picture.

    Raises:
        SMCDError: A box is not finite or has no area within the picture.
    """
    height, width = picture.shape[:2]
    boxes = np.asarray(first_boxes, np.float64).reshape(-1, 4)
    hole = np.zeros((height, width), bool)
    cutouts = []
    for index, box in enumerate(boxes):
        inside = np.clip(np.nan_to_num(box, nan=-1.0), 0, 1)
        if not np.isfinite(box).all() or not (inside[:2] < inside[2:]).all():
            raise SMCDError(
                f"box {index} must be finite and overlap the picture, got {box.tolist()}",
                argument="boxes",
                value=box.tolist(),
            )
        edges = inside * (width, height, width, height)
        x1, y1, x2, y2 = _outward(edges)
        hole[y1:y2, x1:x2] = True
        cutouts.append(_cut(picture, edges, tuple(box.tolist())))
    return Layers(fill_holes(picture, hole), tuple(cutouts))


def move_boxes(
    picture: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "f n 4"], mask: Shaped[np.ndarray, "f n"]
) -> UInt8[np.ndarray, "f h w 3"]:
    """Moves the contents of each object's first box along its boxes, over a filled background.

    Args:
        picture: Picture, RGB.
        boxes: Boxes, xyxy in 0..1 of the picture.
        mask: 1 or true where the object is present. Before an object first appears, the picture is unchanged in its
            first box; where it is absent later, the background is shown.

    Raises:
        SMCDError: The shapes do not match, an object is never present, or a first box has no area.
    """
    boxes, present = np.asarray(boxes), np.asarray(mask) != 0
    if present.ndim != 2 or boxes.shape != (*present.shape, 4) or not present.any(axis=0).all():
        raise SMCDError(
            "boxes and mask must have the shapes [frames, objects, 4] and [frames, objects], with every object present "
            f"in some frame, got {list(boxes.shape)} and {list(present.shape)}",
            argument="boxes",
            value=boxes.shape,
        )
    first = present.argmax(axis=0)
    first_boxes = boxes[first, np.arange(boxes.shape[1])]
    before = np.arange(len(boxes))[:, None] < first
    places = np.where(before[..., None], first_boxes, boxes)
    layers = cut_layers(picture, first_boxes)
    return np.stack([layers.compose(*frame) for frame in zip(places, present | before, strict=True)])


def _outward(edges: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the range of whole pixels that a box in pixels touches."""
    low, high = np.floor(edges[:2] + 1e-4), np.ceil(edges[2:] - 1e-4)
    x1, y1, x2, y2 = np.concatenate([low, np.maximum(high, low + 1)]).astype(int).tolist()
    return x1, y1, x2, y2


def _cut(picture: np.ndarray, edges: np.ndarray, box: tuple[float, ...]) -> Cutout:
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = _outward(edges)
    feather = min(_FEATHER, max(1, round(_FEATHER_SHARE * min(x2 - x1, y2 - y1))))
    left, top, right, bottom = (
        max(0, x1 - feather),
        max(0, y1 - feather),
        min(width, x2 + feather),
        min(height, y2 + feather),
    )
    opacity = np.minimum(
        _ramp(np.arange(top, bottom), y1, y2, feather)[:, None], _ramp(np.arange(left, right), x1, x2, feather)[None]
    )
    pixels = np.dstack([picture[top:bottom, left:right], np.rint(opacity * 255).astype(np.uint8)])
    return Cutout(pixels, left, top, box)


def _ramp(at: np.ndarray, low: int, high: int, feather: int) -> np.ndarray:
    """Returns 1 at pixels from ``low`` up to ``high``, falling smoothly to 0 within ``feather`` pixels outside."""
    outside = np.maximum(np.maximum(low - at, at - (high - 1)), 0)
    rest = np.clip(1 - outside / (feather + 1), 0, 1)
    return rest * rest * (3 - 2 * rest)


def _paste(frame: np.ndarray, cutout: Cutout, box: np.ndarray) -> None:
    """Draws the cut-out, moved by the affine map from its first box to ``box``."""
    height, width = frame.shape[:2]
    size = np.array([width, height], np.float64)
    first = np.array(cutout.box)
    scale = (box[2:] - box[:2]) / (first[2:] - first[:2])
    shape = np.array(cutout.pixels.shape[1::-1])
    start = (np.array([cutout.x, cutout.y]) - first[:2] * size) * scale + box[:2] * size
    end = start + shape * scale
    low = np.maximum(np.floor(start + 1e-4), 0).astype(int)
    high = np.minimum(np.ceil(end - 1e-4), size).astype(int)
    if not (low < high).all():
        return
    source = np.concatenate([(low - start) / scale, (high - start) / scale])
    drawn = _resampled(cutout.pixels, source, tuple((high - low).tolist()))
    region = frame[low[1] : high[1], low[0] : high[0]]
    opacity = drawn[..., 3:].astype(np.float32) / 255
    region[...] = np.rint(drawn[..., :3] * opacity + region * (1 - opacity)).astype(np.uint8)


def _resampled(pixels: np.ndarray, source: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the rectangle ``source`` (xyxy in fractional pixels), resized bilinearly to ``size`` (width, height)."""
    pad = int(np.ceil(max(0, -source[:2].min(), (source[2:] - pixels.shape[1::-1]).max()) - 1e-4))
    if pad:
        pixels = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        pixels[:pad, :, 3] = pixels[-pad:, :, 3] = pixels[:, :pad, 3] = pixels[:, -pad:, 3] = 0
    inside = np.clip(source + pad, 0, np.tile(pixels.shape[1::-1], 2))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=tuple(inside.tolist()))
    return np.asarray(image)
