"""Conversion table of VGG19's convolutions from torchvision's file."""

from __future__ import annotations

from smcd_jax.nn.vgg19 import VGG19Config
from smcd_jax.weights.conversion_table import CONV, Row, weighted


def vgg19_rows(config: VGG19Config) -> list[Row]:
    """Returns the conversion table; torchvision numbers convolutions, ReLUs and poolings in one sequence."""
    rows, number = [], 0
    for block, count in enumerate(config.convolutions):
        for index in range(count):
            rows += weighted(f"features.{number}", f"conv_{block}_{index}", CONV)
            number += 2
        number += 1
    return rows
