"""`smcd prepare`: converts raw data sets to training records, and encodes records to cached features."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from smcd_jax.cli.console import note, result
from smcd_jax.cli.parser import width_and_height
from smcd_jax.errors import SMCDError
from smcd_jax.runtime.worker_processes import available_cores

COMMON = (
    *("name", "source", "output", "splits", "workers", "short_side", "frame_size", "option", "features"),
    *("height", "width"),
)
_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=40 --option val_clips=8
  smcd prepare --features tiny --output records

A rerun of an interrupted command resumes it."""
_DETAILS = """\
raw data sets:
  smcd prepare got10k --source /data/GOT-10k --output records/got10k --workers 8
  smcd prepare tracks_folder --source my_videos --output records/mine --frame_size 256x256"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd prepare`."""
    parser.common, parser.epilog, parser.details = COMMON, _EPILOG, _DETAILS
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="data set: got10k, youtube_vis, grounding, tracks_folder, webvid, sprites or winds; omit it if "
        "--output already holds the records",
    )
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder of the raw data; not for sprites and winds")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder of the records")
    parser.add_argument("--splits", metavar="A,B", help="splits to prepare, separated by commas; default: all")
    parser.add_argument(
        "--workers", type=int, metavar="N", default=available_cores(), help="number of processes; default: %(default)s"
    )
    parser.add_argument(
        "--max_bad_share",
        type=float,
        metavar="F",
        default=0.01,
        help="largest share of bad clips, 0 to 1; default: 0.01",
    )
    stored = parser.add_mutually_exclusive_group()
    stored.add_argument(
        "--short_side",
        type=int,
        metavar="N",
        help="shrink frames to N pixels on the shorter side, as jpeg of quality 95; default: original size",
    )
    stored.add_argument(
        "--frame_size",
        type=width_and_height,
        metavar="WxH",
        help="resize frames to exactly this size without cropping, as jpeg of quality 95; fastest to train from",
    )
    parser.add_argument(
        "--clips_per_shard", type=int, metavar="N", help="number of clips per shard; default: about 256 MB"
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the data set; may be repeated"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report to this JSON file")
    beam = parser.add_argument_group("more than one machine")
    beam.add_argument(
        "--runner", metavar="NAME", help="run on Apache Beam instead of local processes: direct, dataflow, flink, spark"
    )
    beam.add_argument(
        "--beam_option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the Beam pipeline; may be repeated",
    )
    features = parser.add_argument_group("feature cache")
    features.add_argument("--features", metavar="MODEL", help="encode the records with the encoders of this model")
    features.add_argument(
        "--features_output", type=Path, metavar="DIR", help="folder of the cache; default: features in --output"
    )
    features.add_argument("--height", type=int, metavar="N", help="frame height in pixels; default: the model's")
    features.add_argument("--width", type=int, metavar="N", help="frame width in pixels; default: the model's")
    features.add_argument(
        "--max_clip_error",
        type=float,
        metavar="E",
        help="for models of motion: drop clips that the model reproduces with a larger mean squared error, in 8-bit "
        "units; default: the model's",
    )
    features.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="compute dtype; default: bfloat16 on accelerators, float32 on CPU",
    )


def run(args: argparse.Namespace) -> int:
    """Prepares records, features or both, and prints a report."""
    if not 0 <= args.max_bad_share <= 1:
        message = f"--max_bad_share must be from 0 to 1, got {args.max_bad_share:g}"
        raise SMCDError(message, argument="max_bad_share", value=args.max_bad_share)
    if args.name is None and args.features is None:
        message = "missing data set: use 'smcd prepare NAME', or --features MODEL for existing records"
        raise SMCDError(message, argument="name")
    if args.name is not None:
        _prepare_records(args)
    if args.features is not None:
        _prepare_features(args)
    return 0


def _prepare_records(args: argparse.Namespace) -> None:
    from data_pipeline.records.frames import StoredFrames
    from data_pipeline.records.prepare import prepare
    from data_pipeline.records.runners import Beam, Processes
    from smcd_jax.files import write_json

    beam_options = [f"--{key}={value}" for key, value in map(_pair, args.beam_option)]
    report = prepare(
        args.name,
        args.source,
        args.output,
        splits=_splits(args),
        clips_per_shard=args.clips_per_shard,
        stored=StoredFrames(args.short_side, args.frame_size),
        options=dict(_option(text) for text in args.option),
        max_bad_share=args.max_bad_share,
        runner=Beam(args.runner, beam_options) if args.runner else Processes(args.workers),
        on_raw=lambda raw: [note(line) for line in raw.notes],
    )
    for line in report.lines():
        result(line)
    if args.report:
        write_json(args.report, report.to_json())


def _prepare_features(args: argparse.Namespace) -> None:
    from smcd_jax.cli.features import prepare_features

    reports = prepare_features(
        args.output,
        args.features,
        output=args.features_output,
        splits=_splits(args),
        height=args.height,
        width=args.width,
        dtype=args.dtype,
        max_clip_error=args.max_clip_error,
        workers=args.workers,
        max_bad_share=args.max_bad_share,
    )
    for report in reports:
        result(report.line())
        for clip_id, reason in getattr(report, "reasons", {}).items():
            note(f"{clip_id}: {reason}")


def _splits(args: argparse.Namespace) -> list[str] | None:
    return args.splits.split(",") if args.splits else None


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SMCDError(f"options must have the form KEY=VALUE, got {text!r}", argument="option", value=text)
    return key.lstrip("-"), value


def _option(text: str) -> tuple[str, Any]:
    """Parses KEY=VALUE; the value is read as JSON if it is valid JSON, else as text."""
    key, value = _pair(text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
