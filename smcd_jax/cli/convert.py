"""`smcd convert`: converts PyTorch weights to a model folder or back, and writes untrained model folders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smcd_jax.cli import console
from smcd_jax.errors import SMCDError
from smcd_jax.models.conversion_flags import DETAILS, FLAGS, PRESETS, Flag, selected_families

if TYPE_CHECKING:
    from smcd_jax.conversion.to_model_folder import ConvertedComponent
    from smcd_jax.runtime.progress import Progress

COMMON = ("to_torch", "preset", "output", "overwrite", "dtype")  # in short help, besides the flags that name weights
_EPILOG = """\
examples:
  smcd convert --to_torch tiny --output tiny-torch
  smcd convert --modelscope tiny-torch --smcd tiny-torch --output models/tiny
  smcd convert --preset tiny --output models/untrained"""

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `smcd convert`."""
    parser.epilog, parser.details = _EPILOG, "\n\n".join(DETAILS.values())
    flags = {flag.name: flag for family in FLAGS.values() for flag in family}.values()  # families may share flags
    parser.common = (*(flag.name for flag in flags if flag.source), *COMMON)
    source = parser.add_argument_group("source")
    for flag in flags:
        if flag.source:
            _add(source, flag)
    source.add_argument("--to_torch", metavar="MODEL", help="model folder to convert back to PyTorch files")
    source.add_argument("--preset", choices=PRESETS, help="write an untrained model of this size")
    options = parser.add_argument_group("options")
    options.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    options.add_argument("--overwrite", action="store_true", help="replace an existing output")
    options.add_argument("--dtype", choices=DTYPES, help="dtype of the arrays written (default: that of the files)")
    for flag in flags:
        if not flag.source:
            _add(options, flag)
    options.add_argument(
        "--format", choices=("bin", "safetensors"), default="bin", help="format of PyTorch files (default: bin)"
    )
    options.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random weights (default: 0)")


def run(args: argparse.Namespace) -> int | None:
    """Runs the conversion and prints the files written."""
    from smcd_jax.runtime.progress import Bars, Lines

    sources = " or ".join(f"--{flag.name}" for family in FLAGS.values() for flag in family if flag.source)
    families = selected_families(vars(args))
    modes = {sources: families, "--to_torch": args.to_torch, "--preset": args.preset}
    selected = [name for name, value in modes.items() if value]
    if len(selected) != 1:
        found = f", got {' and '.join(selected)}" if selected else ""
        raise SMCDError(f"exactly one of {', '.join(modes)} must be set{found}", argument="source", value=selected)
    progress = Bars() if sys.stderr.isatty() else Lines(console.progress_line)
    if args.to_torch:
        return _to_torch(args, progress)
    if args.preset:
        return _untrained(args)
    if len(families) > 1:
        raise SMCDError(f"the sources must be of one model family, got {' and '.join(families)}", value=families)
    return _to_model_folder(args, families[0], progress)


def table(components: Sequence[ConvertedComponent]) -> str:
    """Returns the summary table, which accounts for every tensor of every file."""
    lines = [
        f"{'component':<16}{'tensors':>8}{'bytes':>16}{'unmapped':>10}{'missing':>9}{'left out':>10}  sha256 of file"
    ]
    for part in components:
        counts = f"{part.tensors:>8}{part.bytes:>16,}{0:>10}{0:>9}{part.left_out:>10}"
        lines.append(f"{part.name:<16}{counts}  {part.sha256[:16]} {part.file}")
    total = f"{sum(part.tensors for part in components):>8}{sum(part.bytes for part in components):>16,}"
    return "\n".join([*lines, f"{'total':<16}{total}"])


def _add(group: Any, flag: Flag) -> None:
    if flag.kind == "switch":
        group.add_argument(f"--{flag.name}", action="store_true", help=flag.help)
    else:
        value_type = {"path": Path, "int": int, "text": str}[flag.kind]
        group.add_argument(f"--{flag.name}", type=value_type, metavar=flag.metavar, help=flag.help)


def _family_options(args: argparse.Namespace, family: str) -> dict[str, Any]:
    """Returns the values of a family's flags; raises an error for flags of another family."""
    own = [flag.name for flag in FLAGS.get(family, ())]
    for other, flags in FLAGS.items():
        for flag in flags:
            if flag.name not in own and getattr(args, flag.name) not in (None, False):
                message = f"--{flag.name} is an option of model family {other}, not of {family}"
                raise SMCDError(message, argument=flag.name)
    return {name: getattr(args, name) for name in own}


def _to_model_folder(args: argparse.Namespace, family: str, progress: Progress) -> None:
    from smcd_jax.conversion.to_model_folder import convert_to_model_folder

    conversion = convert_to_model_folder(
        args.output,
        family,
        _family_options(args, family),
        dtype=_dtype(args.dtype),
        overwrite=args.overwrite,
        progress=progress,
    )
    console.result(table(conversion.components))
    for note in conversion.notes:
        console.result(note)
    folder = conversion.folder
    console.result(f"{args.output}: model {folder.digest[:16]}, license: {folder.origin.license}")


def _to_torch(args: argparse.Namespace, progress: Progress) -> None:
    from smcd_jax.conversion.to_torch import convert_to_torch

    files = convert_to_torch(
        args.to_torch, args.output, format=args.format, overwrite=args.overwrite, progress=progress
    )
    for file in files:
        console.result(f"{file.stat().st_size:>16,}  {file}")


def _untrained(args: argparse.Namespace) -> None:
    import numpy as np

    from smcd_jax.conversion.untrained import write_untrained
    from smcd_jax.models.conversion import get_conversion
    from smcd_jax.models.registry import get_family, preset_family, presets

    family, config = get_family(preset_family(args.preset)), presets()[args.preset]
    options = _family_options(args, family.name)
    if family.conversion:
        config = get_conversion(family).preset_config(config, options)
    dtype = _dtype(args.dtype) or np.float32
    folder = write_untrained(args.output, config, seed=args.seed, dtype=dtype, overwrite=args.overwrite)
    console.result(f"{args.output}: untrained model {folder.digest[:16]} of preset {args.preset}, seed {args.seed}")


def _dtype(name: str | None) -> Any:
    import ml_dtypes
    import numpy as np

    return {None: None, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[name]
