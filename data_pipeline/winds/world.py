"""The world of winds: scenes, rendered clips and ground-truth motion fields by split and index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from data_pipeline.checks import require
from data_pipeline.winds.config import SPLITS, WindConfig
from data_pipeline.winds.render import WindRendering, render_scene, true_fields
from data_pipeline.winds.scene import Scene, draw_scene


class WindWorld:
    """Generated clips whose motion is known, a pure function of (split, index, config).

    Instances keep no state and can be pickled.

    Args:
        config: Parameters of the world; None for the defaults.
    """

    def __init__(self, config: WindConfig | None = None):
        self.config = config or WindConfig()

    def scene(self, index: int, *, split: str = "train") -> Scene:
        """Returns the exact description of a clip.

        Raises:
            SMCDError: The split does not exist, or the index is not an integer from 0 to 2^63 - 1.
        """
        _check(split, index)
        return draw_scene(self.config, split, index)

    def render(self, index: int, *, split: str = "train", frames: Sequence[float] | None = None) -> WindRendering:
        """Renders a clip at its frames, or at other times in frames; errors are those of `scene`."""
        scene = self.scene(index, split=split)
        return render_scene(scene, width=self.config.width, height=self.config.height, frames=frames)

    def fields(
        self, index: int, *, split: str = "train", side: int, frames: Sequence[float] | None = None
    ) -> Float32[np.ndarray, "t side side 3"]:
        """Returns the true fields of a clip (`data_pipeline.winds.render.true_fields`); errors are those of `scene`."""
        scene, config = self.scene(index, split=split), self.config
        return true_fields(scene, side=side, width=config.width, height=config.height, frames=frames)


def clip_id(split: str, index: int) -> str:
    """Returns the id of a clip. Sorting ids sorts clips by index."""
    _check(split, index)
    return f"winds-{split}-{index:09d}"


def parse_clip_id(name: str) -> tuple[str, int]:
    """Returns split and index of a clip id.

    Raises:
        SMCDError: The name is not a clip id of the world of winds.
    """
    kind, _, rest = name.partition("-")
    split, _, number = rest.partition("-")
    well_formed = number.isascii() and number.isdigit() and len(number) >= 9
    condition = f"an id of the world of winds, such as {clip_id('test', 0)}"
    require(kind == "winds" and split in SPLITS and well_formed, "clip_id", condition, name)
    return split, int(number)


def _check(split: str, index: int) -> None:
    require(split in SPLITS, "split", f"one of {', '.join(SPLITS)}", split)
    whole = isinstance(index, int) and not isinstance(index, bool)
    require(whole and 0 <= index < 2**63, "index", "an integer from 0 to 2^63 - 1", index)
