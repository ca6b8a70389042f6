"""Helpers for training tests: a very small model, sprite records, and `smcd train` in this process or a subprocess.

This file is also a config file (``--config tests/training/training_run.py:pictures``), so that subprocesses train the
same model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from data_pipeline import batches as batch_streams
from data_pipeline.batches import HostBatch
from smcd_jax.cli import main
from smcd_jax.files.config_json import to_dict
from smcd_jax.model_folder import ModelFolder, Origin, write_model_folder
from smcd_jax.models.smcd.config import ImageEncoderConfig, ModelConfig
from smcd_jax.nn.config import AutoencoderConfig, PositionNetConfig, TextEncoderConfig, UNetConfig
from smcd_jax.nn.networks import Params, abstract_params, flatten, unflatten
from smcd_jax.runtime.sharding import make_mesh
from smcd_jax.training import loop
from smcd_jax.training.checkpoint.manifest import Manifest
from smcd_jax.training.checkpoint.orbax_io import read_arrays
from smcd_jax.training.config import InitConfig, RunConfig, TrainConfig, load_config
from smcd_jax.training.data import TrainingData
from smcd_jax.training.logging.metrics import METRICS_FILE, read_metrics
from smcd_jax.training.state import component_params, components
from smcd_jax.training.step import TrainProgram
from tests.xla_flags import xla_flags

ROOT = Path(__file__).resolve().parents[2]
CONFIG_FILE = Path(__file__).resolve()
QUICKLY = {"xla_backend_optimization_level": 0}  # compiler options that halve the compile time
BATCH = 8  # examples; a multiple of the number of devices in every test
TOLD = "TRAINING_RUN_TOLD"  # environment variable with the arguments of `do_as_told` as JSON
LOSS_TOLERANCE, PARAMETER_TOLERANCE = 2e-4, 2e-3  # relative to a loss; relative to the largest value of an array
_compiled: dict[object, object] = {}  # compiled steps by the values that they depend on; see `share_programs`
_UNET = UNetConfig(
    base_channels=16,
    channel_mult=(1,),
    num_res_blocks=0,
    attention_scales=(),
    head_dim=8,
    stem_heads=2,
    context_dim=16,
    object_width=16,
    image_width=16,
    groups=4,
)
MODEL = ModelConfig(
    unet=dataclasses.replace(_UNET, gate="object_image", image_latent=True),
    position_net=PositionNetConfig(label_width=16, token_width=16, hidden_width=16),
    image_encoder=ImageEncoderConfig(stages=(16,), num_res_blocks=1),
    autoencoder=AutoencoderConfig(base_channels=8, channel_mult=(1, 1, 1), num_res_blocks=1, groups=4),
    text_encoder=TextEncoderConfig(width=16, heads=2, layers=2, embed_width=16),
    prediction_type="v_prediction",
    frames=2,
    height=16,
    width=16,
    max_objects=2,
)
# Tests of the training loop use this model: without temporal layers and image gates, a step compiles in a third of
# the time.
PICTURES = dataclasses.replace(
    MODEL, unet=dataclasses.replace(_UNET, gate="object", image_latent=True), image_encoder=None
)


def get_config(preset: str = "pictures") -> ConfigDict:
    """Returns the config of stage 1 ("pictures") or stage 2 ("clips"); overrides must give model and records."""
    do_as_told(**json.loads(os.environ.get(TOLD, "{}")))
    pictures = preset == "pictures"
    config = ConfigDict(
        to_dict(
            TrainConfig(
                name=f"very_small_{preset}",
                model=PICTURES if pictures else MODEL,
                condition_dropout=dict.fromkeys(("text", "boxes", "image_latent", "image_tokens"), 0.0),
            )
        )
    )
    config.trainable = ("position_net/.*", "unet/.*/gates/.*")
    if not pictures:
        config.trainable = (
            "image_encoder/.*",
            "unet/.*/gates/.*",
            "unet/encoder_0/conv/.*",
            r"unet/.*/temporal(_conv)?/.*",
        )
        config.condition_dropout.image_latent = config.condition_dropout.image_tokens = 0.25
    config.temporal = not pictures
    config.dropout = False
    config.data.frames = 1 if pictures else MODEL.frames
    config.data.batch_size = BATCH
    config.data.threads = 1
    config.condition_dropout.text = config.condition_dropout.boxes = 0.25
    config.optimizer.learning_rate = 2e-3
    config.optimizer.ema_decay = 0.9
    config.run.steps = 6
    config.run.log_every = 1
    config.run.save_every = 2
    config.run.validate_every = config.run.sample_every = 0
    config.run.tensorboard = False
    return config


class Files(NamedTuple):
    """Files shared by all training runs of a test session.

    Attributes:
        model: Model folder that training starts from.
        records: Sprite records with cached features; splits train and val.
        programs: Cache of compiled programs, shared by all pytest workers, so that a process starts in seconds.
    """

    model: Path
    records: Path
    programs: Path


@contextlib.contextmanager
def training_files(base: Path) -> Iterator[Files]:
    """Yields the files, made once for all pytest workers; within the block, this process uses their program cache."""
    folder = of_all_workers(base) / "training"
    files = Files(folder / "model", folder / "records", folder / "programs")
    settings = {
        "jax_compilation_cache_dir": str(files.programs),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _configure(settings)
    try:
        with made_once(folder) as missing:
            if missing:
                write_stand_in(files.model)
                _prepare(files)
        yield files
    finally:
        _configure(before)


def of_all_workers(base: Path) -> Path:
    """Returns a temporary folder that all pytest workers share."""
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Locks a folder that workers share; yields True to the worker that must fill it and False once it is filled."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not (folder / "made").exists()
        (folder / "made").touch()


def write_stand_in(path: Path, config: Any = MODEL, seed: int = 0) -> None:
    """Writes a model folder to use in place of a trained one: no layer is zero and the gates are open.

    The values are random numbers from NumPy, because the networks' own initialisers take half a minute to compile.
    """
    rng = np.random.default_rng(seed)

    def made(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith(("scale", "bias")) or not shape:
            return np.full(shape, {"scale": 1.0, "bias": 0.0}.get(name.rsplit("/", 1)[-1], 0.3), np.float32)
        inputs = np.prod(shape[:-1]) if name.endswith("kernel") else 1
        return (rng.standard_normal(shape) / np.sqrt(inputs)).astype(np.float32)

    leaves = (
        (component, {name: made(name, leaf.shape) for name, leaf in flatten(abstract_params(part)).items()})
        for component, part in config.components().items()
    )
    write_model_folder(path, config, leaves, origin=Origin("untrained", note="random", license="CC0-1.0"))


def train_arguments(files: Files, workdir: Path, *more: str, preset: str = "pictures") -> list[str]:
    """Returns the arguments of `smcd train`; ``more`` are further flags, or overrides such as "run.steps=4"."""
    overrides = [f"init.model={files.model}", f"data.records={files.records}"]
    flags = [word for word in more if word.startswith("--") or "=" not in word]
    overrides += [word for word in more if word not in flags]
    where = ["train", "--config", f"{CONFIG_FILE}:{preset}", "--workdir", str(workdir)]
    return [*where, *flags, *(f"--config.{override}" for override in overrides)]


def configured(files: Files, *overrides: str, preset: str = "pictures") -> TrainConfig:
    """Returns the config of `train_arguments` with these overrides."""
    where = (f"init.model={files.model}", f"data.records={files.records}")
    return load_config(f"{CONFIG_FILE}:{preset}", (*where, *overrides))


def starting_params(config: TrainConfig) -> Params:
    """Returns a run's initial parameters for all components that the step uses."""
    folder = ModelFolder(config.init.model)
    leaves = {}
    for name, part in components(config).items():
        leaves |= component_params(config, name, part, folder=folder, from_scratch=frozenset())
    return unflatten({path: jax.numpy.asarray(leaf) for path, leaf in leaves.items()})


def train_here(files: Files, workdir: Path, *more: str, devices: int = 1, preset: str = "pictures") -> int:
    """Runs `smcd train` in this process on its first ``devices`` devices; returns the exit status."""
    return run_here(train_arguments(files, workdir, *more, preset=preset), devices=devices)


def run_here(arguments: list[str], *, devices: int = 1) -> int:
    """Runs `smcd` in this process, with `smcd train` on the first ``devices`` devices; returns the exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", functools.partial(make_mesh, devices=jax.devices()[:devices]))
        return main(arguments)


def start_training(
    files: Files, workdir: Path, *more: str, devices: int = 1, log: Path, told: dict[str, Any] | None = None
) -> subprocess.Popen:
    """Starts `smcd train` in a subprocess with ``devices`` devices; its output is appended to ``log``.

    ``told`` contains arguments of `do_as_told`. The step is compiled as in `share_programs`, which takes only seconds.
    """
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {
        "XLA_FLAGS": xla_flags(devices),
        "JAX_COMPILATION_CACHE_DIR": str(files.programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        TOLD: json.dumps({"programs": True, "tensorflow": False, **(told or {})}),
    }
    command = [sys.executable, "-m", "smcd_jax", *train_arguments(files, workdir, *more)]
    with log.open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def do_as_told(
    *,
    programs: bool = False,
    tensorflow: bool = True,
    hold_after: int | None = None,
    until: str = "",
    batches: str = "",
    full_disk_at: int = 0,
    visible_within: float = 0.0,
) -> None:
    """Changes this process so that a test can interrupt it at a known step; without arguments it changes nothing.

    Args:
        programs: Whether to call `share_programs`.
        tensorflow: Whether to load data with TensorFlow, whose import takes seconds, instead of threads.
        hold_after: Number of batches after which the next one is held back until the file ``until`` exists. The run
            then waits between two steps while its background work continues.
        until: File whose existence ends the wait; empty to wait until the process is killed.
        batches: File to which the clips and first frames of every batch are appended, for `seen_batches`.
        full_disk_at: Step whose checkpoint cannot be written; 0 for none.
        visible_within: Seconds that processes wait for a file of another process to appear; 0 for the usual time.
    """

    def change(number: int, batch: HostBatch) -> HostBatch:
        if hold_after is not None and number > hold_after:
            while not (until and Path(until).exists()):
                time.sleep(0.01)
        if batches:
            with Path(batches).open("a", encoding="utf-8") as file:
                place = json.dumps(batch.state.to_dict(), sort_keys=True)
                file.write(json.dumps([place, list(zip(batch.clip_ids, batch.starts.tolist(), strict=True))]) + "\n")
        return batch

    if programs:
        share_programs(pytest.MonkeyPatch())
    if not tensorflow:
        pytest.MonkeyPatch().setattr(batch_streams, "_has_tensorflow", lambda: False)
    if hold_after is not None or batches:
        change_batches(pytest.MonkeyPatch(), change)
    if full_disk_at:
        fail_saves(pytest.MonkeyPatch(), full_disk_at)
    if visible_within:
        pytest.MonkeyPatch().setattr("smcd_jax.training.workdir._VISIBLE_WITHIN_SECONDS", visible_within)


def seen_batches(file: Path) -> dict[str, list[list]]:
    """Returns each batch's (clip, first frame) pairs by data position after the batch; repeated batches must agree."""
    seen: dict[str, list[list]] = {}
    for place, rows in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        assert seen.setdefault(place, rows) == rows
    return seen


def fail_saves(patch: pytest.MonkeyPatch, step: int) -> None:
    """Makes the background save of one step fail as on a full disk, after its arrays have begun to be written."""
    unchanged = ocp.PyTreeCheckpointHandler.async_save

    class FullDisk:
        def result(self, timeout: float | None = None) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def async_save(handler: ocp.PyTreeCheckpointHandler, directory: Any, *args: Any, **rest: Any) -> list:
        futures = list(await unchanged(handler, directory, *args, **rest) or ())
        return [*futures, FullDisk()] if str(step) in re.findall(r"\d+", Path(directory).parent.name) else futures

    patch.setattr(ocp.PyTreeCheckpointHandler, "async_save", async_save)


def free_port() -> int:
    """Returns a free port of this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(process: subprocess.Popen, condition: Callable[[], bool], *, seconds: float = 400.0) -> bool:
    """Waits for the condition to hold; returns False if the process ends first."""
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < limit, "the condition was not met within the time limit"
        time.sleep(0.01)
    return True


def change_batches(patch: pytest.MonkeyPatch, change: Callable[[int, HostBatch], HostBatch]) -> None:
    """Replaces every batch of later runs in this process by ``change(number, batch)``, where numbers start at 1."""
    unchanged = TrainingData.stream

    def stream(self: TrainingData, state: object) -> Iterator[HostBatch]:
        for number, batch in enumerate(unchanged(self, state), 1):
            yield change(number, batch)

    patch.setattr(TrainingData, "stream", stream)


def share_programs(patch: pytest.MonkeyPatch) -> None:
    """Makes later runs in this process compile their steps with fewer optimizations, and each step only once.

    Runs share a program if their configs differ only in keys that may change when a run resumes. The FLOPs of a step
    are not counted.
    """

    def compile_step(self: TrainProgram) -> object:
        config = self.config
        # With another schedule the step would depend on run.steps.
        assert config.optimizer.schedule == "constant" or config.run.minutes
        data = dataclasses.replace(config.data, records=(), threads=1)
        run = RunConfig(log_every=config.run.log_every, minutes=float(config.run.minutes > 0))
        same = dataclasses.replace(config, run=run, data=data, init=InitConfig()), self.mesh
        if same not in _compiled:
            with jax.set_mesh(self.mesh):
                _compiled[same] = self.step.lower(self.state, self.frozen, self.batch).compile(QUICKLY)
        return _compiled[same]

    patch.setattr(TrainProgram, "compile", compile_step)
    patch.setattr(TrainProgram, "flops", lambda self: 1)


def logged_losses(workdir: Path) -> dict[int, dict[str, float]]:
    """Returns the logged losses, gates and norms by step, without timings, which differ between runs."""
    file = workdir / METRICS_FILE
    lines = read_metrics(file) if file.exists() else []
    kept = lambda name: name.startswith(("loss", "gates/")) or name in ("gradient_norm", "parameter_norm")  # noqa: E731
    return {int(line["step"]): {name: line[name] for name in line if kept(name)} for line in lines if "loss" in line}


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of complete checkpoints in ascending order."""
    return sorted(int(folder.name) for folder in (workdir / "checkpoints").glob("[0-9]*") if folder.name.isdecimal())


def checkpoint_content(workdir: Path, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """Returns a checkpoint's arrays by item and name, and its data position."""
    folder = workdir / "checkpoints" / str(step)
    manifest = Manifest.read(folder)
    arrays = {
        f"{item}/{name}": leaf
        for item, records in manifest.arrays.items()
        for name, leaf in read_arrays(folder / item, dict.fromkeys(records)).items()
    }
    return arrays, manifest.verified_json(folder)["data"]


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Asserts that two runs agree bit for bit: all arrays of the checkpoint, data position, and logged losses.

    Args:
        one: Workdir of the uninterrupted run.
        other: Workdir of the other run.
        step: Last step of both runs.
    """
    (ours, place), (theirs, other_place) = (checkpoint_content(workdir, step) for workdir in (one, other))
    assert ours.keys() == theirs.keys()
    kinds = {name.split("/")[1] for name in ours if name.startswith("train/")}
    assert kinds == {"step", "optimizer", "ema", "key", "fault", "window"}
    different = [name for name, leaf in ours.items() if leaf.tobytes() != theirs[name].tobytes()]
    assert not different
    assert place == other_place
    logged, again = logged_losses(one), logged_losses(other)
    assert step in logged
    assert {number: again.get(number) for number in logged} == logged  # a resumed run also logs its first step


def assert_like(one: Path, other: Path, step: int) -> None:
    """Asserts that runs on different meshes have the same data position, and equal values within the tolerances.

    Float32 sums in another order differ in their last digits, which Adam amplifies where it divides by small moments.
    """
    ours, theirs = logged_losses(one), logged_losses(other)
    for number in sorted({*ours} & {*theirs}):
        for name in ("loss", "gradient_norm"):
            assert ours[number][name] == pytest.approx(theirs[number][name], rel=LOSS_TOLERANCE), (number, name)
    (arrays, place), (others, other_place) = (checkpoint_content(workdir, step) for workdir in (one, other))
    assert place == other_place
    for name, leaf in arrays.items():
        if name.startswith(("params/", "train/ema/")):
            largest = np.abs(others[name]).max() + 0.1
            np.testing.assert_allclose(leaf, others[name], rtol=0, atol=PARAMETER_TOLERANCE * largest, err_msg=name)


def _configure(settings: dict[str, object]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX opens its cache only once and would ignore a folder set later


def _prepare(files: Files) -> None:
    world = {"train_clips": 40, "val_clips": 8, "test_clips": 0, "width": 32, "height": 32, "frames": MODEL.frames}
    world |= {"max_objects": 1}
    options = [word for key, value in world.items() for word in ("--option", f"{key}={value}")]
    assert main(["prepare", "sprites", "--output", str(files.records), "--workers", "1", *options]) == 0
    assert (
        main(["prepare", "--features", str(files.model), "--output", str(files.records), "--splits", "train,val"]) == 0
    )
