"""Benchmarks of this machine, one per subcommand."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS = {
    "sample": ("bench_sample", "time and memory of sampling videos"),
    "train": ("bench_train", "time and memory of a training step"),
    "input": ("bench_input", "clips per second from records and from the feature cache, compared with a plain loop"),
    "memory": ("bench_memory", "memory that sampling needs on a device, which need not be present"),
    "launches": ("bench_launches", "kernels that a denoising step launches, without running it"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the benchmarks and their flags."""
    parser.epilog = "examples:\n  smcd bench sample --preset tiny\n  smcd bench train --preset tiny"
    actions = parser.add_subparsers(title="benchmarks", metavar=" | ".join(BENCHMARKS), dest="benchmark", required=True)
    for name, (module, text) in BENCHMARKS.items():
        benchmark = importlib.import_module(f"smcd_jax.cli.{module}")
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.set_defaults(act=benchmark.run)
        benchmark.add_arguments(action)


def run(args: argparse.Namespace) -> int | None:
    """Runs the benchmark."""
    return args.act(args)
