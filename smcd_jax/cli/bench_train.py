"""Measures the speed, memory and compile time of a training step."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smcd_jax.cli import console
from smcd_jax.cli.bench_flags import add_run_flags
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from smcd_jax.training.benchmark import TrainingMeasures
    from smcd_jax.training.config import TrainConfig

_EPILOG = """\
Weights and batch are random, so no records are needed. TFLOP counts the matrix products and convolutions of
the step, from their shapes; operations that rematerialization repeats are counted once. If memory is not enough,
the JSON file has the key "out_of_memory".

examples:
  smcd bench train --preset tiny
  smcd bench train --config configs/smcd/stage1_object.py:tiny --no_cache --output bench.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd bench train`."""
    parser.epilog = _EPILOG
    parser.takes_config = True
    parser.add_argument("--preset", choices=("tiny", "smcd"), help="model size, trained as in stage 2; default: tiny")
    parser.add_argument(
        "--config", metavar="FILE[:PRESET]", help="config of another run; --config.KEY=VALUE overrides a value"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="batch size over all devices; default: that of the config"
    )
    parser.add_argument("--steps_timed", type=int, default=5, metavar="N", help="number of timed steps; default: 5")
    parser.add_argument(
        "--no_cache", action="store_true", help="encode videos and texts in the step instead of reading cached features"
    )
    add_run_flags(parser)


def run(args: argparse.Namespace) -> None:
    """Measures the step, prints a table, and writes the JSON file."""
    from smcd_jax.cli.train import SMALLER
    from smcd_jax.files import write_json
    from smcd_jax.runtime.device_turns import DeviceTurns
    from smcd_jax.runtime.memory import OutOfMemoryError, oom_as_user_error
    from smcd_jax.training.benchmark import measure_training

    known: dict[str, Any] = {}

    def write(figures: dict[str, Any]) -> None:
        known.update(figures)
        if args.output is not None:
            write_json(args.output, known)

    settings = {"steps_timed": args.steps_timed, "profile_steps": args.profile_steps, "turns": DeviceTurns(args.turns)}
    try:
        with oom_as_user_error(SMALLER):
            measures = measure_training(_config(args), **settings, say=console.progress_line, on_measured=write)
    except OutOfMemoryError as error:
        write({"out_of_memory": str(error)})
        raise
    console.result(table(measures))


def table(measures: TrainingMeasures) -> str:
    """Formats the result as a table."""
    from smcd_jax.runtime.kernel_profile import ProfileSummary
    from smcd_jax.runtime.kernel_profile import table as profile_table

    mesh = " x ".join(f"{name} {size}" for name, size in measures.mesh.items())
    inputs = {"features": "cached features", "latents": "cached latents, texts encoded in the step"}
    lines = {
        "run": f"{measures.config}, {measures.dtype}, remat {measures.remat}, batch {measures.batch}",
        "inputs": inputs.get(measures.inputs, "videos and texts encoded in the step"),
        "device": f"{measures.device['devices']} {measures.device['device']} ({measures.device['platform']}), {mesh}",
        "compile": f"{measures.compile_seconds:.1f} s",
        "step": f"{measures.step_seconds:.4g} s (fastest of {measures.steps_timed}, "
        f"median {measures.median_step_seconds:.4g} s)",
        "clips": f"{measures.clips_per_second:.4g} per second",
        "arithmetic": f"{measures.tflop_per_step:.4g} TFLOP per step, {measures.tflop_per_second:.4g} TFLOP/s",
        "peak": f"{measures.peak_tflop_per_second:.4g} TFLOP/s ({measures.peak_source})",
        "share of peak": f"{measures.share_of_peak:.1%}",
        "peak memory": f"{measures.peak_memory_bytes / 1e9:.2f} GB",
    }
    text = "\n".join(f"{name:<14}{value}" for name, value in lines.items())
    if measures.profile is None:
        return text
    return f"{text}\n{profile_table(ProfileSummary.from_dict(measures.profile))}"


def _config(args: argparse.Namespace) -> TrainConfig:
    from smcd_jax.training.config import load_config

    if args.config and args.preset:
        raise SMCDError(
            "--preset and --config cannot be combined; the preset of a config is FILE:PRESET", argument="preset"
        )
    if args.batch is not None and args.batch < 1:
        raise SMCDError(f"--batch must be at least 1, got {args.batch}", argument="batch", value=args.batch)
    overrides = list(args.overrides)
    if args.batch is not None:
        overrides.append(f"data.batch_size={args.batch}")
    if args.no_cache:
        overrides.append("data.inputs=video")
    return load_config(args.config or _stage2(args.preset or "tiny"), overrides)


def _stage2(preset: str) -> str:
    import configs

    return f"{Path(configs.__file__).parent / 'smcd' / 'stage2_scene.py'}:{preset}"
