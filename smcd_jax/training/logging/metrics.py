"""Metrics of a training run: ``metrics.jsonl``, TensorBoard event files, Weights & Biases, and the log line.

Values have these names; the log line shows those that are present:

    loss, loss/t0, loss/t250, ...    mean since the last line, overall and per bucket of timesteps
    validation_loss                  with fixed noise and timesteps
    gradient_norm, parameter_norm    before gradient clipping; of the trained parameters
    learning_rate
    gates/mean/object, gates/...     see `smcd_jax.training.logging.gates`
    clips_per_second, ...            see `smcd_jax.training.logging.throughput`
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

from smcd_jax import media
from smcd_jax.errors import SMCDError
from smcd_jax.files import write_atomically
from smcd_jax.training.logging.event_file import DirectFile, EventFile

logger = logging.getLogger(__name__)

METRICS_FILE, EVENT_FOLDER, WANDB_ID_FILE = "metrics.jsonl", "tensorboard", "wandb_run_id"
_GIF_MAX_FPS = 50


class MetricWriter:
    """Writes the metrics of a run; only process 0 writes, calls on other processes do nothing.

    ``metrics.jsonl`` has one JSON object per line: "step", "time" (seconds since 1970) and the values by name, without
    rounding. NaN and infinities are the strings "nan", "inf" and "-inf". `read_metrics` reads the file. `scalars`
    passes each line to the operating system before it returns, so that kill -9 loses no line. A resumed run first
    removes the lines of the steps that it repeats; write the metrics of a step before its checkpoint.

    Args:
        folder: Existing folder of the run.
        tensorboard: Whether to write event files into ``tensorboard/``, if the tensorboard package is installed.
        wandb: Whether to log to Weights & Biases, if the wandb package is installed; configured by its own environment
            variables (WANDB_PROJECT, WANDB_MODE=offline, ...).
        run_config: Config of the run for Weights & Biases; its "name" is the name of the run there.
        resume_step: Number of completed steps. Later lines are removed (in Weights & Biases they stay).

    Raises:
        SMCDError: The folder cannot be written, or Weights & Biases cannot start.
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
        self._folder = Path(folder)
        self._lines = self._events = self._run = None
        if jax.process_index() != 0:
            return
        if wandb:
            self._run = _start_wandb(self._folder, dict(run_config or {}))
        path = self._folder / METRICS_FILE
        if path.exists():
            _remove_later_lines(path, resume_step)
        with _write_errors(self._folder):
            self._lines = DirectFile(path, "ab")
            if tensorboard:
                self._events = _open_events(self._folder / EVENT_FOLDER, resume_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of values.

        Args:
            step: Number of completed steps.
            values: Values by name, convertible with `float`.

        Raises:
            SMCDError: The line cannot be written, for example because the disk is full.
        """
        if self._lines is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        content = {"step": int(step), "time": time.time()}
        content |= {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        with _write_errors(self._folder):
            self._lines.write(json.dumps(content, allow_nan=False).encode() + b"\n")
            if self._events is not None:
                self._events.scalars(step, numbers)
        if self._run is not None:
            self._run.log({"step": int(step), **numbers})

    def video(self, step: int, name: str, frames: UInt8[np.ndarray, "f h w 3"], *, fps: float) -> None:
        """Writes a video to TensorBoard and Weights & Biases.

        Args:
            step: Number of completed steps.
            name: Name of the video, the same at every step.
            frames: Frames, ``[f, h, w, 3]``.
            fps: Frames per second, limited to 50 by the GIF format.
        """
        if self._events is None and self._run is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            gif = media.write_video(frames, Path(folder) / "clip.gif", fps=min(fps, _GIF_MAX_FPS))
            if self._events is not None:
                height, width = frames.shape[1:3]
                with _write_errors(self._folder):
                    self._events.image(step, name, gif.read_bytes(), height=height, width=width)
            if self._run is not None:
                import wandb

                self._run.log({"step": int(step), name: wandb.Video(str(gif), format="gif")})

    def close(self) -> None:
        """Closes all outputs."""
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
    """Returns the lines of ``metrics.jsonl`` as dicts, without incomplete ones."""
    with Path(path).open("rb") as file:
        return [values for line in file if (values := _parsed(line)) is not None]


def summary_line(step: int, total_steps: int, values: Mapping[str, float], *, seconds_left: float | None = None) -> str:
    """Returns the most important values that are present, as one line for the terminal.

    Args:
        step: Number of completed steps.
        total_steps: Number of steps of the run.
        values: Values by the names of their metrics.
        seconds_left: Remaining time of a run with a time limit; None to estimate it from the steps.
    """
    timed = seconds_left is not None
    parts = [f"step {step}" if timed else f"step {step}/{total_steps}", *_loss_parts(values)]
    templates = {
        "validation_loss": "validation {:.4g}",
        "gradient_norm": "gradient {:.3g}",
        "parameter_norm": "parameters {:.4g}",
        "learning_rate": "rate {:.3g}",
        "gates/mean/object": "object gates {:.3g}",
        "gates/mean/image": "image gates {:.3g}",
        "examples": "{:.0f} examples",
        "clips_per_second": "{:.3g} clips/s",
        "tflop_per_second": "{:.3g} TFLOP/s",
        "share_of_peak": "{:.1%} of peak",
        "data_wait": "{:.1%} waiting for data",
    }
    parts += [template.format(values[name]) for name, template in templates.items() if name in values]
    if "memory_bytes" in values:
        parts.append(f"{values['memory_bytes'] / 1e9:.3g} GB")
    left = seconds_left if timed else values.get("seconds_per_step", math.nan) * (total_steps - step)
    if math.isfinite(left):
        parts.append(f"{_duration(left)} left")
    return " | ".join(parts)


def _loss_parts(values: Mapping[str, float]) -> Iterator[str]:
    if "loss" not in values:
        return
    by_bucket = {name.removeprefix("loss/"): value for name, value in values.items() if name.startswith("loss/")}
    buckets = [f"{name} {value:.3g}" for name, value in by_bucket.items()]
    yield f"loss {values['loss']:.4g}" + (f" ({', '.join(buckets)})" if buckets else "")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def _remove_later_lines(path: Path, step: int) -> None:
    """Removes the lines of later steps, and incomplete lines, which kill -9 may leave."""
    with _write_errors(path.parent):
        lines = path.read_bytes().splitlines()
    parsed = [_parsed(line) for line in lines]
    kept = [line for line, values in zip(lines, parsed, strict=True) if values is not None and values["step"] <= step]
    damaged = sum(values is None for values in parsed)
    with write_atomically(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in kept))
    if len(kept) < len(lines):
        later = len(lines) - len(kept) - damaged
        logger.info("%s: removed %d lines after step %d and %d incomplete lines", path, later, step, damaged)


def _parsed(line: bytes) -> dict[str, float] | None:
    try:
        content = json.loads(line)
        return {name: float(value) for name, value in content.items()} | {"step": int(content["step"])}
    except (ValueError, AttributeError, TypeError, KeyError):  # not a JSON object of numbers with a step
        return None


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """Turns `OSError` into an `SMCDError`."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SMCDError(
            f"{folder}: cannot write metrics ({reason}); fix this, then start again", path=folder
        ) from error


def _open_events(folder: Path, resume_step: int) -> EventFile | None:
    # Without older event files there is nothing to hide.
    first_step = resume_step + 1 if folder.exists() else None
    try:
        return EventFile(folder, first_step=first_step)
    except ImportError:
        logger.warning("no TensorBoard files: tensorboard is not installed (pip install tensorboard)")
        return None


def _start_wandb(folder: Path, run_config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError:
        logger.warning("no logging to Weights & Biases: wandb is not installed (pip install wandb)")
        return None
    with _write_errors(folder):
        identity = _wandb_identity(folder / WANDB_ID_FILE)
    project = {} if "WANDB_PROJECT" in os.environ else {"project": "smcd"}
    try:
        run = wandb.init(
            **project, id=identity, resume="allow", dir=str(folder), name=run_config.get("name"), config=run_config
        )
    except Exception as error:  # wandb does not export its error types: no key, no network, no such project
        reason = " ".join(str(error).split())[:200]
        raise SMCDError(
            f"Weights & Biases cannot start ({reason}); log in (wandb login), write its files locally "
            "(WANDB_MODE=offline), or turn it off (run.wandb=False)",
            argument="wandb",
        ) from error
    # wandb's step counter cannot decrease, but that of a resumed run does, so metrics are plotted against `step`.
    run.define_metric("*", step_metric="step")
    return run


def _wandb_identity(path: Path) -> str:
    """Returns the id of the run, which stays the same over restarts."""
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n", encoding="ascii")
    return path.read_text(encoding="ascii").strip()
