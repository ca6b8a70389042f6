"""`smcd animate`: one clip, a file of requests, or an interrupted run, through the pipeline to video files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smcd_jax.cli.clip_options import INPUTS, OPTIONS, OUTPUT, SAMPLING
from smcd_jax.cli.clip_reporting import introduce, make_progress, open_pipeline, report_notes, report_result
from smcd_jax.errors import SMCDError

FORMATS = ("mp4", "gif", "webp", "frames")
DECODING = ("decode_chunk_size", "fps")  # options that still matter when only decoding is left

_EPILOG = """\
examples:
  smcd animate --image rocket.png --prompt "a rocket lifting off" \\
      --track "rocket: 300,125,345,405 -> 300,10,345,290" --output out/rocket
  smcd animate --model models/smcd --image cat.jpg --tracks cat.json --seed 7 --formats gif
  smcd animate --model models/smcd --input_data_path my_dog --label dog
  smcd animate --model models/smcd --requests requests.csv --resume

writes NAME.mp4, NAME_boxes.mp4 (with the boxes drawn) and NAME.json (how it was made)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `smcd animate`."""
    parser.usage = "smcd animate --image FILE --tracks PATH and/or --track TEXT [--prompt TEXT] [--model FOLDER] ..."
    parser.epilog = _EPILOG
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        metavar="FOLDER",
        help="a model folder, made by `smcd convert`, or the name of one that comes with smcd_jax (default: tiny)",
    )
    model.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="by default bfloat16 on accelerators, float32 on CPU"
    )
    model.add_argument("--no_verify", action="store_true", help="do not compare the weights with their checksums")
    for title, options in (("input", INPUTS), ("sampling", SAMPLING)):
        group = parser.add_argument_group(title)
        for option in options:
            option.add_to(group)
    _add_output(parser.add_argument_group("output"))
    several = parser.add_argument_group("several clips, interrupted runs")
    several.add_argument(
        "--requests",
        metavar="FILE",
        help="a .csv with a header or a .jsonl: one clip a row, its columns or keys the flags of input and sampling "
        "and `output`; paths are relative to the file, flags given here hold for rows that do not say otherwise",
    )
    several.add_argument("--resume", action="store_true", help="pass over the rows whose results are there already")
    several.add_argument(
        "--decode_latents", metavar="FILE", help="finish an interrupted run from the NAME.latents.npz that it has left"
    )


def run(args: argparse.Namespace) -> int:
    """Makes what was asked for and says what was written; 2 if a row of a requests file failed."""
    given = {name: value for name, value in vars(args).items() if name in OPTIONS}
    if args.resume and not args.requests:
        raise SMCDError(
            "--resume needs --requests; finish a single clip with --decode_latents, or run it again", argument="resume"
        )
    if args.requests and args.decode_latents:
        raise SMCDError(
            "--requests and --decode_latents exclude each other; run them one after the other",
            argument="decode_latents",
        )
    if args.decode_latents:
        return _finish_interrupted(args, given)
    if args.requests:
        from smcd_jax.cli.batch_requests import run_requests

        return run_requests(args, given)
    return _animate_one(args, given)


def _add_output(group: Any) -> None:
    OUTPUT.add_to(group)
    group.add_argument(
        "--formats",
        type=_formats,
        default=(),
        metavar="LIST",
        help=f"further formats of the video, separated by commas: {', '.join(FORMATS)}; mp4 is always written",
    )
    group.add_argument("--overwrite", action="store_true", help="replace existing results")
    group.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; use {', '.join(FORMATS)}, separated by commas")
    return names


def _animate_one(args: argparse.Namespace, given: Mapping[str, Any]) -> int:
    from smcd_jax.cli.clip import check_clip
    from smcd_jax.cli.clip_run import make_clip

    pipeline = open_pipeline(args, keep_loaded=False)
    clip = check_clip(given, pipeline, formats=args.formats)
    clip.files.check(overwrite=args.overwrite)
    introduce(args, pipeline)
    report_notes(args, clip.notes)
    seconds = make_clip(pipeline, clip, progress=make_progress(args))
    report_result(args, clip.files.paths(), seconds)
    return 0


def _finish_interrupted(args: argparse.Namespace, given: Mapping[str, Any]) -> int:
    from smcd_jax.cli.clip_run import finish_clip, kept_files

    settled = [name for name in given if name not in DECODING]
    if settled:
        raise SMCDError(
            f"--{settled[0]} cannot change the sample kept at {args.decode_latents}; remove it",
            argument=settled[0],
            path=args.decode_latents,
        )
    files, description = kept_files(Path(args.decode_latents), formats=args.formats)
    files.check(overwrite=args.overwrite, finishing=True)
    args.model = description["model"] if args.model is None else args.model
    args.dtype = args.dtype or description["options"]["dtype"]
    pipeline = open_pipeline(args, keep_loaded=False)
    introduce(args, pipeline)
    seconds = finish_clip(pipeline, files, changes=given, progress=make_progress(args))
    report_result(args, files.paths(), seconds)
    return 0
