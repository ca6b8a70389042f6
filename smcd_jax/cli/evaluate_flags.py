"""The flags of `smcd evaluate`, and the check of their combinations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from smcd_jax.cli.clip_options import SAMPLING
from smcd_jax.errors import SMCDError
from smcd_jax.runtime.worker_processes import available_cores

SET_BY_LIST = ("seed", "num_videos_per_prompt", "truncate_prompt")  # sampling options that the list determines
# Names in smcd_jax.evaluation.interventions, repeated here because importing it is slow.
INTERVENTIONS = ("mirrored_boxes", "swapped_labels", "no_boxes")


COMMON = (
    *("model", "videos", "data", "split", "list", "make_list", "count", "metrics", "num_inference_steps", "output"),
)
_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=40 --option val_clips=8
  smcd evaluate --model tiny --data records --split val --make_list 2 --metrics psnr-first --output eval/tiny
  smcd evaluate --videos eval/tiny/clips --data records --list eval/tiny/list.json --metrics psnr-first \\
      --output eval/videos

Rerunning the same command resumes an interrupted evaluation. The exit status is 2 if a clip could not be used, or if a
metric requested by name did not run."""
_DETAILS = """\
other uses:
  smcd evaluate --data records/got10k --split val --make_list 180 --list got10k_val.json     # only creates the list
  smcd evaluate --model models/smcd --data records/got10k --list got10k_val.json --output eval/smcd
  smcd evaluate ... --part 2/4                               # samples a quarter, on one of four machines"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd evaluate`."""
    parser.common, parser.epilog, parser.details = COMMON, _EPILOG, _DETAILS
    parser.usage = "smcd evaluate (--model M | --videos DIR) --data RECORDS --output DIR [--list FILE] ..."
    source = parser.add_argument_group("videos")
    source.add_argument(
        "--model", metavar="FOLDER", help="model folder, or the name of a model that comes with smcd_jax"
    )
    source.add_argument(
        "--videos",
        type=Path,
        metavar="DIR",
        help="existing videos to measure instead: DIR/CLIP_ID.mp4 or CLIP_ID/*.png",
    )
    source.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators")
    source.add_argument("--no_verify", action="store_true", help="do not verify the checksums of the weights")
    _add_clips(parser.add_argument_group("clips"))
    sampling = parser.add_argument_group("sampling")
    for option in SAMPLING:
        if option.name not in SET_BY_LIST:
            option.add_to(sampling)
    sampling.add_argument(
        "--batch_size", type=int, metavar="N", default=1, help="clips per call and device; default: 1"
    )
    sampling.add_argument(
        "--part", type=_part, metavar="I/N", default=None, help="only sample part I of N, without metrics"
    )
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--metrics",
        type=_names,
        metavar="A,B",
        help="names of the metrics, see docs/evaluation.md; default: most of them",
    )
    metrics.add_argument(
        "--weights", type=Path, metavar="DIR", help="folder of the metrics' weights; default: $SMCD_WEIGHTS_DIR"
    )
    metrics.add_argument(
        "--trackers",
        type=_names,
        metavar="A,B",
        help="trackers for grounding: csrt, medianflow, vit:FILE.onnx (learned), sprites (exact, for records of "
        "sprites); default: csrt, and sprites for records of sprites",
    )
    metrics.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=available_cores(),
        help="number of processes of the tracker sprites and the metric labels; default: the CPU cores (%(default)s)",
    )
    metrics.add_argument(
        "--difference_from",
        type=Path,
        metavar="DIR",
        help="also measure the mean pixel difference from other videos of the clips, such as OTHER_OUTPUT/clips",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="DIR", help="folder of the clips and results")
    output.add_argument(
        "--vbench",
        type=Path,
        metavar="DIR",
        help="also write videos and pictures with the names that VBench-I2V expects",
    )
    output.add_argument("--vbench_index", type=int, metavar="I", default=0, help="index of the sample in these names")
    output.add_argument("--quiet", action="store_true", help="print only results and errors")


def _add_clips(group: Any) -> None:
    group.add_argument("--data", type=Path, metavar="RECORDS", required=True, help="records from smcd prepare")
    group.add_argument("--split", metavar="NAME", help="split of the records; default: that of the list, else test")
    group.add_argument(
        "--list",
        type=Path,
        metavar="FILE",
        help="list of clips, start frames and seeds; default: DIR/list.json, created from all clips if it is missing",
    )
    group.add_argument(
        "--make_list", metavar="N", help="first create a list of N random clips (or `all`) in --list or DIR/list.json"
    )
    group.add_argument("--list_seed", type=int, metavar="S", default=0, help="seed of that list; default: 0")
    group.add_argument("--count", type=int, metavar="N", help="use only the first N clips of the list")
    group.add_argument(
        "--max_objects", type=int, metavar="N", help="objects per clip; default: the maximum of the model, else 8"
    )
    group.add_argument(
        "--intervention",
        choices=INTERVENTIONS,
        help="change one input of every clip, to measure its effect on the videos",
    )


def check_flags(args: argparse.Namespace) -> None:
    """Checks the combination of the flags.

    Raises:
        SMCDError: Flags cannot be combined, one is missing, or a number is out of range.
    """
    if args.model is not None and args.videos is not None:
        raise SMCDError("--model and --videos cannot be combined; pass one of them", argument="videos")
    if args.model is None and args.videos is None and (args.output is not None or args.make_list is None):
        raise SMCDError("nothing to evaluate; pass --model FOLDER or --videos DIR", argument="model")
    if args.output is None and (args.model is not None or args.videos is not None):
        raise SMCDError("missing --output DIR, the folder of the results", argument="output")
    if args.output is None and args.list is None:
        raise SMCDError("--make_list without --output needs --list FILE", argument="list")
    for name in ("weights", "difference_from"):
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            raise SMCDError(f"--{name} must be an existing folder, got {folder}", argument=name, path=folder)
    for name in ("batch_size", "max_objects", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SMCDError(f"--{name} must be at least 1, got {value}", argument=name, value=value)
    if args.part is not None and args.model is None:
        raise SMCDError("--part divides the sampling and needs --model", argument="part", value=args.part)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("needs at least one name; separate names by commas")
    return names


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"must have the form I/N with 1 <= I <= N, such as 2/4, got {text!r}")
    return int(index), int(count)
