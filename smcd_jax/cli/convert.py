"""`smcd convert`: PyTorch weights to a model folder, a model folder back to PyTorch, and untrained model folders."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from smcd_jax.cli import console
from smcd_jax.errors import SMCDError

if TYPE_CHECKING:
    from smcd_jax.conversion.to_model_folder import ConvertedComponent
    from smcd_jax.runtime.progress import Progress

DTYPES = ("float32", "bfloat16", "float16")

_EPILOG = """\
examples:
  smcd convert --modelscope modelscope-damo-text-to-video --smcd smcd-weights --output models/smcd
  smcd convert --modelscope text-to-video-ms-1.7b --smcd smcd-weights --output models/smcd
  smcd convert --to_torch models/smcd --output smcd-torch
  smcd convert --preset tiny --output models/untrained

A ModelScope folder holds configuration.json, text2video_pytorch_model.pth, VQGAN_autoencoder.pth and
open_clip_pytorch_model.bin; one in diffusers' layout holds unet/, vae/ and text_encoder/. An SMCD folder holds
pytorch_model.bin (UNet), pytorch_model_1.bin (position net) and pytorch_model_2.bin (image encoder or ControlNet).
Any of these files may be .safetensors instead. With an SMCD folder the base UNet is not read: SMCD's replaces it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `smcd convert`."""
    parser.epilog = _EPILOG
    source = parser.add_argument_group("what to convert")
    source.add_argument(
        "--modelscope", type=Path, metavar="DIR", help="base model, in ModelScope's or diffusers' layout"
    )
    source.add_argument("--smcd", type=Path, metavar="DIR", help="SMCD's own networks")
    source.add_argument("--to_torch", metavar="MODEL", help="the other way: this model folder to PyTorch files")
    source.add_argument("--preset", choices=("tiny", "smcd"), help="no weights: random ones, of this size")
    how = parser.add_argument_group("how")
    how.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    how.add_argument("--overwrite", action="store_true", help="replace an existing output")
    how.add_argument("--dtype", choices=DTYPES, help="of the arrays written (default: as in the files)")
    how.add_argument("--with_vision", action="store_true", help="also OpenCLIP's vision tower, which evaluation uses")
    how.add_argument(
        "--head_width", type=int, metavar="N", help="of a UNet whose configuration.json is missing (default: 64)"
    )
    how.add_argument("--format", choices=("bin", "safetensors"), default="bin", help="of PyTorch files (default: bin)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of random weights (default: 0)")


def run(args: argparse.Namespace) -> int | None:
    """Converts, and prints what was written."""
    from smcd_jax.runtime.progress import Bars, Lines

    modes = {
        "--modelscope or --smcd": args.modelscope or args.smcd,
        "--to_torch": args.to_torch,
        "--preset": args.preset,
    }
    given = [name for name, value in modes.items() if value]
    if len(given) != 1:
        raise SMCDError(f"give one of {', '.join(modes)}" + (f", not {' and '.join(given)}" if given else ""))
    progress = Bars() if sys.stderr.isatty() else Lines(console.progress_line)
    if args.to_torch:
        return _to_torch(args, progress)
    return _untrained(args) if args.preset else _to_model_folder(args, progress)


def _to_model_folder(args: argparse.Namespace, progress: Progress) -> None:
    from smcd_jax.conversion.to_model_folder import convert_to_model_folder

    folder, components = convert_to_model_folder(
        args.output,
        modelscope=args.modelscope,
        smcd=args.smcd,
        dtype=_dtype(args.dtype),
        with_vision=args.with_vision,
        head_width=args.head_width,
        overwrite=args.overwrite,
        progress=progress,
    )
    console.result(table(components))
    console.result(f"{args.output}: model {folder.digest[:16]}, license: {folder.origin.license}")


def table(components: list[ConvertedComponent]) -> str:
    """The closing table: every tensor of every component is accounted for, or the conversion would have stopped."""
    lines = [
        f"{'component':<16}{'tensors':>8}{'bytes':>16}{'unmapped':>10}{'missing':>9}{'left out':>10}  sha256 of file"
    ]
    for part in components:
        counts = f"{part.tensors:>8}{part.bytes:>16,}{0:>10}{0:>9}{part.left_out:>10}"
        lines.append(f"{part.name:<16}{counts}  {part.sha256[:16]} {part.file}")
    total = f"{sum(part.tensors for part in components):>8}{sum(part.bytes for part in components):>16,}"
    return "\n".join([*lines, f"{'total':<16}{total}"])


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
    from smcd_jax.models.registry import presets

    config = presets()[args.preset]
    if args.with_vision:
        from smcd_jax.nn.config import VisionEncoderConfig

        config = dataclasses.replace(config, vision_encoder=VisionEncoderConfig())
    dtype = _dtype(args.dtype) or np.float32
    folder = write_untrained(args.output, config, seed=args.seed, dtype=dtype, overwrite=args.overwrite)
    console.result(f"{args.output}: untrained model {folder.digest[:16]} of preset {args.preset}, seed {args.seed}")


def _dtype(name: str | None):
    import ml_dtypes
    import numpy as np

    return {None: None, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[name]
