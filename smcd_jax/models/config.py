"""What the shared code reads of a family's config, with the values that most families share."""

from __future__ import annotations

import dataclasses
from typing import Any


class VideoConfig:
    """Base class of family configs, which are frozen dataclasses with a field for each component.

    A family that needs another value declares the attribute as a field or a property.

    Attributes:
        frames: Number of frames.
        height: Height in pixels.
        width: Width in pixels.
        fps: Frames per second of the videos written.
        max_objects: Largest number of boxes per frame.
        size_multiple: Number of pixels that must divide height and width.
    """

    frames: int
    height: int
    width: int
    fps: int = 8
    max_objects: int = 1
    size_multiple: int = 1

    def components(self) -> dict[str, Any]:
        """Config of each component that is present, by its name in the model folder."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in named.items() if dataclasses.is_dataclass(value)}

    @property
    def text_length(self) -> int:
        """Number of tokens per text: that of the component ``text_encoder``, 77 without one."""
        text_encoder = self.components().get("text_encoder")
        return text_encoder.length if text_encoder else 77
