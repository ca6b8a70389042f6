"""`smcd bench sample`: compile time, seconds per step and clip, arithmetic rate and memory of sampling."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from smcd_jax.cli import console
from smcd_jax.cli.bench_flags import add_model_flags, add_run_flags

if TYPE_CHECKING:
    from smcd_jax.pipeline.benchmark import SamplingMeasures

_EPILOG = """\
The weights are random: speed does not depend on them. TFLOP counts the matrix products and convolutions of the
denoising network, from their shapes. The rate of the device is that of a large matrix product of the same dtype,
measured in the same run, so that shares are comparable between machines and between busy and idle ones.

examples:
  smcd bench sample --preset tiny
  smcd bench sample --preset tiny --batch 2 --num_inference_steps 10 --profile_steps 2 --output bench.json"""

_COMMON = ("preset", "dtype", "batch", "attention", "steps_timed", "whole_clip", "profile_steps", "output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd bench sample`."""
    parser.epilog = _EPILOG
    parser.common = _COMMON
    add_model_flags(parser)
    parser.add_argument(
        "--attention",
        choices=("xla", "cudnn", "flash", "mapped"),
        help="attention kernels; default: cudnn on GPUs, flash on TPUs, mapped on CPUs",
    )
    parser.add_argument(
        "--num_inference_steps", type=int, metavar="N", help="denoising steps (default: the model's own)"
    )
    parser.add_argument(
        "--guidance_scale", type=float, metavar="S", help="1 disables guidance (default: the model's own)"
    )
    parser.add_argument("--steps_timed", type=int, default=3, metavar="N", help="number of timed steps (default: 3)")
    parser.add_argument("--whole_clip", action="store_true", help="also run all steps in one call")
    parser.add_argument("--step_calls", action="store_true", help="also run all steps in a call each")
    parser.add_argument("--no_decode", dest="decode", action="store_false", help="do not time decoding")
    add_run_flags(parser)


def run(args: argparse.Namespace) -> None:
    """Measures, prints a table, and writes the JSON."""
    from smcd_jax.files import write_json
    from smcd_jax.pipeline.benchmark import SamplingBenchmark, measure_sampling
    from smcd_jax.runtime.device_turns import DeviceTurns

    def write(measures: SamplingMeasures) -> None:
        if args.output is not None:
            write_json(args.output, measures.as_dict())

    names = (field.name for field in dataclasses.fields(SamplingBenchmark))
    settings = SamplingBenchmark(**{name: getattr(args, name) for name in names})
    turns = DeviceTurns(args.turns)
    console.result(table(measure_sampling(settings, on_measured=write, on_stage=console.progress_line, turns=turns)))


def table(measures: SamplingMeasures) -> str:
    """Returns the figures with their units, one line each."""
    from smcd_jax.runtime.kernel_profile import ProfileSummary
    from smcd_jax.runtime.kernel_profile import table as profile_table

    lines = {
        "model": f"{measures.preset}, {measures.dtype}, batch {measures.batch}, {measures.branches} guidance branches, "
        f"attention {measures.attention}",
        "device": f"{measures.device['device']} ({measures.device['platform']})",
        "compile": f"{measures.compile_seconds:.1f} s",
        "denoising step": f"{measures.step_seconds:.4g} s (fastest of {measures.steps_timed}, "
        f"median {measures.median_step_seconds:.4g} s)",
        "denoising, per clip": f"{measures.clip_seconds:.4g} s at {measures.num_inference_steps} steps"
        + (" (estimated)" if measures.clip_loop_seconds is None else ""),
        "one call per step": "not measured"
        if measures.clip_calls_seconds is None
        else f"{measures.clip_calls_seconds / measures.batch:.4g} s per clip",
        "arithmetic": f"{measures.tflop_per_step:.4g} TFLOP per step, {measures.tflop_per_second:.4g} TFLOP/s",
        "matrix product": f"{measures.matmul_tflop_per_second:.4g} TFLOP/s on this device in this run",
        "share of this rate": f"{measures.share_of_matmul:.1%}",
        "decoding": "not measured" if measures.decode_seconds is None else f"{measures.decode_seconds:.4g} s per clip",
        "peak memory": f"{measures.peak_memory_bytes / 1e9:.2f} GB",
    }
    text = "\n".join(f"{name:<20}{value}" for name, value in lines.items())
    if measures.profile is None:
        return text
    return f"{text}\n{profile_table(ProfileSummary.from_dict(measures.profile))}"
