"""What a run reports: ``metrics.jsonl``, TensorBoard's event files, Weights & Biases, and the line on the terminal.

Values are known by these names; the line on the terminal shows those it finds:

    loss, loss/t0, loss/t250, ...    mean since the last line, and that of each band of timesteps
    validation_loss                  on fixed noise and timesteps
    gradient_norm, parameter_norm    before clipping; of the trained parameters
    learning_rate
    gates/mean/object, gates/...     of `smcd_jax.training.logging.gates`
    clips_per_second, ...            of `smcd_jax.training.logging.throughput`
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.media import write_video
from smcd_jax.training.logging.event_file import EventFile, write_whole

logger = logging.getLogger(__name__)

METRICS_FILE, EVENT_FOLDER, WANDB_ID_FILE = "metrics.jsonl", "tensorboard", "wandb_run_id"
_GIF_MAX_FPS = 50


class MetricWriter:
    """Writes a run's numbers into its folder; of several processes the first one writes, the others' calls do nothing.

    ``metrics.jsonl`` has one object a line: "step", "time" (seconds since 1970) and the values by name, digit for
    digit; NaN and infinities are the texts "nan", "inf", "-inf", which JSON has no numbers for. `read_metrics` reads
    it. A line has reached the system when `scalars` returns, so kill -9 loses none; what a resumed run does again is
    cut first. Write the line of a step before its checkpoint.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        tensorboard: bool = True,
        wandb: bool = False,
        run_config: Mapping[str, Any] | None = None,
        resume_step: int = 0,
    ):
        """Opens all outputs.

        Args:
            folder: of the run; exists.
            tensorboard: write event files into ``tensorboard/``.
            wandb: log to Weights & Biases too, where it is installed; its own environment variables say how
                (WANDB_PROJECT, WANDB_MODE=offline, ...).
            run_config: of the run, for Weights & Biases; "name" names the run there.
            resume_step: steps done before. What is there of later ones is cut (in Weights & Biases it stays).

        Raises:
            SMCDError: the folder cannot be written.
        """
        self._folder = Path(folder)
        self._lines = self._events = self._run = None
        if jax.process_index() != 0:
            return
        if wandb:
            self._run = _start_wandb(self._folder, dict(run_config or {}))
        path = self._folder / METRICS_FILE
        if path.exists():
            _cut(path, resume_step)
        with _naming(self._folder):
            self._lines = path.open("ab", buffering=0)
            if tensorboard:
                # a folder without events has nothing to hide, and TensorBoard needs none
                first = resume_step + 1 if (self._folder / EVENT_FOLDER).exists() else None
                self._events = EventFile(self._folder / EVENT_FOLDER, first_step=first)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of values.

        Args:
            step: steps done.
            values: by name; anything that `float` takes.

        Raises:
            SMCDError: it cannot be written; the disk is full, say.
        """
        if self._lines is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        content = {"step": int(step), "time": time.time()}
        content |= {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        with _naming(self._folder):
            write_whole(self._lines, json.dumps(content, allow_nan=False).encode() + b"\n")
            if self._events is not None:
                self._events.scalars(step, numbers)
        if self._run is not None:
            self._run.log({"step": int(step), **numbers})

    def video(self, step: int, name: str, frames: UInt8[np.ndarray, "f h w 3"], *, fps: float) -> None:
        """A clip for TensorBoard and Weights & Biases; the folder of samples is `sample_videos`' affair.

        Args:
            step: steps done.
            name: of the clip, the same at every step.
            frames: uint8.
            fps: frames per second; above 50 it plays at 50, the most GIF can say.
        """
        if self._events is None and self._run is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            gif = write_video(frames, Path(folder) / "clip.gif", fps=min(fps, _GIF_MAX_FPS))
            if self._events is not None:
                height, width = frames.shape[1:3]
                with _naming(self._folder):
                    self._events.picture(step, name, gif.read_bytes(), height=height, width=width)
            if self._run is not None:
                import wandb

                self._run.log({"step": int(step), name: wandb.Video(str(gif), format="gif")})

    def close(self) -> None:
        """Ends all outputs."""
        for output in (self._lines, self._events):
            if output is not None:
                output.close()
        if self._run is not None:
            self._run.finish()
        self._lines = self._events = self._run = None

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``, one dict each; a line that was not written to its end is left out."""
    with Path(path).open("rb") as file:
        return [values for line in file if (values := _parsed(line)) is not None]


def summary_line(step: int, total_steps: int, values: Mapping[str, float]) -> str:
    """The values that matter most, on one line for people; those that are absent are left out."""
    parts = [f"step {step}/{total_steps}", *_loss_parts(values)]
    templates = {
        "validation_loss": "validation {:.4g}",
        "gradient_norm": "gradient {:.3g}",
        "parameter_norm": "parameters {:.4g}",
        "learning_rate": "rate {:.3g}",
        "gates/mean/object": "object gates {:.3g}",
        "gates/mean/image": "image gates {:.3g}",
        "clips_per_second": "{:.3g} clips/s",
        "tflop_per_second": "{:.3g} TFLOP/s",
        "share_of_peak": "{:.1%} of peak",
        "data_wait": "{:.1%} waiting for data",
    }
    parts += [template.format(values[name]) for name, template in templates.items() if name in values]
    if "memory_bytes" in values:
        parts.append(f"{values['memory_bytes'] / 1e9:.3g} GB")
    left = values.get("seconds_per_step", math.nan) * (total_steps - step)
    if math.isfinite(left):
        parts.append(f"{_duration(left)} left")
    return " | ".join(parts)


def _loss_parts(values: Mapping[str, float]) -> Iterator[str]:
    if "loss" not in values:
        return
    bands = [f"{name.removeprefix('loss/')} {value:.3g}" for name, value in values.items() if name.startswith("loss/")]
    yield f"loss {values['loss']:.4g}" + (f" ({', '.join(bands)})" if bands else "")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _cut(path: Path, step: int) -> None:
    """Leaves the lines of steps up to this one; a half-written line, as kill -9 leaves it, goes too."""
    with _naming(path.parent):
        lines = path.read_bytes().splitlines()
    parsed = [_parsed(line) for line in lines]
    kept = [line for line, values in zip(lines, parsed, strict=True) if values is not None and values["step"] <= step]
    damaged = sum(values is None for values in parsed)
    with write_atomically(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in kept))
    if len(kept) < len(lines):
        later = len(lines) - len(kept) - damaged
        logger.info("%s: cut %d lines after step %d and %d half-written", path, later, step, damaged)


def _parsed(line: bytes) -> dict[str, float] | None:
    try:
        content = json.loads(line)
        return {name: float(value) for name, value in content.items()} | {"step": int(content["step"])}
    except (ValueError, AttributeError, TypeError, KeyError):  # not JSON, not an object, not numbers, no step
        return None


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turns the system's errors into one line."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SMCDError(f"cannot write metrics into {folder}: {reason}; mend that and start again") from error


def _start_wandb(folder: Path, run_config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        logger.warning("no Weights & Biases: wandb is not installed (pip install wandb); the other outputs are written")
        return None
    with _naming(folder):
        identity = _wandb_identity(folder / WANDB_ID_FILE)
    project = {} if "WANDB_PROJECT" in os.environ else {"project": "smcd"}
    try:
        run = wandb.init(
            **project, id=identity, resume="allow", dir=str(folder), name=run_config.get("name"), config=run_config
        )
    except Exception as error:  # of several kinds that wandb does not export: no key, no network, no such project
        reason = " ".join(str(error).split())[:200]
        raise SMCDError(
            f"Weights & Biases does not start ({reason}): log in (wandb login), keep its files here "
            "(WANDB_MODE=offline), or leave it out (run.wandb=False)"
        ) from error
    # its own count of steps refuses to go back, as a resumed run must
    run.define_metric("*", step_metric="step")
    return run


def _wandb_identity(path: Path) -> str:
    """Of the run over all its restarts."""
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n", encoding="ascii")
    return path.read_text(encoding="ascii").strip()
