"""What is watched besides the training loss: the loss on fixed clips, noise and timesteps, and videos to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.registry import Params
from smcd_jax.tracks import BoxTracks
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.data import TrainingData
from smcd_jax.training.metrics import MetricWriter
from smcd_jax.training.program import TrainProgram
from smcd_jax.training.sample_videos import write_samples
from smcd_jax.training.sampling import decode, make_sampler, on_host
from smcd_jax.training.selection import join
from smcd_jax.training.state import BANDS, TrainState, components, policy

_KEY = 20240708  # of all noise in validation and samples, the same in every run


class Validation:
    """Measures of the moving average where the run keeps one, else of the parameters; batches are read once."""

    def __init__(
        self, config: TrainConfig, program: TrainProgram, data: TrainingData, null_text: np.ndarray, folder: Path
    ):
        self._config, self._program, self._data, self._folder = config, program, data, folder
        self._batches: dict[int, Any] = {}
        self._sampler = jax.jit(make_sampler(config, null_text)) if config.objective == "denoise" else None
        self._loss = jax.jit(
            lambda trained, frozen, batch: program.objective(
                join(trained, frozen), batch, jax.random.key(_KEY), train=False
            )
        )

    def loss(self, state: TrainState, frozen: Params) -> dict[str, float]:
        """The values named validation_loss, and validation_loss/tN by band of timesteps."""
        batch = self._batch(self._config.run.validation_examples)
        losses = self._loss(state.ema or state.params, frozen, batch)
        loss, band = on_host(losses.loss).astype(np.float64), on_host(losses.band)
        values = {"validation_loss": float(loss.mean())}
        for index in np.unique(band):
            values[f"validation_loss/t{index * 1000 // BANDS}"] = float(loss[band == index].mean())
        return values

    def samples(self, state: TrainState, frozen: Params, step: int, writer: MetricWriter) -> None:
        """Videos of the first validation clips, with boxes drawn, in the samples folder and for TensorBoard."""
        if self._sampler is None:
            return
        batch = self._batch(self._config.run.samples)
        params = join(state.ema or state.params, frozen)
        latents, real = self._sampler(params, batch, jax.random.key(_KEY))
        autoencoder = self._autoencoder(params)
        videos, real = (decode(self._config, autoencoder, part) for part in (latents, real))
        if jax.process_index() != 0:
            return
        tracks = _tracks(on_host(batch["boxes"]), on_host(batch["mask"]))
        fps = self._config.model.fps
        shown = write_samples(self._folder, step, videos, tracks, fps=fps, real=real)
        for index, video in enumerate(shown):
            writer.video(step, f"sample/{index}", video, fps=fps)

    def _batch(self, count: int) -> Any:
        if count not in self._batches:
            batch = self._data.validation(count)
            if batch is None:
                raise SMCDError("config: validation and samples need data.validation_split; name one or set both to 0")
            self._batches[count] = batch
        return self._batches[count]

    def _autoencoder(self, params: Params) -> Params:
        if "autoencoder" in components(self._config):
            return params["autoencoder"]
        return ModelFolder(self._config.init.model).params("autoencoder", dtype=policy(self._config).compute)


def _tracks(boxes: np.ndarray, mask: np.ndarray) -> list[BoxTracks | None]:
    present = [np.flatnonzero(clip.any(axis=0)) for clip in mask]
    return [
        BoxTracks(boxes[row][:, kept], mask[row][:, kept] > 0, tuple(f"object {index + 1}" for index in kept))
        if len(kept)
        else None
        for row, kept in enumerate(present)
    ]
