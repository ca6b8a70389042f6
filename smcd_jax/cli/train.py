"""Trains a model from a config. Rerunning the same command resumes training from the newest valid checkpoint.

Examples:
  smcd train --config configs/smcd/stage2_scene.py --workdir runs/stage2
  smcd train --config configs/smcd/stage2_scene.py:tiny --workdir runs/tiny --config.optimizer.learning_rate=1e-4
  smcd train --config configs/smcd/stage2_scene.py --workdir runs/stage2 --compile_only
Exit status 42: the run was stopped and has saved; rerun the same command. A status above 128: another process of the
run has ended; restart all processes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from smcd_jax.cli.console import error, progress_line
from smcd_jax.cli.parser import CommandParser
from smcd_jax.errors import SMCDError

_LOST_PEER = r"gloo|nccl|by peer|coordination|barrier|heartbeat|unavailable|deadline"  # in JAX's lost-peer errors
_GRACE_SECONDS = 3.0
SMALLER = (
    "use a larger --config.mesh.fsdp, --config.remat=blocks, a larger --config.optimizer.grad_accum_steps or a smaller "
    "--config.data.batch_size; smcd plan says what fits"
)


_EPILOG = """\
examples:
  smcd prepare sprites --output records --option train_clips=40 --option val_clips=8
  smcd train --config configs/tiny/autoencoder.py --workdir runs/tiny --config.data.records=records \\
      --config.data.batch_size=8 --config.run.steps=4 --config.optimizer.warmup_steps=1

Rerunning the same command resumes training from the newest valid checkpoint."""


def add_arguments(parser: CommandParser) -> None:
    """Adds the flags of `smcd train`."""
    parser.epilog = _EPILOG
    parser.add_config()
    parser.add_argument(
        "--workdir", type=Path, metavar="DIR", required=True, help="folder of checkpoints, samples, metrics and logs"
    )
    parser.add_argument("--profile", metavar="A:B", help="profile steps A to B into DIR/logs/profile")
    parser.add_argument(
        "--compile_only", action="store_true", help="only compile the step, which fills the compile cache"
    )
    start = parser.add_argument_group("several processes (detected under SLURM, Open MPI, GKE and on TPU VMs)")
    start.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    start.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    start.add_argument("--process_id", type=int, metavar="I", help="index of this process, from 0")
    start.add_argument(
        "--start_timeout",
        type=float,
        metavar="SECONDS",
        default=300.0,
        help="time to wait for the other processes; default: 300",
    )


def run(args: argparse.Namespace) -> int:
    """Trains; returns 42 if the run was stopped on request."""
    from smcd_jax.runtime.distributed import start_distributed
    from smcd_jax.training.config import load_config

    config = load_config(args.config, args.overrides)
    steps = _profiled(args.profile)
    start_distributed(args.coordinator, args.num_processes, args.process_id, timeout=args.start_timeout)

    import jax

    from smcd_jax.runtime.memory import oom_as_user_error
    from smcd_jax.training.loop import train
    from smcd_jax.training.signals import EXIT_RESTART

    say = progress_line if jax.process_index() == 0 else lambda line: None
    try:
        with oom_as_user_error(SMALLER):
            outcome = train(config, args.workdir, profile=steps, compile_only=args.compile_only, say=say)
    except Exception as failure:
        if jax.process_count() > 1:
            _leave_at_once(failure)
        raise
    say(f"done: step {outcome.step} is saved in {args.workdir}" if outcome.ended == "done" else outcome.ended)
    return EXIT_RESTART if outcome.ended == "stopped" else 0


def _leave_at_once(failure: Exception) -> NoReturn:
    """Prints the error of one of several processes and exits immediately, so that the others notice.

    A normal exit would wait minutes for the other processes, while they wait in a collective for this one.
    """
    import jax

    from smcd_jax.cli import BUG, WRONG_INPUT
    from smcd_jax.training.signals import EXIT_LOST

    reason, status = " ".join(str(failure).split())[:200], BUG
    if isinstance(failure, SMCDError):
        error(f"process {jax.process_index()}: {failure}")
        status = WRONG_INPUT
    elif isinstance(failure, jax.errors.JaxRuntimeError) and re.search(_LOST_PEER, reason, re.IGNORECASE):
        error(
            f"process {jax.process_index()}: another process of this run has ended or is unreachable ({reason}); see "
            "its log, then restart all processes to resume from the newest checkpoint"
        )
        status = EXIT_LOST
    else:
        traceback.print_exception(failure)
    if jax.process_index() == 0:
        time.sleep(_GRACE_SECONDS)  # the other processes end with process 0; let them print their errors first
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _profiled(text: str | None) -> range | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not colon or not (first.isdecimal() and last.isdecimal()) or not 0 < int(first) < int(last):
        raise SMCDError(
            f"--profile must be the first and the last step, such as 10:20, got {text!r}",
            argument="profile",
            value=text,
        )
    return range(int(first), int(last))
