"""What is watched besides the training loss: the loss on fixed clips, noise and timesteps, and videos to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from smcd_jax.model_folder import ModelFolder
from smcd_jax.nn.networks import Params
from smcd_jax.tracks import BoxTracks
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.data import TrainingData
from smcd_jax.training.logging.metrics import MetricWriter
from smcd_jax.training.logging.sample_videos import write_samples
from smcd_jax.training.objective import NUM_BUCKETS
from smcd_jax.training.program import TrainProgram, sample_rows
from smcd_jax.training.sampling import decode, make_sampler, on_host
from smcd_jax.training.selection import join
from smcd_jax.training.state import TrainState, components, policy

_KEY = 20240708  # of all noise in validation and samples, the same in every run


class Validation:
    """Measures of the moving average where the run keeps one, else of the parameters; batches are read once."""

    def __init__(
        self, config: TrainConfig, program: TrainProgram, data: TrainingData, null: Mapping[str, Any], folder: Path
    ):
        self._config, self._program, self._data, self._folder = config, program, data, folder
        self._batches: dict[str, list[dict[str, jax.Array]]] = {}
        self._sampler = jax.jit(make_sampler(config, program.model, null)) if config.objective == "denoise" else None
        self._loss = jax.jit(
            lambda trained, frozen, stats, batch, index: program.objective(
                join(trained, frozen), stats, batch, jax.random.fold_in(jax.random.key(_KEY), index), train=False
            )[0]
        )

    def loss(self, state: TrainState, frozen: Params) -> dict[str, float]:
        """The values named validation_loss, and validation_loss/tN by band of timesteps."""
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
        """Videos of the first validation clips, with boxes drawn, in the samples folder and for TensorBoard."""
        if self._sampler is None:
            return
        (batch,) = self._read("samples", self._config.run.samples)
        params = join(state.ema or state.params, frozen)
        latents, real = self._sampler(params, batch, jax.random.key(_KEY))
        decoders = self._decoders(params)
        videos, real = (decode(self._program.model, decoders, part) for part in (latents, real))
        tracks = _tracks(on_host(batch["boxes"]), on_host(batch["mask"]))  # of all processes together
        if jax.process_index() != 0:
            return
        videos, real, tracks = (part[: self._config.run.samples] for part in (videos, real, tracks))
        fps = self._config.model.fps
        shown = write_samples(self._folder, step, videos, tracks, fps=fps, real=real)
        for index, video in enumerate(shown):
            writer.video(step, f"sample/{index}", video, fps=fps)

    def _read(self, what: Literal["loss", "samples"], count: int) -> list[dict[str, jax.Array]]:
        """Batches of at least so many examples; those of the loss are as large as the run's, samples are in one."""
        if what not in self._batches:
            size = self._config.data.batch_size if what == "loss" else sample_rows(self._config, self._program.mesh)
            self._batches[what] = self._data.validation(count, batch_size=size)
        return self._batches[what]

    def _decoders(self, params: Params) -> Params:
        names, held = self._program.model.in_stage("decode"), components(self._config)
        folder = None if set(names) <= set(held) else ModelFolder(self._config.init.model)
        dtype = policy(self._config).compute
        return {name: params[name] if name in held else folder.params(name, dtype=dtype) for name in names}


def _tracks(boxes: np.ndarray, mask: np.ndarray) -> list[BoxTracks | None]:
    present = [np.flatnonzero(clip.any(axis=0)) for clip in mask]
    return [
        BoxTracks(boxes[row][:, kept], mask[row][:, kept] > 0, tuple(f"object {index + 1}" for index in kept))
        if len(kept)
        else None
        for row, kept in enumerate(present)
    ]
