"""Flags that several `smcd bench` commands share."""

from __future__ import annotations

import argparse

from smcd_jax.models.conversion_flags import PRESETS


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that select a model of random weights, its dtype and the number of videos per call."""
    parser.add_argument(
        "--preset", choices=PRESETS, default="tiny", metavar="NAME", help=f"{', '.join(PRESETS)} (default: tiny)"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="videos per call (default: 1)")
