"""Reports what a training run needs on given devices: memory, arithmetic, time and communication.

The devices need not be present. The run's training step and sampler are compiled, which takes minutes to an hour at
full size; results are cached on disk.

Examples:
  smcd plan --config configs/smcd/stage2_scene.py --topology v5e:2x4 --config.mesh.fsdp=8 --effort -1
  smcd plan --config configs/smcd/stage2_scene.py:tiny --topology cpu:8 --batch 8 --no_sampler
  smcd plan --config configs/smcd/stage2_scene.py --topology v5p:2x2x2 --config.mesh.fsdp=8 --list
  smcd plan --config configs/smcd/stage2_scene.py --topology h100:1 --batch 4
  smcd plan --config configs/smcd/stage2_scene.py --topology v5e:2x4 --search --effort -1
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from smcd_jax.cli import console
from smcd_jax.cli.parser import CommandParser

if TYPE_CHECKING:
    from smcd_jax.training.config import TrainConfig
    from smcd_jax.training.plan.compiled import ProgramPlan
    from smcd_jax.training.plan.plan import Planned, Planner
    from smcd_jax.training.plan.search import Choice

_KINDS = 22  # width of the first column
_SHOWN = 8  # settings that a search lists


_EPILOG = """\
examples:
  smcd plan --config configs/smcd/stage1_object.py:tiny --topology cpu:8 --list
  smcd plan --config configs/smcd/stage1_object.py:tiny --batch 8"""


def add_arguments(parser: CommandParser) -> None:
    """Adds the flags of `smcd plan`."""
    parser.epilog = _EPILOG
    parser.add_config()
    parser.add_argument(
        "--topology",
        metavar="NAME",
        default="local",
        help="v5e:2x4, v4:2x2x1, v5p:2x2x2, v6e:4x4 (needs libtpu, no TPU); h100:1, h200:8, FILE.txtpb:1 (needs JAX's "
        "CUDA plugin, no GPU); cpu:8; default: local, the devices of this machine",
    )
    parser.add_argument(
        "--effort",
        type=float,
        metavar="F",
        default=0.0,
        help="effort of the compiler, -1 (fast to compile) to 1 (fast to run); default: 0, as in training",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="batch size over all devices; default: that of the config, and the largest that fits",
    )
    parser.add_argument("--no_sampler", action="store_true", help="plan only the training step")
    parser.add_argument(
        "--search",
        action="store_true",
        help="compare shardings, remat and batch sizes by arithmetic, then compile the best two",
    )
    parser.add_argument("--list", action="store_true", help="only list every parameter with its sharding")
    parser.add_argument("--again", action="store_true", help="recompile even if a cached result exists")


def run(args: argparse.Namespace) -> None:
    """Compiles the programs and prints the plan."""
    import jax

    from smcd_jax.errors import SMCDError
    from smcd_jax.runtime.progress import Bars, Lines
    from smcd_jax.runtime.topology import check_topology_name, find_topology, needs_other_devices
    from smcd_jax.training.config import load_config
    from smcd_jax.training.plan.plan import Planner, parameter_lines

    if args.batch is not None and args.batch < 1:
        raise SMCDError(f"--batch must be at least 1, got {args.batch}", argument="batch", value=args.batch)
    config = load_config(args.config, args.overrides)
    check_topology_name(args.topology)
    if needs_other_devices(args.topology):
        jax.config.update("jax_platforms", "cpu")  # only for tracing; programs are compiled for the topology
    if args.list:
        for line in parameter_lines(config, find_topology(args.topology)):
            console.result(line)
        return
    progress = Bars() if sys.stderr.isatty() else Lines(console.progress_line)
    if args.search:
        settings = {"effort": args.effort, "again": args.again, "progress": progress}
        _say_search(config, args.topology, args.batch, settings)
        return
    planner = Planner(config, args.topology, effort=args.effort, again=args.again, progress=progress)
    samples = config.objective == "denoise" and config.run.sample_every > 0 and config.run.samples > 0
    _say_plan(planner, args.batch, sampler=not args.no_sampler and samples)


def _say_search(config: TrainConfig, topology: str, batch: int | None, settings: dict[str, Any]) -> None:
    """Prints the best settings by arithmetic, then what the compiler says about the first ones."""
    from smcd_jax.training.plan.search import COMPILED, compiled, search, seconds_of

    found = search(config, topology, batch=batch, again=settings["again"])
    _row(config.name, f"{topology}: {len(found.choices)} of {found.compared} settings fit by arithmetic")
    _row("setting", f"{'memory':>10}{'arithmetic':>12}{'traffic':>10}{'links':>10}{'clips/s per device':>20}")
    for choice in found.choices[:_SHOWN]:
        console.result(_setting(choice))
        times = "".join(
            f"{choice.seconds[part]:>{width - 2}.4f} s"
            for part, width in (("arithmetic", 12), ("memory", 10), ("links", 10))
        )
        _row("", f"{_gib(choice.memory_bytes):>10}{times}{choice.clips_per_second:>20.3f}")
    _row("compiled", f"{'memory':>10}{'sent':>12}{'step':>10}{'clips/s per device':>30}")
    for choice in found.choices[:COMPILED]:
        plan = compiled(config, topology, choice, **settings).plan
        console.result(_setting(choice))
        if plan.memory is None:
            _row("", f"{_gib(plan.needed_bytes):>10} does not fit")
            continue
        seconds = seconds_of(plan)
        speed = choice.batch / choice.devices / seconds
        verdict = "" if plan.fits else " DOES NOT FIT"
        _row("", f"{_gib(plan.needed_bytes):>10}{_gib(plan.sent_bytes):>12}{seconds:>8.4f} s{speed:>30.3f}{verdict}")


def _setting(choice: Choice) -> str:
    return (
        f"mesh.fsdp={choice.fsdp} mesh.frozen={choice.frozen} mesh.gather={choice.gather} remat={choice.remat} "
        f"data.batch_size={choice.batch}"
    )


def _say_plan(planner: Planner, batch: int | None, *, sampler: bool) -> None:
    """Prints each part as soon as it is known, because the next may take an hour."""
    step = planner.plan("step", batch)
    setting = step.plan.setting
    mesh = " x ".join(f"{name} {size}" for name, size in setting.mesh.items())
    _row(planner.config.name, f"{planner.topology}: {setting.devices} {setting.device_kind}, mesh {mesh}")
    _row("computation", f"{setting.dtype}, remat {planner.config.remat}, compiler effort {planner.effort:g}")
    _row(
        "parameters",
        f"{setting.trained / 1e6:.1f} million trained, gathered per {planner.config.mesh.gather}; "
        f"{setting.frozen / 1e6:.1f} frozen, {planner.config.mesh.frozen}; "
        f"{setting.replicated_share:.2%} of the bytes replicated",
    )
    _say_program("training step", step)
    if batch is None:
        _say_largest(planner, step.plan)
    if sampler:
        _say_program("sampler", planner.plan("sampler", batch))


def _say_largest(planner: Planner, step: ProgramPlan) -> None:
    if step.setting.usable_bytes is None:
        _row("largest batch", "unknown: these devices share main memory")
        return
    second = planner.plan("step", planner.second_batch(step)).plan
    largest = planner.largest_batch(step, second)
    points = " and ".join(f"{part.batch} ({_gib(part.needed_bytes)})" for part in (step, second))
    _row(
        "largest batch",
        f"{'no limit found' if largest is None else largest or 'none fits'}, extrapolated from {points}",
    )


def _say_program(name: str, planned: Planned) -> None:
    plan = planned.plan
    rows = plan.setting.rows
    _row(name, f"batch {plan.batch}, {plan.batch // rows} on each of {rows} parts of the mesh{_origin(planned)}")
    usable = plan.setting.usable_bytes
    verdict = "" if usable is None else f" of {_gib(usable)}: {'fits' if plan.fits else 'DOES NOT FIT'}"
    _row("  memory per device", f"{_gib(plan.needed_bytes)}{verdict}")
    if plan.memory is None:
        _row("", "refused by the compiler, which then reports neither arithmetic nor communication")
        return
    memory = plan.memory
    rest = f", rest of the run {_gib(plan.resident_bytes)}" if plan.resident_bytes else ""
    _row(
        "",
        f"arguments {_gib(memory.arguments)}, outputs {_gib(memory.outputs)} ({_gib(memory.aliased)} aliased to "
        f"arguments), temporaries {_gib(memory.temporaries)}, code {_gib(memory.code)}{rest}",
    )
    model = f" ({plan.model_flops / 1e12:.4g} without recomputation)" if plan.model_flops else ""
    _row("  arithmetic", f"{(plan.flops or 0) / 1e12:.4g} TFLOP per device{model}")
    if plan.bytes_accessed:
        _row("  memory traffic", f"{_gib(int(plan.bytes_accessed))} read and written per device")
    if plan.estimated_seconds:
        _row("  compiler's estimate", f"{plan.estimated_seconds:.4g} s")
    if plan.floors:
        parts = ", ".join(f"{part} {seconds:.4g} s" for part, seconds in plan.floors.items())
        _row("  at published rates", parts)
    kinds = ", ".join(f"{kind} {_gib(sent)} ({count})" for kind, (count, _, sent) in plan.collectives.items())
    _row("  sent per device", f"{_gib(plan.sent_bytes)}{': ' if kinds else ''}{kinds}")
    if plan.unknown_loops:
        _row("", f"{plan.unknown_loops} loops have an unknown trip count and are counted once")
    if plan.launches:
        _say_launches(plan)
    _row("  compile time", ", ".join(f"{doing} {seconds:.1f} s" for doing, seconds in plan.seconds.items()))


def _say_launches(plan: ProgramPlan) -> None:
    count, written = (sum(numbers) for numbers in zip(*plan.launches.values(), strict=True))
    _row("  launches", f"{count} kernels, which write {written / 1e9:.4g} GB")
    for kind, (launches, size) in sorted(plan.launches.items(), key=lambda item: -item[1][0])[:6]:
        _row("", f"{launches} {kind}, {size / 1e9:.3g} GB")


def _origin(planned: Planned) -> str:
    return f"; cached on {planned.cached_at} (--again recompiles)" if planned.cached_at else ""


def _row(name: str, text: str) -> None:
    console.result(f"{name:<{_KINDS}}{text}")


def _gib(count: int) -> str:
    """Formats bytes in GiB, the unit of accelerator memory, or MiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 100 else f"{count / 2**20:.2f} MiB"
