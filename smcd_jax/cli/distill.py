"""Distills a model folder into one that samples in few steps: `smcd train` and `smcd export` in one command.

Examples:
  smcd distill --config configs/tiny/distill.py --workdir runs/tiny/distill --output runs/tiny/model_4step
  smcd distill --config configs/smcd/distill.py --workdir runs/distill --output models/smcd_4step \
      --config.init.model=models/smcd --config.data.records=records/got10k
Exit status 42: the run was stopped and has saved a checkpoint; rerun the same command to resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from smcd_jax.cli import export, train
from smcd_jax.cli.parser import CommandParser
from smcd_jax.errors import SMCDError

_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=40 --option val_clips=8 \\
      --option width=32 --option height=32 --option max_objects=1
  smcd prepare --features tiny --output records
  smcd distill --config configs/tiny/distill.py --workdir runs/distill --output models/tiny_4step \\
      --config.data.records=records --config.run.steps=40

Rerunning the same command resumes it. The guidance scales are those of --config.distill.guidance and cannot be changed
in the new model, which needs one evaluation of the network per step."""


def add_arguments(parser: CommandParser) -> None:
    """Adds the flags of `smcd distill`."""
    parser.epilog = _EPILOG
    parser.add_config()
    parser.add_argument("--workdir", type=Path, metavar="DIR", required=True, help="folder of checkpoints and logs")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="model folder to write")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the stored arrays; default: float32",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model folder")


def run(args: argparse.Namespace) -> int:
    """Trains and exports; returns 42 if the run was stopped on request."""
    from smcd_jax.model_folder import check_target
    from smcd_jax.training.config import load_config

    check_target(args.output, overwrite=args.overwrite)
    config = load_config(args.config, args.overrides)
    if config.objective != "distill":
        message = f"{args.config}: objective must be 'distill', got {config.objective!r}; train it with smcd train"
        raise SMCDError(message, argument="objective", path=args.config, value=config.objective)
    parser = CommandParser(prog="smcd train")
    train.add_arguments(parser)
    overrides = [f"--config.{override}" for override in args.overrides]
    status = train.run(parser.parse_args(["--config", args.config, "--workdir", str(args.workdir), *overrides]))
    if status:
        return status
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    given = ["--workdir", str(args.workdir), "--output", str(args.output), "--dtype", args.dtype]
    export.run(parser.parse_args([*given, *(["--overwrite"] if args.overwrite else [])]))
    return 0
