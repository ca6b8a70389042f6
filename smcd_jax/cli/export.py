"""Makes a model folder of a training run: its newest whole checkpoint over the model it started from.

Some uses:
  smcd export --workdir runs/stage2 --output models/mine
  smcd export --workdir runs/stage2 --output models/mine --step 60000 --no_ema --dtype bfloat16
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from smcd_jax.cli.console import note, result

_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=40 --option val_clips=8
  smcd train --config configs/tiny/autoencoder.py --workdir runs/tiny --config.data.records=records \\
      --config.data.batch_size=8 --config.run.steps=4 --config.optimizer.warmup_steps=1
  smcd export --workdir runs/tiny --output models/mine"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd export`."""
    parser.epilog = _EPILOG
    parser.add_argument("--workdir", type=Path, metavar="DIR", required=True, help="of `smcd train`")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="model folder to write")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint; default: the newest whole one")
    parser.add_argument(
        "--base", metavar="DIR", help="model folder that the run started from, where it has moved since"
    )
    parser.add_argument("--no_ema", action="store_true", help="the parameters themselves, not their moving average")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the stored arrays; default: float32"
    )
    parser.add_argument(
        "--scaling_factor",
        type=float,
        metavar="F",
        help="of an autoencoder trained here: 1 / standard deviation of its latents, so that they have unit variance",
    )
    parser.add_argument("--license", default="unknown", metavar="NAME", help="of the weights; default: the base's")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model folder")


def run(args: argparse.Namespace) -> None:
    """Read, verify and write."""
    import jax.numpy as jnp

    from smcd_jax.model_folder import check_target
    from smcd_jax.training.checkpoint.checkpoints import read_checkpoint
    from smcd_jax.training.config import config_from_dict
    from smcd_jax.training.export import check_base, export_model

    check_target(args.output, overwrite=args.overwrite)
    step, leaves, _, saved = read_checkpoint(args.workdir / "checkpoints", step=args.step, ema=not args.no_ema)
    config = config_from_dict({key: value for key, value in saved.items() if key != "base_sha256"})
    if args.base is not None:
        config = dataclasses.replace(config, init=dataclasses.replace(config.init, model=args.base))
    check_base(config, saved["base_sha256"])
    if args.scaling_factor is not None:
        autoencoder = dataclasses.replace(config.model.autoencoder, scaling_factor=args.scaling_factor)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, autoencoder=autoencoder))
    averaged = config.optimizer.ema_decay > 0 and not args.no_ema
    if not args.no_ema and not averaged:
        note("the run keeps no moving average; these are the parameters themselves")
    folder = export_model(
        args.output,
        config,
        leaves,
        note=f"{config.name}, step {step}" + (", moving average" if averaged else ""),
        dtype=jnp.dtype(args.dtype),
        overwrite=args.overwrite,
        license=args.license,
    )
    result(f"{folder.path}: {config.name} after step {step}, {folder.digest[:16]}")
