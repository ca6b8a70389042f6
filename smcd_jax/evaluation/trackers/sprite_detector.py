"""Exact detector of the sprite world: finds the known sprites of a scene in a video made from its first frame.

The scene gives the sprites and the background, so neither a network nor tracking is needed. Let r be the frame minus
the background, and d the change that a sprite at some place and size makes to the background. The score of a place is
the part of r that it explains, max over g of |r|^2 - |r - g d|^2, where the contrast g may be below 1 because decoders
fade objects. `sprite_places` does the coarse search; here its best places are refined to a quarter of a pixel and 3 %
of size.

`data_pipeline.sprites` is imported inside functions, so that evaluation without sprites does not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.evaluation.trackers.sprite_places import SMALLEST, CoarseSearch, Pose, blurred, compare_sprite, rgba

if TYPE_CHECKING:
    from data_pipeline.sprites import Scene, SceneObject

# Stored in the results; increase the number whenever a change gives other boxes for the same video.
NAME = "sprite-detector-1"
# Sprites with a lower score count as not found.
THRESHOLD = 0.6

_COARSE_SIDE = 64  # larger pictures are reduced to about this shorter side for the coarse search
_BLUR = 1.0  # blur of frames and sprites in pixels of the coarse picture; reduces the effect of the decoders' blur
_PLACES = 4  # number of candidates per frame to refine
_STEPS = ((0.5, 1.08), (0.25, 1.03))  # refinement steps: pixels of the coarse picture, factor of size
_ROUNDS = 3  # maximum number of rounds per step


class Detection(NamedTuple):
    """Sprites found in a video.

    Attributes:
        boxes: Boxes, xyxy in 0..1 of the picture, clipped to it like the scene's own boxes; NaN where not found.
        scores: Cosine of r and d around the place, -1..1. On held-out clips of 64 x 64 with one object it is 1 for the
            sprite as the scene draws it, and in 99 of 100 frames at least 0.83 after shrinking by 4 and enlarging (0.66
            after shrinking by 8). It is below `THRESHOLD` in 19 of 20 frames without a sprite (also after shrinking by
            4), in 7 of 10 with another sprite in its place, and in half of those with another colour (near hues pass).
            A silhouette in the sprite's mean colour counts as found: the detector locates sprites and does not judge
            how well they are drawn.
    """

    boxes: Float32[np.ndarray, "f n 4"]
    scores: Float32[np.ndarray, "f n"]


class _Fit(NamedTuple):
    gain: float  # part of |r|^2 that is explained, in squared colour
    score: float
    pose: Pose


_NOTHING = _Fit(0.0, -1.0, Pose(0.0, 0.0, 1.0))


def detect_sprites(frames: UInt8[np.ndarray, "f h w 3"], scene: Scene, *, threshold: float = THRESHOLD) -> Detection:
    """Finds every sprite of a scene in every frame, independently of the other frames.

    The detector uses the scene's background, its sprites, and their sizes in the first frame, but not their positions.
    Sprites compete for pixels: in each frame the sprite with the best score takes the pixels that it covers, and the
    others are searched in the remaining ones.

    Args:
        frames: RGB frames of the size of the scene's background.
        scene: Scene that the video was made from.
        threshold: Minimum score, -1..1.

    Raises:
        SMCDError: The frames are not uint8 RGB of the background's size.
    """
    height, width = scene.background.shape[:2]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (height, width, 3):
        raise SMCDError(
            f"sprite detector: frames must be uint8 of shape [frames, {height}, {width}, 3] for this scene, got "
            f"{frames.dtype} of shape {list(frames.shape)}",
            argument="frames",
            value=frames.shape,
        )
    factor = max(1, min(height, width) // _COARSE_SIDE)
    background = blurred(scene.background.astype(np.float32) / 255, _BLUR * factor)
    searches = [_Search(background, item, factor) for item in scene.objects]
    boxes = np.full((len(frames), len(searches), 4), np.nan, np.float32)
    scores = np.full((len(frames), len(searches)), -1, np.float32)
    for frame, picture in enumerate(frames):
        if frame and np.array_equal(picture, frames[frame - 1]):
            boxes[frame], scores[frame] = boxes[frame - 1], scores[frame - 1]
            continue
        difference = blurred(picture.astype(np.float32) / 255, _BLUR * factor) - background
        difference -= np.median(difference, axis=(0, 1))  # decoders may shift all colours a little
        for item, fit in _compete(searches, difference, threshold).items():
            scores[frame, item] = fit.score
            if fit.score >= threshold:
                boxes[frame, item] = searches[item].visible_box(fit.pose) / [width, height, width, height]
    return Detection(boxes, scores)


def _compete(searches: list[_Search], difference: np.ndarray, threshold: float) -> dict[int, _Fit]:
    """Returns the best place of each sprite, the one with the highest score first."""
    free = np.ones(difference.shape[:2], np.float32)
    left, placed = dict(enumerate(searches)), {}
    while left:
        fits = {item: search.best(difference, free) for item, search in left.items()}
        surest = max(fits, key=lambda item: fits[item].score)
        if fits[surest].score < threshold:
            return placed | fits
        placed[surest] = fits[surest]
        free = np.where(left.pop(surest).covers(fits[surest].pose), np.float32(0), free)
    return placed


class _Search:
    """Search for one sprite. Pictures are blurred and in 0..1; `free` is the weight of each pixel."""

    def __init__(self, background: Float32[np.ndarray, "h w 3"], item: SceneObject, factor: int):
        self._background, self._sprite, self._factor = background, item.sprite, factor
        self._size = item.boxes[0, 2:] - item.boxes[0, :2]
        self._coarse = CoarseSearch(background, item.sprite, size=self._size, blur=_BLUR * factor, factor=factor)

    def best(self, difference: Float32[np.ndarray, "h w 3"], free: Float32[np.ndarray, "h w"]) -> _Fit:
        """Returns the best place by gain times score."""
        starts = self._coarse.places(difference, free, most=_PLACES)
        fits = [self._refined(self._fit(pose, difference, free), difference, free, step=_STEPS[0]) for pose in starts]
        best = max(fits, key=lambda fit: fit.gain * max(fit.score, 0.0), default=_NOTHING)
        for step in _STEPS[1:]:
            best = self._refined(best, difference, free, step=step)
        return best

    def visible_box(self, pose: Pose) -> Float[np.ndarray, " 4"]:
        """Returns the visible box of the sprite at this pose, in pixels, as scenes define it."""
        from data_pipeline.sprites.render import visible_box

        (height, width), box = self._background.shape[:2], self._box(pose)
        return visible_box(np.array(box), self._sprite.draw(box, width, height), width=width, height=height)

    def covers(self, pose: Pose) -> Bool[np.ndarray, "h w"]:
        """Returns the mask of the pixels that the sprite changes at this pose, including its blurred edge."""
        height, width = self._background.shape[:2]
        patch = self._sprite.draw(self._box(pose), width, height)
        drawn = rgba(patch.pixels, above=patch.top, left=patch.left, shape=(height, width))
        return blurred(drawn[..., 3:], 1.5 * _BLUR * self._factor)[..., 0] > 0.05

    def _box(self, pose: Pose) -> tuple[float, float, float, float]:
        half_x, half_y = (self._size * pose.scale / 2).tolist()
        return pose.x - half_x, pose.y - half_y, pose.x + half_x, pose.y + half_y

    def _refined(self, best: _Fit, difference: np.ndarray, free: np.ndarray, *, step: tuple[float, float]) -> _Fit:
        """Moves and resizes a fit as long as that explains more of the frame."""
        pixels, factor = step[0] * self._factor, step[1]
        moves = [(pixels, 0, 1), (-pixels, 0, 1), (0, pixels, 1), (0, -pixels, 1), (0, 0, factor), (0, 0, 1 / factor)]
        tried = {best.pose}
        for _ in range(_ROUNDS):
            before = best
            for x, y, scale in moves:
                # rounded, so that a step and its reverse end at the same scale
                pose = Pose(best.pose.x + x, best.pose.y + y, round(best.pose.scale * scale, 6))
                if pose not in tried:
                    tried.add(pose)
                    best = max(best, self._fit(pose, difference, free), key=lambda fit: fit.gain)
            if best is before:
                break
        return best

    def _fit(self, pose: Pose, difference: np.ndarray, free: np.ndarray) -> _Fit:
        if min(self._size) * pose.scale < SMALLEST:
            return _Fit(0.0, -1.0, pose)
        found = compare_sprite(
            *(self._sprite, self._box(pose), difference, free),
            background=self._background,
            blur=_BLUR * self._factor,
        )
        return _Fit(*found, pose)
