"""Turns a raw data set into records for training, once: checked, sharded, and gone on with after an interruption.

Some uses:
  smcd prepare got10k --source /data/GOT-10k --output records/got10k --workers 8
  smcd prepare tracks_folder --source my_videos --output records/mine --frame_size 256x256
  smcd prepare sprites --output records/sprites --option train_clips=2000
  smcd prepare --features MODEL --output records/got10k       # afterwards: what training from a cache reads
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from smcd_jax.cli.console import note, result
from smcd_jax.cli.parser import width_and_height
from smcd_jax.errors import SMCDError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `smcd prepare`."""
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="data set: got10k, youtube_vis, grounding, tracks_folder or sprites; leave it out where the records are "
        "in --output already",
    )
    parser.add_argument("--source", type=Path, metavar="DIR", help="folder of the raw data (sprites needs none)")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder of the records")
    parser.add_argument("--splits", metavar="A,B", help="splits to prepare, with commas; default: all there are")
    parser.add_argument("--workers", type=int, metavar="N", default=_cores(), help="processes; default: %(default)s")
    parser.add_argument(
        "--max_bad_share", type=float, metavar="F", default=0.01, help="share of clips that may be bad; default: 0.01"
    )
    stored = parser.add_mutually_exclusive_group()
    stored.add_argument(
        "--short_side",
        type=int,
        metavar="N",
        help="shrink frames to N pixels on the shorter side, as jpeg of quality 95; default: as they are",
    )
    stored.add_argument(
        "--frame_size",
        metavar="WxH",
        help="resize frames to exactly this size, not cropped, as jpeg of quality 95: training reads them fastest",
    )
    parser.add_argument("--clips_per_shard", type=int, metavar="N", help="default: as many as make about 256 MB")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the data set itself; may be repeated"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report here too, as JSON")
    beam = parser.add_argument_group("more than one machine")
    beam.add_argument(
        "--runner", metavar="NAME", help="use Apache Beam instead of processes here: direct, dataflow, flink, spark"
    )
    beam.add_argument(
        "--beam_option", action="append", default=[], metavar="KEY=VALUE", help="of the Beam pipeline; may be repeated"
    )
    features = parser.add_argument_group("feature cache")
    features.add_argument(
        "--features", metavar="MODEL", help="run this model's autoencoder and text tower over the records"
    )
    features.add_argument(
        "--features_output", type=Path, metavar="DIR", help="folder of the cache; default: features in --output"
    )
    features.add_argument("--height", type=int, metavar="N", help="of the frames encoded; default: the model's")
    features.add_argument("--width", type=int, metavar="N", help="of the frames encoded; default: the model's")
    features.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators, float32 on CPU"
    )


def run(args: argparse.Namespace) -> int:
    """Prepare records, features or both, and print what they came to."""
    if not 0 <= args.max_bad_share <= 1:
        raise SMCDError(f"--max_bad_share {args.max_bad_share:g}: a share lies in 0..1")
    if args.name is None and args.features is None:
        raise SMCDError("name a data set to prepare, or --features MODEL for records that are there (see --help)")
    if args.name is not None:
        _prepare_records(args)
    if args.features is not None:
        _prepare_features(args)
    return 0


def _prepare_records(args: argparse.Namespace) -> None:
    from data_pipeline.records.prepare import prepare
    from smcd_jax.files import write_json

    report = prepare(
        args.name,
        args.source,
        args.output,
        splits=_splits(args),
        workers=args.workers,
        max_bad_share=args.max_bad_share,
        clips_per_shard=args.clips_per_shard,
        short_side=args.short_side,
        frame_size=width_and_height("--frame_size", args.frame_size, "256x256") if args.frame_size else None,
        options=dict(_option(text) for text in args.option),
        runner=args.runner,
        beam_options=[f"--{key}={value}" for key, value in map(_pair, args.beam_option)],
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
        workers=args.workers,
        max_bad_share=args.max_bad_share,
    )
    for report in reports:
        result(f"features: {report.clips} clips, {report.frames} frames, {report.unusable} frames unusable")
        for clip_id, reason in report.reasons.items():
            note(f"{clip_id}: {reason}")


def _splits(args: argparse.Namespace) -> list[str] | None:
    return args.splits.split(",") if args.splits else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SMCDError(f"{text!r}: an option is KEY=VALUE")
    return key.lstrip("-"), value


def _option(text: str) -> tuple[str, Any]:
    """A number, truth value or list as JSON writes it; anything else is text."""
    key, value = _pair(text)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
