"""Measures the input pipeline: clips a second and a core, decoded and cached, beside a plain loop over raw frames.

The data are made for it and removed. Some uses:
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
    """The flags of `smcd bench input`."""
    parser.add_argument("--height", type=int, metavar="N", default=256, help="pixels of a frame; default: 256")
    parser.add_argument("--width", type=int, metavar="N", default=256, help="pixels of a frame; default: 256")
    parser.add_argument("--num_frames", type=int, metavar="N", default=8, help="frames of an example; default: 8")
    parser.add_argument("--batch", type=int, metavar="N", default=16, help="examples of a batch; default: 16")
    parser.add_argument("--raw_size", metavar="WxH", default="1280x720", help="of the raw frames; default: 1280x720")
    parser.add_argument("--threads", type=int, metavar="N", help="of the pipeline; default: one a core")
    parser.add_argument(
        "--rounds", type=int, metavar="N", default=4, help="how often each path is measured; default: 4"
    )
    parser.add_argument("--seconds", type=float, metavar="F", default=2.0, help="of each measurement; default: 2")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the data are made, on the disk to measure")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the result here too, as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table."""
    from data_pipeline.benchmark import InputBenchmark, measure_input, table
    from data_pipeline.examples import ExampleSize
    from smcd_jax.files import write_json

    for name in ("batch", "rounds", "seconds", "threads"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise SMCDError(f"--{name} {value:g}: must be above 0")
    width, height = width_and_height("--raw_size", args.raw_size, "1280x720")
    settings = InputBenchmark(
        size=ExampleSize(frames=args.num_frames, height=args.height, width=args.width),
        batch=args.batch,
        threads=args.threads,
        length=max(24, args.num_frames),
        raw_width=width,
        raw_height=height,
        rounds=args.rounds,
        seconds=args.seconds,
    )
    with _folder(args.folder) as folder:
        speeds = measure_input(settings, Path(folder), say=progress_line)
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


def _folder(where: Path | None) -> tempfile.TemporaryDirectory[str]:
    if where is not None and not where.is_dir():
        raise SMCDError(f"--folder {where}: no such folder; make it first")
    return tempfile.TemporaryDirectory(prefix="smcd-bench-", dir=where)
