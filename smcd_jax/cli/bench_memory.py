"""`smcd bench memory`: the memory that sampling a video needs on a device, from compiled programs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smcd_jax.cli import console
from smcd_jax.cli.bench_flags import add_model_flags
from smcd_jax.errors import SMCDError

_EPILOG = """\
The programs are compiled and not run, so the device need not be present. Networks are read one at a time, so the memory
needed is that of the largest program. The encoders of text and picture need little more than their weights.

examples:
  smcd bench memory --preset tiny
  smcd bench memory --preset dynamicrafter_512 --topology h100:1
  smcd bench memory --preset dynamicrafter_1024 --topology v5e:1x1 --decode_chunk_size 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd bench memory`."""
    parser.epilog = _EPILOG
    add_model_flags(parser)
    parser.add_argument(
        "--guidance_scale", type=float, default=7.5, metavar="S", help="1 disables guidance (default: 7.5)"
    )
    parser.add_argument(
        "--decode_chunk_size", type=int, metavar="N", help="frames decoded at once (default: the model's own)"
    )
    parser.add_argument(
        "--topology", metavar="NAME", default="local", help="device as in `smcd plan`; default: that of this machine"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")


def run(args: argparse.Namespace) -> None:
    """Compiles the programs one after the other and prints the memory of each."""
    import jax

    from smcd_jax.files import write_json
    from smcd_jax.pipeline.sampling_program import compile_decoding, compile_sampling, weight_bytes
    from smcd_jax.runtime.topology import check_topology_name, find_topology, needs_other_devices

    for name in ("batch", "decode_chunk_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise SMCDError(f"--{name} must be at least 1, got {value}", argument=name, value=value)
    check_topology_name(args.topology)
    if needs_other_devices(args.topology):
        jax.config.update("jax_platforms", "cpu")  # for tracing; the program is compiled for the topology
    topology = find_topology(args.topology)
    common = {"dtype": args.dtype, "batch": args.batch}
    weights = weight_bytes(args.preset, topology, dtype=args.dtype)
    console.result(f"{args.preset}, batch {args.batch}, {topology.device_kind}, jax {jax.__version__}")
    console.result(f"weights  {', '.join(f'{name} {_gib(size)}' for name, size in weights.items())}")
    jobs = {
        "denoise": lambda: compile_sampling(args.preset, topology, guidance_scale=args.guidance_scale, **common),
        "decode": lambda: compile_decoding(args.preset, topology, chunk_size=args.decode_chunk_size, **common),
    }
    needed = dict(weights)
    for name, compile_program in jobs.items():
        console.progress_line(f"compiling the program to {name}")
        needed[name], details = _memory(compile_program)
        console.result(f"{name:<9}{_gib(needed[name])}{details}")
    limit, most = topology.usable_bytes, max(needed.values())
    verdict = "" if limit is None else f" of {_gib(limit)}: {'fits' if most <= limit else 'DOES NOT FIT'}"
    console.result(f"needed   {_gib(most)}{verdict}")
    if args.output is not None:
        settings = {name: getattr(args, name) for name in ("preset", "batch", "guidance_scale", "decode_chunk_size")}
        device = {"device": topology.device_kind, "usable": limit, "jax": jax.__version__}
        write_json(args.output, {**settings, **device, "bytes": needed})


def _memory(compile_program: Callable[[], Any]) -> tuple[int, str]:
    """Returns the bytes that a program needs, and their parts as text."""
    import jax

    from smcd_jax.training.plan.compiled import needed_by

    try:
        sizes = compile_program().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        return needed_by(str(error)), ", refused by the compiler"
    parts = {
        "arguments": sizes.argument_size_in_bytes,
        "outputs": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "code": sizes.generated_code_size_in_bytes,
    }
    return sum(parts.values()), f": {', '.join(f'{name} {_gib(size)}' for name, size in parts.items())}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
