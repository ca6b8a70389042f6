"""Owns the sprite world: every clip of every split by its index, as a scene or as arrays, and how fast they come."""

from __future__ import annotations

import time
from collections.abc import Sequence

from data_pipeline.sprites.config import SPLITS, WorldConfig
from data_pipeline.sprites.render import Rendering, render_scene
from data_pipeline.sprites.scene import Scene, draw_scene
from smcd_jax.errors import SMCDError


class SpriteWorld:
    """Clips of named sprites on tracks, without a file: a pure function of (split, index, config).

    Each split has as many clips as there are indices; no clip of a split is drawn from the same random numbers as one
    of another. Nothing is kept between calls but the sprites, so an instance goes to other processes as it is.

    Args:
        config: what clips are like.
    """

    def __init__(self, config: WorldConfig | None = None):
        self.config = config or WorldConfig()

    def scene(self, index: int, *, split: str = "train") -> Scene:
        """Exact knowledge of a clip: background, sprites and their places, to draw together or alone.

        Raises:
            SMCDError: no such split, or an index that is not a whole number from 0 to 2^63 - 1.
        """
        _check(split, index)
        return draw_scene(self.config, split, index)

    def render(self, index: int, *, split: str = "train", frames: Sequence[int] | None = None) -> Rendering:
        """A clip as arrays: video uint8 `[T, H, W, 3]`, boxes, mask, labels, caption. Errors as `scene`.

        With `frames`, numbers from 0 to T - 1, only those frames are drawn, in that order: one, to train on pictures.
        """
        return render_scene(self.scene(index, split=split), frames=frames)


def clip_id(split: str, index: int) -> str:
    """The name of a clip: sorted by name is sorted by index."""
    _check(split, index)
    return f"sprites-{split}-{index:09d}"


def parse_clip_id(name: str) -> tuple[str, int]:
    """Split and index of a clip's name.

    Raises:
        SMCDError: not the name of a clip of this world.
    """
    kind, _, rest = name.partition("-")
    split, _, number = rest.partition("-")
    if kind != "sprites" or split not in SPLITS or not (number.isascii() and number.isdigit() and len(number) >= 9):
        raise SMCDError(f"{name!r} is no clip of the sprite world: its clips are called like {clip_id('test', 0)}")
    return split, int(number)


def measure_rate(config: WorldConfig | None = None, *, seconds: float = 5.0, warm_up: int = 50) -> float:
    """Clips per second of one process, `SpriteWorld.render` alone, after `warm_up` clips that fill the caches."""
    world = SpriteWorld(config)
    for index in range(warm_up):
        world.render(index)
    start, clips = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        world.render(warm_up + clips)
        clips += 1
    return clips / (time.perf_counter() - start)


def _check(split: str, index: int) -> None:
    if split not in SPLITS:
        raise SMCDError(f"sprite world: split {split!r} is unknown: use one of {', '.join(SPLITS)}")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**63:
        raise SMCDError(f"sprite world: index {index!r} must be a whole number from 0 to 2^63 - 1")
