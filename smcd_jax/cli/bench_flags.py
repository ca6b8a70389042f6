"""Flags that several `smcd bench` commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from smcd_jax.models.conversion_flags import PRESETS


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that select a model of random weights, its dtype and the number of videos per call."""
    parser.add_argument(
        "--preset", choices=PRESETS, default="tiny", metavar="NAME", help=f"{', '.join(PRESETS)} (default: tiny)"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="videos per call (default: 1)")


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for the profile, the JSON file and other benchmarks at the same time."""
    parser.add_argument("--profile_steps", type=int, default=0, metavar="N", help="also profile N steps (default: 0)")
    parser.add_argument(
        "--turns",
        type=Path,
        metavar="FILE",
        help="benchmarks that name the same file compile side by side and measure one after the other",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON, after each part")
