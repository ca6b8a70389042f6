"""`smcd bench train`: clips a second, arithmetic rate, memory and compile time of the train step."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smcd_jax.cli import console
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from smcd_jax.training.benchmark import TrainingMeasures
    from smcd_jax.training.config import TrainConfig

_EPILOG = """\
The weights and the batch are random: speed does not depend on them, and no records are read. TFLOP are those of the
matrix products and convolutions of a step, counted from its shapes; what rematerialisation computes twice counts once.

examples:
  smcd bench train --preset tiny
  smcd bench train --config configs/smcd/stage1_object.py:tiny --no_cache --output bench.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `smcd bench train`."""
    parser.epilog = _EPILOG
    parser.takes_config = True
    parser.add_argument("--preset", choices=("tiny", "smcd"), help="stage 2 at this size (default: tiny)")
    parser.add_argument(
        "--config", metavar="FILE[:PRESET]", help="another run; --config.KEY=VALUE overrides a value of either"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="of all devices together; default: the config's")
    parser.add_argument("--steps_timed", type=int, default=5, metavar="N", help="steps that are measured (default: 5)")
    parser.add_argument(
        "--no_cache", action="store_true", help="encode videos and texts in the step, instead of cached features"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")


def run(args: argparse.Namespace) -> None:
    """Measures, prints a table, and writes the JSON."""
    from smcd_jax.cli.train import SMALLER
    from smcd_jax.files import write_json
    from smcd_jax.runtime.memory import oom_as_user_error
    from smcd_jax.training.benchmark import measure_training

    with oom_as_user_error(SMALLER):
        measures = measure_training(_config(args), steps_timed=args.steps_timed, say=console.progress_line)
    console.result(table(measures))
    if args.output is not None:
        write_json(args.output, measures.as_dict())


def table(measures: TrainingMeasures) -> str:
    """The figures with their units, a line each."""
    mesh = " x ".join(f"{name} {size}" for name, size in measures.mesh.items())
    inputs = {"features": "cached features", "latents": "cached latents, texts encoded in the step"}
    lines = {
        "run": f"{measures.config}, {measures.dtype}, remat {measures.remat}, batch {measures.batch}",
        "inputs": inputs.get(measures.inputs, "videos and texts encoded in the step"),
        "device": f"{measures.device['devices']} {measures.device['device']} ({measures.device['platform']}), {mesh}",
        "compile": f"{measures.compile_seconds:.1f} s",
        "a step": f"{measures.step_seconds:.4g} s (fastest of {measures.steps_timed}, "
        f"median {measures.median_step_seconds:.4g} s)",
        "clips": f"{measures.clips_per_second:.4g} a second",
        "arithmetic": f"{measures.tflop_per_step:.4g} TFLOP a step, {measures.tflop_per_second:.4g} TFLOP/s",
        "peak": f"{measures.peak_tflop_per_second:.4g} TFLOP/s ({measures.peak_source})",
        "share of it": f"{measures.share_of_peak:.1%}",
        "peak memory": f"{measures.peak_memory_bytes / 1e9:.2f} GB",
    }
    return "\n".join(f"{name:<14}{value}" for name, value in lines.items())


def _config(args: argparse.Namespace) -> TrainConfig:
    from smcd_jax.training.config import load_config

    if args.config and args.preset:
        raise SMCDError(
            "--preset and --config exclude each other; the preset of a config is FILE:PRESET", argument="preset"
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
