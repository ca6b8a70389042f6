"""Validation during training: the loss on fixed clips, noise and timesteps, and sample videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.networks import Params
from smcd_jax.tracks import BoxTracks
from smcd_jax.training.data import TrainingData
from smcd_jax.training.logging.metrics import MetricWriter
from smcd_jax.training.logging.sample_videos import write_samples
from smcd_jax.training.sampling import decode, make_sampler, on_host, sample_rows
from smcd_jax.training.selection import join
from smcd_jax.training.state import NUM_BUCKETS, TrainState, policy
from smcd_jax.training.step import TrainProgram

_KEY = 20240708  # seed of all noise in validation and samples, the same in every run


class Validation:
    """Evaluates the moving average of the parameters if the run keeps one, else the parameters.

    Args:
        program: Program of the run.
        data: Data of the run; validation batches are read once.
        null: Arrays of the null prompt (`smcd_jax.training.data.null_arrays`).
        base: Model folder that training starts from, for decoders that the step does not load; None to train from
            scratch.
        folder: Folder of the sample videos.
    """

    def __init__(
        self,
        program: TrainProgram,
        data: TrainingData,
        null: Mapping[str, Any],
        *,
        base: ModelFolder | None,
        folder: Path,
    ):
        self._program, self._data, self._base, self._folder = program, data, base, folder
        self._config = config = program.config
        self._batches: dict[str, list[dict[str, jax.Array]]] = {}
        self._sampler = None
        # No samples of motion models: a motion field is visible only when it is applied to a picture.
        if config.objective == "denoise" and not program.model.field_shape:
            sampler = make_sampler(
                program.model,
                null,
                num_steps=config.run.sample_steps,
                guidance_scale=config.run.guidance_scale,
                temporal=config.temporal,
            )
            self._sampler = jax.jit(sampler)
        self._loss = jax.jit(
            lambda trained, frozen, stats, batch, index: program.objective(
                join(trained, frozen), stats, batch, jax.random.fold_in(jax.random.key(_KEY), index), train=False
            )[0]
        )

    def loss(self, state: TrainState, frozen: Params) -> dict[str, float]:
        """Returns "validation_loss", and "validation_loss/tN" for each timestep bucket that starts at N."""
        trained, batches = state.ema or state.params, self._read("loss", self._config.run.validation_examples)
        losses = [
            self._loss(trained, frozen, state.stats, batch, np.uint32(index)) for index, batch in enumerate(batches)
        ]
        loss = np.concatenate([on_host(part.loss).astype(np.float64) for part in losses])
        bucket = np.concatenate([on_host(part.timestep_bucket) for part in losses])
        values = {"validation_loss": float(loss.mean())}
        for index in np.unique(bucket):
            values[f"validation_loss/t{index * 1000 // NUM_BUCKETS}"] = float(loss[bucket == index].mean())
        return values

    def samples(self, state: TrainState, frozen: Params, step: int, writer: MetricWriter) -> None:
        """Writes videos of the first validation clips with their boxes to the samples folder and to TensorBoard."""
        if self._sampler is None:
            return
        (batch,) = self._read("samples", self._config.run.samples)
        params = join(state.ema or state.params, frozen)
        latents, real = self._sampler(params, batch, jax.random.key(_KEY))
        decoders = self._decoders(params)
        videos, real = (decode(self._program.model, decoders, part) for part in (latents, real))
        tracks = _tracks(on_host(batch["boxes"]), on_host(batch["mask"]))  # a collective operation
        if jax.process_index() != 0:
            return
        videos, real, tracks = (part[: self._config.run.samples] for part in (videos, real, tracks))
        fps = self._config.model.fps
        shown = write_samples(self._folder, step, videos, tracks, fps=fps, real=real)
        for index, video in enumerate(shown):
            writer.video(step, f"sample/{index}", video, fps=fps)

    def _read(self, what: Literal["loss", "samples"], count: int) -> list[dict[str, jax.Array]]:
        """Returns at least ``count`` examples: in batches of the run's size for the loss, in one batch for samples."""
        if what not in self._batches:
            config = self._config
            size = config.data.batch_size if what == "loss" else sample_rows(config.run.samples, self._program.mesh)
            self._batches[what] = self._data.validation(count, batch_size=size)
        return self._batches[what]

    def _decoders(self, params: Params) -> Params:
        names = self._program.model.in_stage("decode")
        dtype = policy(self._config).compute
        return {name: params[name] if name in params else self._base.params(name, dtype=dtype) for name in names}


def _tracks(boxes: np.ndarray, mask: np.ndarray) -> list[BoxTracks | None]:
    present = [np.flatnonzero(clip.any(axis=0)) for clip in mask]
    return [
        BoxTracks(boxes[row][:, kept], mask[row][:, kept] > 0, tuple(f"object {index + 1}" for index in kept))
        if len(kept)
        else None
        for row, kept in enumerate(present)
    ]
