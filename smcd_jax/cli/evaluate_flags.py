"""The flags of `smcd evaluate`, and which of them go together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smcd_jax.cli.clip_options import SAMPLING
from smcd_jax.errors import SMCDError

BY_THE_LIST = ("seed", "num_videos_per_prompt", "truncate_prompt")  # options of a clip that a list has its own way with


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `smcd evaluate`."""
    parser.usage = "smcd evaluate (--model M | --videos DIR) --data RECORDS --output DIR [--list FILE] ..."
    what = parser.add_argument_group("what is evaluated")
    what.add_argument("--model", metavar="FOLDER", help="a model folder, or the name of one that comes with smcd_jax")
    what.add_argument(
        "--videos", type=Path, metavar="DIR", help="instead, videos made already: CLIP_ID.mp4 or CLIP_ID/*.png in it"
    )
    what.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators")
    what.add_argument("--no_verify", action="store_true", help="do not compare the weights with their checksums")
    _add_clips(parser.add_argument_group("on which clips"))
    sampling = parser.add_argument_group("sampling")
    for option in SAMPLING:
        if option.name not in BY_THE_LIST:
            option.add_to(sampling)
    sampling.add_argument(
        "--batch_size", type=int, metavar="N", default=1, help="clips at once on a device; default: 1"
    )
    sampling.add_argument(
        "--part", type=_part, metavar="I/N", default=None, help="sample only part I of N, no measures"
    )
    measures = parser.add_argument_group("measures")
    measures.add_argument(
        "--measures", type=_names, metavar="A,B", help="default: all but those of other weights; see the table's names"
    )
    measures.add_argument(
        "--weights", type=Path, metavar="DIR", help="folder of the extractors' weights; default: $SMCD_WEIGHTS_DIR"
    )
    measures.add_argument(
        "--trackers",
        type=_names,
        metavar="A,B",
        help="of grounding: csrt, medianflow, vit:FILE.onnx (learned), sprites (exact, for records of sprites); "
        "default: csrt, and sprites where the records are of them",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="DIR", help="folder of the clips and results")
    output.add_argument(
        "--vbench", type=Path, metavar="DIR", help="also write videos and pictures named for VBench-I2V"
    )
    output.add_argument("--vbench_index", type=int, metavar="I", default=0, help="of the sample in their names")
    output.add_argument("--quiet", action="store_true", help="say nothing but results and errors")


def _add_clips(group: Any) -> None:
    group.add_argument("--data", type=Path, metavar="RECORDS", required=True, help="records, made by smcd prepare")
    group.add_argument("--split", metavar="NAME", help="of the records; default: that of the list, else test")
    group.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="of the clips, start frames and seeds; default: DIR/list.json, made of all clips where it is absent",
    )
    group.add_argument(
        "--make_list", metavar="N", help="draw a list of N clips first (or of `all`), into --list or DIR/list.json"
    )
    group.add_argument("--list_seed", type=int, metavar="S", default=0, help="that it is drawn from; default: 0")
    group.add_argument("--count", type=int, metavar="N", help="only the first N clips of the list")
    group.add_argument(
        "--max_objects", type=int, metavar="N", help="measured in a clip; default: as many as the model takes, else 8"
    )


def check_flags(args: argparse.Namespace) -> None:
    """Raises SMCDError for flags that exclude each other, or that lack another."""
    if args.model is not None and args.videos is not None:
        raise SMCDError("--model and --videos exclude each other: what is to be evaluated?")
    if args.model is None and args.videos is None and (args.output is not None or args.make_list is None):
        raise SMCDError("nothing to evaluate: give --model FOLDER or --videos DIR (see smcd evaluate --help)")
    if args.output is None and (args.model is not None or args.videos is not None):
        raise SMCDError("no --output: give the folder of the results")
    if args.output is None and args.list is None:
        raise SMCDError("--make_list alone needs --list FILE, where the list is to be written")
    if args.weights is not None and not Path(args.weights).is_dir():
        raise SMCDError(f"--weights {args.weights}: no such folder")
    for name in ("batch_size", "max_objects"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SMCDError(f"--{name} {value}: give 1 or more")
    if args.part is not None and args.model is None:
        raise SMCDError("--part divides the sampling, so it goes with --model")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("give one name or more, separated by commas")
    return names


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: give it as 2/4, the second of four")
    return int(index), int(count)
