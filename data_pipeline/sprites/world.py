"""The sprite world: clips by split and index, as scenes or as arrays, and a measurement of its speed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from data_pipeline.checks import require
from data_pipeline.sprites.config import SPLITS, WorldConfig
from data_pipeline.sprites.render import Rendering, render_scene
from data_pipeline.sprites.scene import Scene, draw_scene


class SpriteWorld:
    """Generated clips of named sprites, a pure function of (split, index, config).

    Every index from 0 to 2^63 - 1 is a clip of each split; no two clips share random numbers. Instances keep no state
    and can be pickled.

    Args:
        config: Parameters of the world; None for the defaults.
    """

    def __init__(self, config: WorldConfig | None = None):
        self.config = config or WorldConfig()

    def scene(self, index: int, *, split: str = "train") -> Scene:
        """Returns the exact description of a clip: background, sprites and their boxes.

        Raises:
            SMCDError: The split does not exist, or the index is not an integer from 0 to 2^63 - 1.
        """
        _check(split, index)
        return draw_scene(self.config, split, index)

    def render(self, index: int, *, split: str = "train", frames: Sequence[int] | None = None) -> Rendering:
        """Renders a clip to arrays.

        Args:
            index: Index of the clip, 0 to 2^63 - 1.
            split: Name of the split.
            frames: Indices of the frames to render, in this order, 0 to T - 1; None for all.

        Raises:
            SMCDError: See `scene`; or a frame index is out of range.
        """
        return render_scene(self.scene(index, split=split), frames=frames)


def clip_id(split: str, index: int) -> str:
    """Returns the id of a clip. Sorting ids sorts clips by index."""
    _check(split, index)
    return f"sprites-{split}-{index:09d}"


def parse_clip_id(name: str) -> tuple[str, int]:
    """Returns split and index of a clip id.

    Raises:
        SMCDError: The name is not a clip id of the sprite world.
    """
    kind, _, rest = name.partition("-")
    split, _, number = rest.partition("-")
    well_formed = number.isascii() and number.isdigit() and len(number) >= 9
    condition = f"an id of the sprite world, such as {clip_id('test', 0)}"
    require(kind == "sprites" and split in SPLITS and well_formed, "clip_id", condition, name)
    return split, int(number)


def measure_rate(config: WorldConfig | None = None, *, seconds: float = 5.0, warm_up: int = 50) -> float:
    """Measures clips per second of `SpriteWorld.render` in one process, after `warm_up` clips that fill the caches."""
    world = SpriteWorld(config)
    for index in range(warm_up):
        world.render(index)
    start, clips = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        world.render(warm_up + clips)
        clips += 1
    return clips / (time.perf_counter() - start)


def _check(split: str, index: int) -> None:
    require(split in SPLITS, "split", f"one of {', '.join(SPLITS)}", split)
    whole = isinstance(index, int) and not isinstance(index, bool)
    require(whole and 0 <= index < 2**63, "index", "an integer from 0 to 2^63 - 1", index)
