"""`smcd bench launches`: the kernels of a denoising step by kind, counted in the compiled program."""

from __future__ import annotations

import argparse
from pathlib import Path

from smcd_jax.cli import console

_EPILOG = """\
The program is compiled and not run, so the devices need not be present. Launches outside of loops happen once per call
of the program, the others at each step. On CPUs the parts of the compiled program are counted in the same way.

examples:
  smcd bench launches --preset tiny
  smcd bench launches --preset smcd --topology h100:1 --output launches.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd bench launches`."""
    parser.epilog = _EPILOG
    parser.add_argument("--preset", choices=("tiny", "smcd"), default="tiny", help="size of the model (default: tiny)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on accelerators")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="videos per call (default: 1)")
    parser.add_argument(
        "--guidance_scale", type=float, default=7.5, metavar="S", help="1 disables guidance (default: 7.5)"
    )
    parser.add_argument(
        "--topology", metavar="NAME", default="local", help="devices as in `smcd plan`; default: those of this machine"
    )
    parser.add_argument("--hlo", type=Path, metavar="FILE", help="also write the compiled program as text")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the figures as JSON")


def run(args: argparse.Namespace) -> None:
    """Compiles the program and prints a table."""
    import jax

    from smcd_jax.files import write_json
    from smcd_jax.pipeline.sampling_program import compile_sampling
    from smcd_jax.runtime.hlo_launches import launch_report, table
    from smcd_jax.runtime.topology import check_topology_name, find_topology, needs_other_devices

    check_topology_name(args.topology)
    if needs_other_devices(args.topology):
        jax.config.update("jax_platforms", "cpu")  # for tracing; the program is compiled for the topology
    topology = find_topology(args.topology)
    compiled = compile_sampling(
        args.preset, topology, dtype=args.dtype, batch=args.batch, guidance_scale=args.guidance_scale
    )
    text = compiled.as_text()
    report = launch_report(text)
    console.result(f"{args.preset}, batch {args.batch}, {topology.device_kind}, jax {jax.__version__}")
    console.result(table(report))
    if args.hlo is not None:
        args.hlo.write_text(text)
    if args.output is not None:
        sizes = compiled.memory_analysis()
        settings = {"preset": args.preset, "batch": args.batch, "guidance_scale": args.guidance_scale}
        memory = {"arguments": sizes.argument_size_in_bytes, "temporaries": sizes.temp_size_in_bytes}
        device = {"device": topology.device_kind, "jax": jax.__version__}
        write_json(args.output, {**settings, **device, "memory": memory, **report.as_dict()})
