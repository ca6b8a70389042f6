"""`smcd animate`: one clip, a file of requests, or an interrupted run, through the pipeline to video files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smcd_jax.cli import console
from smcd_jax.cli.clip_options import INPUTS, OPTIONS, OUTPUT, SAMPLING
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from smcd_jax.pipeline import VideoPipeline
    from smcd_jax.runtime.progress import Progress

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
        raise SMCDError("--resume goes with --requests; a single clip is finished with --decode_latents, or made anew")
    if args.requests and args.decode_latents:
        raise SMCDError("--requests and --decode_latents exclude each other; run them one after the other")
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


def open_pipeline(args: argparse.Namespace, *, keep_loaded: bool) -> VideoPipeline:
    """The pipeline on the model folder of --model; its weights are not read yet."""
    from smcd_jax.pipeline import VideoPipeline

    model = "tiny" if args.model is None else args.model
    return VideoPipeline.from_pretrained(model, dtype=args.dtype, verify=not args.no_verify, keep_loaded=keep_loaded)


def introduce(args: argparse.Namespace, pipeline: VideoPipeline) -> None:
    """Names the model and the device, and says if the weights are untrained or an accelerator is not used."""
    import jax

    from smcd_jax.cli.machine import unused_accelerator
    from smcd_jax.model_folder import SHIPPED, resolve_model

    if args.quiet:
        return
    folder = pipeline.folder
    name = next((name for name in SHIPPED if resolve_model(name) == folder.path), folder.path)
    console.progress_line(f"model {name} on {jax.devices()[0].device_kind} in {pipeline.policy.compute}")
    if jax.default_backend() == "cpu" and (missing := unused_accelerator()):
        console.note(missing)
    if folder.origin.kind == "untrained":
        console.note(f"the weights of {name} are untrained ({folder.origin.note}): expect noise instead of a video")


def tell_notes(args: argparse.Namespace, notes: tuple[str, ...]) -> None:
    """Says what a user should know about the input, unless --quiet."""
    if not args.quiet:
        for text in notes:
            console.note(text)


def make_progress(args: argparse.Namespace) -> Progress:
    """Bars on a terminal, lines elsewhere, nothing with --quiet."""
    from smcd_jax.runtime.progress import Bars, Lines, Progress

    if args.quiet:
        return Progress()
    return Bars() if sys.stderr.isatty() else Lines(console.progress_line)


def tell_result(args: argparse.Namespace, paths: tuple[Path, ...], seconds: Mapping[str, float]) -> None:
    """The summary of a clip: files, and seconds for each stage."""
    if args.quiet:
        return
    for path in paths:
        console.result(f"wrote {path}")
    stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    console.result(f"seconds: {stages}")


def _animate_one(args: argparse.Namespace, given: Mapping[str, Any]) -> int:
    from smcd_jax.cli.clip import check_clip
    from smcd_jax.cli.clip_run import make_clip

    pipeline = open_pipeline(args, keep_loaded=False)
    clip = check_clip(given, pipeline, formats=args.formats)
    clip.files.check(overwrite=args.overwrite)
    introduce(args, pipeline)
    tell_notes(args, clip.notes)
    seconds = make_clip(pipeline, clip, progress=make_progress(args))
    tell_result(args, clip.files.paths(), seconds)
    return 0


def _finish_interrupted(args: argparse.Namespace, given: Mapping[str, Any]) -> int:
    from smcd_jax.cli.clip_run import finish_clip, kept_files

    settled = [name for name in given if name not in DECODING]
    if settled:
        raise SMCDError(f"--{settled[0]} is settled in the sample kept at {args.decode_latents}; leave it out")
    files, description = kept_files(Path(args.decode_latents), formats=args.formats)
    files.check(overwrite=args.overwrite, finishing=True)
    args.model = description["model"] if args.model is None else args.model
    args.dtype = args.dtype or description["options"]["dtype"]
    pipeline = open_pipeline(args, keep_loaded=False)
    introduce(args, pipeline)
    seconds = finish_clip(pipeline, files, changes=given, progress=make_progress(args))
    tell_result(args, files.paths(), seconds)
    return 0
