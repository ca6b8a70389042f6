"""Exports a training run to a model folder: its newest valid checkpoint, merged into the model it started from.

Examples:
  smcd export --workdir runs/stage2 --output models/mine
  smcd export --workdir runs/stage2 --output models/mine --step 60000 --no_ema --dtype bfloat16
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from smcd_jax.cli.console import note, result
from smcd_jax.errors import SMCDError

_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=40 --option val_clips=8
  smcd train --config configs/tiny/autoencoder.py --workdir runs/tiny --config.data.records=records \\
      --config.data.batch_size=8 --config.run.steps=4 --config.optimizer.warmup_steps=1
  smcd export --workdir runs/tiny --output models/mine"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `smcd export`."""
    parser.epilog = _EPILOG
    parser.add_argument("--workdir", type=Path, metavar="DIR", required=True, help="workdir of smcd train")
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="model folder to write")
    parser.add_argument("--step", type=int, metavar="N", help="step to export; default: the newest valid one")
    parser.add_argument("--base", metavar="DIR", help="model folder that the run started from, if it has moved since")
    parser.add_argument("--no_ema", action="store_true", help="export the parameters instead of their moving average")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the stored arrays; default: float32",
    )
    parser.add_argument(
        "--scaling_factor",
        type=float,
        metavar="F",
        help="scaling factor of a trained autoencoder: 1 / standard deviation of its latents",
    )
    parser.add_argument(
        "--license", default="unknown", metavar="NAME", help="license of the weights; default: that of the base"
    )
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="write only the low-rank adapter of the run; --output must be a .safetensors file",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing model folder or adapter")


def run(args: argparse.Namespace) -> None:
    """Reads and verifies the checkpoint and writes the model folder."""
    import jax.numpy as jnp

    from smcd_jax.model_folder import check_target
    from smcd_jax.training.checkpoint.checkpoints import read_checkpoint
    from smcd_jax.training.config import config_from_dict
    from smcd_jax.training.export import check_base, export_adapter, export_model

    if not args.adapter:
        check_target(args.output, overwrite=args.overwrite)
    elif args.output.suffix != ".safetensors" or (args.output.exists() and not args.overwrite):
        raise SMCDError(
            f"--output must be a new .safetensors file (--overwrite replaces one), got {args.output}",
            argument="output",
            path=args.output,
        )
    step, leaves, _, saved = read_checkpoint(args.workdir / "checkpoints", step=args.step, ema=not args.no_ema)
    config = config_from_dict({key: value for key, value in saved.items() if key != "base_sha256"})
    if args.base is not None:
        config = dataclasses.replace(config, init=dataclasses.replace(config.init, model=args.base))
    check_base(config.init.model, saved["base_sha256"])
    if args.scaling_factor is not None:
        config = dataclasses.replace(config, model=_with_scaling_factor(config.model, args.scaling_factor))
    averaged = config.optimizer.ema_decay > 0 and not args.no_ema
    if not args.no_ema and not averaged:
        note("the run keeps no moving average; exporting the parameters")
    origin = f"{config.name}, step {step}" + (", moving average" if averaged else "")
    if args.adapter:
        adapter = export_adapter(args.output, config, leaves, note=origin)
        size = args.output.stat().st_size
        result(f"{args.output}: adapter of {len(adapter.leaves) // 2} kernels, {size / 1e6:.1f} MB, {origin}")
        return
    folder = export_model(
        args.output,
        config,
        leaves,
        note=origin,
        dtype=jnp.dtype(args.dtype),
        overwrite=args.overwrite,
        license=args.license,
    )
    result(f"{folder.path}: {config.name} after step {step}, {folder.digest[:16]}")


def _with_scaling_factor(config: Any, factor: float) -> Any:
    """Returns a model config with this scaling factor of the component that encodes frames."""
    from smcd_jax.models.registry import make_model

    for step in make_model(config).feature_steps:
        if hasattr(getattr(config, step.component, None), "scaling_factor"):
            encoder = dataclasses.replace(getattr(config, step.component), scaling_factor=factor)
            return dataclasses.replace(config, **{step.component: encoder})
    raise SMCDError(
        "--scaling_factor needs a model that encodes frames to scaled latents", argument="scaling_factor", value=factor
    )
