"""Opens the pipeline of --model and prints progress and results, for a single clip or a file of requests."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from smcd_jax.cli import console

if TYPE_CHECKING:
    from smcd_jax.pipeline import VideoPipeline
    from smcd_jax.runtime.progress import Progress


def open_pipeline(args: argparse.Namespace, *, keep_loaded: bool) -> VideoPipeline:
    """Returns the pipeline of the model folder in --model; its weights are read later."""
    from smcd_jax.pipeline import VideoPipeline

    model = "tiny" if args.model is None else args.model
    low_rank = {"adapter": args.adapter, "adapter_scale": args.adapter_scale}
    options = {"dtype": args.dtype, "verify": not args.no_verify, "keep_loaded": keep_loaded}
    return VideoPipeline.from_pretrained(model, **options, **low_rank)


def introduce(args: argparse.Namespace, pipeline: VideoPipeline) -> None:
    """Prints the model and the device, and notes untrained weights and unused accelerators."""
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


def report_notes(args: argparse.Namespace, notes: tuple[str, ...]) -> None:
    """Prints remarks about the input, unless --quiet."""
    if not args.quiet:
        for text in notes:
            console.note(text)


def make_progress(args: argparse.Namespace) -> Progress:
    """Returns progress bars on a terminal and lines elsewhere; nothing is shown with --quiet."""
    from smcd_jax.runtime.progress import Bars, Lines, Progress

    if args.quiet:
        return Progress()
    return Bars() if sys.stderr.isatty() else Lines(console.progress_line)


def report_result(args: argparse.Namespace, paths: tuple[Path, ...], seconds: Mapping[str, float]) -> None:
    """Prints the files written and the seconds of each stage, unless --quiet."""
    if args.quiet:
        return
    for path in paths:
        console.result(f"wrote {path}")
    stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    console.result(f"seconds: {stages}")
