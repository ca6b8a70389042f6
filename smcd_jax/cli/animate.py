"""`smcd animate`: video files from one picture, from a file of requests, or from an interrupted run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smcd_jax.cli import console
from smcd_jax.cli.clip_options import INPUTS, OPTIONS, OUTPUT, SAMPLING, SAVE_MOTION
from smcd_jax.cli.clip_reporting import introduce, make_progress, open_pipeline, report_notes, report_result
from smcd_jax.errors import SMCDError
from smcd_jax.sampling_options import FORMATS

DECODING = ("decode_chunk_size", "fps")  # options that still apply when only decoding remains

COMMON = (
    *("image", "prompt", "tracks", "track", "model", "output", "formats", "seed"),
    *("num_inference_steps", "guidance_scale", "requests"),
)
_EPILOG = """\
examples:
  smcd animate --image sprite --tracks sprite
  smcd animate --image rocket --track "rocket: 300,125,345,405 -> 300,10,345,290" \\
      --prompt "a rocket lifts off" --formats gif --output out/rocket

"rocket" and "sprite" are examples that come with smcd_jax; name your own files instead.
Writes NAME.mp4, NAME_boxes.mp4 (with the boxes drawn) and NAME.json (how it was made)."""

_DETAILS = """\
Paths in a file of requests are relative to the file. Options of the command line apply to rows that do not set them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd animate`."""
    parser.usage = "smcd animate --image FILE [--tracks PATH] [--track TEXT] [--prompt TEXT] [--model FOLDER] ..."
    parser.common, parser.epilog, parser.details = COMMON, _EPILOG, _DETAILS
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="FOLDER",
        help="model folder, or name of a shipped model (default: tiny)",
    )
    model.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators, float32 on CPU"
    )
    model.add_argument("--adapter", metavar="FILE", help="low-rank adapter of the model, from smcd export --adapter")
    model.add_argument(
        "--adapter_scale", type=float, default=1.0, metavar="S", help="strength of the adapter (default: 1)"
    )
    model.add_argument("--no_verify", action="store_true", help="do not compare the weights with their checksums")
    groups = {
        "input": INPUTS,
        "sampling": [option for option in SAMPLING if option.every_family],
        "sampling options of some models": [option for option in SAMPLING if not option.every_family],
    }
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        for option in options:
            option.add_to(group)
    _add_output(parser.add_argument_group("output"))
    several = parser.add_argument_group("several clips and interrupted runs")
    several.add_argument(
        "--requests",
        metavar="FILE",
        help=".csv or .jsonl file with one clip per row; columns are option names",
    )
    several.add_argument("--resume", action="store_true", help="skip rows of --requests whose results exist")
    several.add_argument(
        "--decode_latents", metavar="FILE", help="finish an interrupted run from the NAME.latents.npz that it saved"
    )


def run(args: argparse.Namespace) -> int:
    """Makes the videos and prints the files written; returns 2 if a row of a requests file failed."""
    values = {name: value for name, value in vars(args).items() if name in OPTIONS}
    if args.resume and not args.requests:
        message = "--resume needs --requests; finish a single clip with --decode_latents, or run it again"
        raise SMCDError(message, argument="resume")
    if args.requests and args.decode_latents:
        message = "--requests and --decode_latents cannot be combined; run them one after the other"
        raise SMCDError(message, argument="decode_latents")
    if args.decode_latents:
        return _finish_interrupted(args, values)
    if args.requests:
        from smcd_jax.cli.batch_requests import run_requests

        return run_requests(args, values)
    return _animate_one(args, values)


def _add_output(group: Any) -> None:
    OUTPUT.add_to(group)
    SAVE_MOTION.add_to(group)
    group.add_argument(
        "--formats",
        type=_formats,
        default=(),
        metavar="LIST",
        help=f"formats besides mp4, separated by commas: {', '.join(FORMATS[1:])}",
    )
    group.add_argument("--overwrite", action="store_true", help="replace existing results")
    group.add_argument("--quiet", action="store_true", help="print only errors")


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; use {', '.join(FORMATS)}, separated by commas")
    return names


def _animate_one(args: argparse.Namespace, values: Mapping[str, Any]) -> int:
    from smcd_jax.pipeline.clip import check_clip
    from smcd_jax.pipeline.clip_run import make_clip

    pipeline = open_pipeline(args, keep_loaded=False)
    clip = check_clip(values, pipeline, formats=args.formats)
    clip.files.check(overwrite=args.overwrite)
    introduce(args, pipeline)
    report_notes(args, clip.notes)
    with console.without_notes(clip.notes):
        seconds = make_clip(pipeline, clip, progress=make_progress(args))
    report_result(args, clip.files.paths(), seconds)
    return 0


def _finish_interrupted(args: argparse.Namespace, values: Mapping[str, Any]) -> int:
    from smcd_jax.pipeline.clip_run import finish_clip, kept_files

    settled = [name for name in values if name not in DECODING]
    if settled:
        message = f"--{settled[0]} has no effect on the sample kept in {args.decode_latents}; remove the option"
        raise SMCDError(message, argument=settled[0], path=args.decode_latents)
    files, description = kept_files(Path(args.decode_latents), formats=args.formats)
    files.check(overwrite=args.overwrite, finishing=True)
    args.model = description["model"] if args.model is None else args.model
    args.dtype = args.dtype or description["options"]["dtype"]
    pipeline = open_pipeline(args, keep_loaded=False)
    introduce(args, pipeline)
    seconds = finish_clip(pipeline, files, changes=values, progress=make_progress(args))
    report_result(args, files.paths(), seconds)
    return 0
