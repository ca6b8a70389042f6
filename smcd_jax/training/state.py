"""What changes from step to step, and how it comes to life: sharded, from a model folder or from scratch."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.registry import make_model
from smcd_jax.models.video_model import Component, FeatureStep, Stats
from smcd_jax.nn.gate_names import is_gate
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.networks import Params, abstract_params, flatten, init_leaves, unflatten
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.objective import NUM_BUCKETS
from smcd_jax.training.selection import select

logger = logging.getLogger(__name__)

NO_FAULT = -1


class TrainState(NamedTuple):
    """All that a checkpoint needs to go on exactly, besides the place in the data.

    Attributes:
        step: updates made so far, int32.
        params: trained parameters, float32.
        optimizer: optax state of them.
        stats: Running statistics that the objective returns, such as those of batch normalisation; not averaged.
        ema: their moving average; an empty dict where it is off.
        key: data of the random key from which every step's is derived, uint32.
        fault: the step whose loss or gradient was not finite, after which nothing changes any more; else `NO_FAULT`.
        window: sums for the next line of the log since the last one.
    """

    step: jax.Array
    params: Params
    optimizer: optax.OptState
    stats: Stats
    ema: Params
    key: jax.Array
    fault: jax.Array
    window: dict[str, jax.Array]


def components(config: TrainConfig) -> dict[str, Component]:
    """Each component that the training step runs, by name."""
    model = make_model(config.model)
    if config.objective != "denoise":
        names = set(model.objectives[config.objective].components)
    else:
        computed = {step.component for step in model.feature_steps if not is_cached(step, config.data.inputs)}
        names = {*model.in_stage("encode", "denoise"), *computed}
    return {name: part for name, part in model.components.items() if name in names}


def is_cached(step: FeatureStep, inputs: str) -> bool:
    """Whether a feature comes from the cache with ``data.inputs`` set to ``inputs``."""
    return inputs == "features" or (inputs == "latents" and step.source == "video")


def abstract(config: TrainConfig) -> Params:
    """Shapes of the parameters of all components of the step, float32."""
    return {name: abstract_params(part.config) for name, part in components(config).items()}


def trained_paths(config: TrainConfig) -> frozenset[str]:
    """Paths of the parameters the run trains.

    Raises:
        SMCDError: no pattern, or one that matches nothing.
    """
    if not config.trainable:
        raise SMCDError(
            "config: trainable must name parameters, got no pattern; use path patterns such as 'unet/.*'",
            argument="trainable",
        )
    return select(flatten(abstract(config)), config.trainable, what="config: trainable")


def policy(config: TrainConfig, platform: str | None = None) -> ComputePolicy:
    """Dtypes of the computation; parameters are cast where they are used.

    Args:
        config: of the run.
        platform: "cpu", "gpu" or "tpu" that the run is for; by default that of this machine.
    """
    of_device = ComputePolicy.for_device(config.dtype or None, platform)
    attention = "cudnn_train" if of_device.attention == "cudnn" else of_device.attention
    return dataclasses.replace(of_device, params=jnp.float32, remat=config.remat == "blocks", attention=attention)


def load_params(config: TrainConfig, paths: frozenset[str], places: Any, *, dtype: Any = jnp.float32) -> Params:
    """The starting parameters of these paths on their devices; one component at a time passes through the host.

    Args:
        config: of the run.
        paths: of the parameters.
        places: the tree of their shardings.
        dtype: of all but scalars.

    Raises:
        SMCDError: A parameter is neither in the model folder nor named in ``init.from_scratch``, or its shape there
            differs.
    """
    folder = ModelFolder(config.init.model) if config.init.model else None
    from_scratch, shardings, leaves = from_scratch_paths(config, folder), flatten(places), {}
    for name, part in components(config).items():
        if not any(path.startswith(f"{name}/") for path in paths):
            continue
        for path, leaf in component_params(config, name, part, folder=folder, from_scratch=from_scratch).items():
            if path in paths:
                typed = leaf.astype(dtype, copy=False) if leaf.ndim else leaf
                leaves[path] = _place(typed, shardings[path])
    return unflatten(leaves)


def _place(leaf: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Each device gets its part of an array that every process has."""
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def component_params(
    config: TrainConfig, name: str, part: Component, *, folder: ModelFolder | None, from_scratch: frozenset[str]
) -> dict[str, np.ndarray]:
    """One component's starting parameters by whole path, float32, on the host."""
    shapes = {f"{name}/{path}": leaf for path, leaf in flatten(abstract_params(part.config)).items()}
    given = _read_component(folder, name, part)
    widened = {f"{name}/{path}" for path in part.widened}
    leaves = {}
    for path, shape in shapes.items():
        if path in given and given[path].shape == shape.shape:
            leaves[path] = given[path]
        elif path in given and path in widened and _lacks_channels(given[path].shape, shape.shape):
            leaves[path] = _with_zero_channels(given[path], shape.shape)
        elif path in given and path not in from_scratch:
            raise SMCDError(
                f"{folder.path}: shape of {path} must be {shape.shape} as in config.model, got {given[path].shape}",
                argument=path,
                path=folder.path,
                value=given[path].shape,
            )
    missing = [path for path in shapes if path not in leaves]
    unnamed = [path for path in missing if path not in from_scratch]
    if unnamed:
        raise SMCDError(
            f"{len(unnamed)} parameters are not in {folder.path if folder else 'init.model'} and no pattern of "
            f"init.from_scratch names them ({', '.join(unnamed[:3])}, ...)",
            argument="init.from_scratch",
            path=folder.path if folder else None,
            value=unnamed[0],
        )
    if missing:
        leaves |= _from_scratch(config, name, part.config, missing)
    return leaves


def _from_scratch(config: TrainConfig, name: str, part: Any, paths: list[str]) -> dict[str, np.ndarray]:
    key = jax.random.fold_in(jax.random.key(config.seed), sum(name.encode()))
    logger.info("%s: %d parameters start from scratch", name, len(paths))
    inner = {path.split("/", 1)[1] for path in paths}
    made = {f"{name}/{path}": np.asarray(leaf) for path, leaf in init_leaves(part, key, only=inner)}
    gate = np.full((), config.init.gates, np.float32)
    return {path: gate if is_gate(path) else leaf for path, leaf in made.items()}


def from_scratch_paths(config: TrainConfig, folder: ModelFolder | None) -> frozenset[str]:
    """Parameters that may start from scratch: those `init.from_scratch` names, all where there is no folder."""
    paths = flatten(abstract(config))
    if folder is None:
        return frozenset(paths)
    return select(paths, config.init.from_scratch, what="config: init.from_scratch")


def _read_component(folder: ModelFolder | None, name: str, part: Component) -> dict[str, np.ndarray]:
    if folder is None:
        return {}
    source = name if name in folder.config.components() else part.copied_from
    if source not in folder.config.components():
        return {}
    return {f"{name}/{path}": leaf.astype(np.float32, copy=False) for path, leaf in folder.leaves(source).items()}


def _lacks_channels(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return shape[:2] == wanted[:2] and shape[2] < wanted[2] and shape[3] == wanted[3]


def _with_zero_channels(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A text-to-video model's first convolution, with zeros for the channels of the first frame's latent (ZC)."""
    wider = np.zeros(shape, kernel.dtype)
    wider[:, :, : kernel.shape[2]] = kernel
    return wider


def new_state(params: Params, optimizer: optax.GradientTransformation, *, config: TrainConfig) -> TrainState:
    """The state before the first step; jit it with out_shardings, so that moments come to life sharded."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.init(params),
        stats=dict(make_model(config.model).initial_stats()),
        ema=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else {},
        key=jax.random.key_data(jax.random.key(config.seed)),
        fault=jnp.full((), NO_FAULT, jnp.int32),
        window=empty_window(),
    )


def empty_window() -> dict[str, jax.Array]:
    """Zeros for every sum that a line of the log is made of."""
    zero = jnp.zeros((), jnp.float32)
    return {
        "steps": zero,
        "loss": zero,
        "gradient_norm": zero,
        "bucket_loss": jnp.zeros(NUM_BUCKETS, jnp.float32),
        "bucket_count": jnp.zeros(NUM_BUCKETS, jnp.float32),
    }
