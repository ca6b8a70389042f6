"""Measures the input pipeline in clips per second and per core, compared with a plain loop over raw frames.

The test data are generated and removed afterwards. Examples:
  smcd bench input
  smcd bench input --raw_size 1920x1080 --output input.json
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import tempfile
from pathlib import Path

from smcd_jax.cli.console import progress_line, result
from smcd_jax.cli.parser import width_and_height
from smcd_jax.errors import SMCDError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd bench input`."""
    parser.epilog = "examples:\n  smcd bench input --height 64 --width 64 --rounds 1 --seconds 0.5"
    parser.add_argument("--height", type=int, metavar="N", default=256, help="frame height in pixels; default: 256")
    parser.add_argument("--width", type=int, metavar="N", default=256, help="frame width in pixels; default: 256")
    parser.add_argument("--num_frames", type=int, metavar="N", default=8, help="frames per example; default: 8")
    parser.add_argument("--batch", type=int, metavar="N", default=16, help="examples per batch; default: 16")
    parser.add_argument(
        "--raw_size",
        type=width_and_height,
        metavar="WxH",
        default=(1280, 720),
        help="size of raw frames; default: 1280x720",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the pipeline; default: one per core")
    parser.add_argument("--rounds", type=int, metavar="N", default=4, help="measurements per path; default: 4")
    parser.add_argument(
        "--seconds", type=float, metavar="F", default=2.0, help="duration of each measurement; default: 2"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="folder for the test data, on the disk to measure")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the result to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Measures every path and prints a table."""
    from data_pipeline.benchmark import InputBenchmark, measure_input, table
    from data_pipeline.examples import ExampleSize
    from smcd_jax.files import write_json

    for name in ("batch", "rounds", "seconds", "threads"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise SMCDError(f"--{name} must be positive, got {value:g}", argument=name, value=value)
    settings = InputBenchmark(
        size=ExampleSize(frames=args.num_frames, height=args.height, width=args.width),
        batch=args.batch,
        threads=args.threads,
        length=max(24, args.num_frames),
        raw_width=args.raw_size[0],
        raw_height=args.raw_size[1],
        rounds=args.rounds,
        seconds=args.seconds,
    )
    with _folder(args.folder) as folder:
        speeds = measure_input(settings, Path(folder), progress=progress_line)
    for line in table(speeds):
        result(line)
    if args.output:
        paths = [
            dataclasses.asdict(speed)
            | {"clips_per_second": speed.clips_per_second, "clips_per_core_second": speed.clips_per_core_second}
            for speed in speeds
        ]
        machine = {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine()}
        write_json(args.output, {"settings": dataclasses.asdict(settings), **machine, "paths": paths})
    return 0


def _folder(parent: Path | None) -> tempfile.TemporaryDirectory[str]:
    if parent is not None and not parent.is_dir():
        raise SMCDError(f"--folder must be an existing folder, got {parent}", argument="folder", path=parent)
    return tempfile.TemporaryDirectory(prefix="smcd-bench-", dir=parent)
