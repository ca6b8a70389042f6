"""State of a training run, and the parameters that it starts from: from a model folder or from scratch, sharded."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from smcd_jax.errors import SMCDError
from smcd_jax.model_folder import ModelFolder
from smcd_jax.models.registry import make_model
from smcd_jax.models.video_model import Component, FeatureStep, Stats, VideoModel
from smcd_jax.nn.gate_names import is_gate
from smcd_jax.nn.layers import ComputePolicy
from smcd_jax.nn.low_rank import COMPONENT, initial_low_rank, low_rank_shapes
from smcd_jax.nn.networks import Params, abstract_params, flatten, init_leaves, unflatten
from smcd_jax.runtime.sharding import batch_parts
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.selection import select

logger = logging.getLogger(__name__)

_shapes = functools.cache(abstract_params)  # tracing the initialization of a full-size UNet takes seconds

NO_FAULT = -1
NUM_BUCKETS = 4  # number of equal ranges of timesteps whose losses are logged separately


class TrainState(NamedTuple):
    """Everything that a checkpoint stores for an exact resume, besides the position in the data.

    Attributes:
        step: Number of completed updates, int32.
        params: Trained parameters, float32.
        optimizer: State of the optax optimizer.
        stats: Running statistics that the objective returns, such as those of batch normalization; not averaged.
        ema: Moving average of the trained parameters; an empty dict if the run keeps none.
        key: Data of the random key from which the keys of all steps are derived, uint32.
        fault: First step whose loss or gradient was not finite, which ends all updates; `NO_FAULT` if there is no such
            step.
        window: Sums since the last log line.
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
    """Returns the components that the training step runs, by name."""
    model = make_model(config.model)
    if config.objective not in ("denoise", "distill"):
        names = set(model.objectives[config.objective].components)
    else:
        computed = {step.component for step in model.feature_steps if not is_cached(step, config.data.inputs)}
        names = {*model.in_stage("encode", "denoise"), *computed}
    return {name: part for name, part in model.components.items() if name in names}


def is_cached(step: FeatureStep, inputs: str) -> bool:
    """Returns whether a feature comes from the cache if ``data.inputs`` is ``inputs``."""
    return inputs == "features" or (inputs == "latents" and (step.source == "video" or step.of_video))


def cached_null(model: VideoModel, null: Mapping[str, Any], inputs: str) -> list[FeatureStep]:
    """Returns the feature steps of `VideoModel.null_raw` whose result comes from the cache."""
    return [step for step in model.feature_steps if step.source in null and is_cached(step, inputs)]


def placeholder_null(config: TrainConfig, model: VideoModel) -> dict[str, np.ndarray]:
    """Returns arrays in the shape of `smcd_jax.training.data.null_arrays`, for programs that read no data."""
    null = model.null_raw(Tokenizer.published())
    for step in cached_null(model, null, config.data.inputs):
        del null[step.source]
        null[step.name] = np.zeros((1, *step.shape), np.float32)
    return null


def abstract(config: TrainConfig) -> Params:
    """Returns the shapes of the parameters of all components of the step, float32."""
    tree = {name: _shapes(part.config) for name, part in components(config).items()}
    return {**tree, **unflatten(low_rank_shapes_of(config, flatten(tree)))}


def low_rank_shapes_of(config: TrainConfig, leaves: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the run's low-rank adapter by path, empty if the run has no adapter.

    Args:
        config: Config of the run.
        leaves: Shapes of the parameters of all components by path.
    """
    if not config.low_rank.rank:
        return {}
    paths = select(leaves, config.low_rank.kernels, what="config: low_rank.kernels")
    return low_rank_shapes({path: leaves[path] for path in sorted(paths)}, config.low_rank.rank)


def trained_paths(config: TrainConfig) -> frozenset[str]:
    """Returns the paths of the parameters that the run trains.

    Raises:
        SMCDError: There is no pattern, or a pattern matches no parameter.
    """
    if not config.trainable:
        raise SMCDError(
            "config: trainable must name parameters, got no pattern; use path patterns such as 'unet/.*'",
            argument="trainable",
        )
    return select(flatten(abstract(config)), config.trainable, what="config: trainable")


def check_start(config: TrainConfig) -> None:
    """Checks that the config describes components that the run does not train as the model folder does.

    Shapes do not show all differences: another scaling factor of the latents only makes the result wrong.

    Raises:
        SMCDError: A setting of such a component differs.
    """
    if not config.init.model:
        return
    folder = ModelFolder(config.init.model)
    trained = {path.split("/", 1)[0] for path in trained_paths(config)}
    theirs = folder.config.components()
    for name, part in config.model.components().items():
        if name in trained or not isinstance(theirs.get(name), type(part)):
            continue
        for field in dataclasses.fields(part):
            ours, wanted = getattr(part, field.name), getattr(theirs[name], field.name)
            if ours != wanted:
                argument = f"model.{name}.{field.name}"
                raise SMCDError(
                    f"config: {argument} must be {wanted} as in {folder.path}, because the run does not train {name}, "
                    f"got {ours}; pass --config.{argument}={wanted!r}",
                    argument=argument,
                    value=ours,
                )


def policy(config: TrainConfig, platform: str | None = None) -> ComputePolicy:
    """Returns the dtypes of the computation; parameters are cast where they are used.

    Args:
        config: Config of the run.
        platform: Platform that the run is for: "cpu", "gpu" or "tpu"; None for that of this machine.
    """
    of_device = ComputePolicy.for_device(config.dtype or None, platform)
    attention = "cudnn_train" if of_device.attention == "cudnn" else of_device.attention
    return dataclasses.replace(of_device, params=jnp.float32, remat=config.remat == "blocks", attention=attention)


def load_params(config: TrainConfig, paths: frozenset[str], places: Any, *, dtype: Any = jnp.float32) -> Params:
    """Returns the initial parameters at the given paths, sharded; host memory holds one component at a time.

    Args:
        config: Config of the run.
        paths: Paths of the parameters.
        places: Tree of the parameters' shardings.
        dtype: Dtype of all arrays except scalars.

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
    adapter = {path: leaf for path, leaf in flatten(abstract(config)).items() if path.startswith(f"{COMPONENT}/")}
    for path, leaf in initial_low_rank(adapter, config.seed).items():
        if path in paths:
            leaves[path] = _place(leaf, shardings[path])
    return unflatten(leaves)


def _place(leaf: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """Shards an array that every process holds in full."""
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def component_params(
    config: TrainConfig, name: str, part: Component, *, folder: ModelFolder | None, from_scratch: frozenset[str]
) -> dict[str, np.ndarray]:
    """Returns one component's initial parameters by full path, float32, on the host."""
    shapes = {f"{name}/{path}": leaf for path, leaf in flatten(_shapes(part.config)).items()}
    found = _read_component(folder, name, part)
    widened = {f"{name}/{path}" for path in part.widened}
    leaves = {}
    for path, shape in shapes.items():
        if path in found and found[path].shape == shape.shape:
            leaves[path] = found[path]
        elif path in found and path in widened and _lacks_channels(found[path].shape, shape.shape):
            leaves[path] = _with_zero_channels(found[path], shape.shape)
        elif path in found and path not in from_scratch:
            raise SMCDError(
                f"{folder.path}: shape of {path} must be {shape.shape} as in config.model, got {found[path].shape}",
                argument=path,
                path=folder.path,
                value=found[path].shape,
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
    """Returns the paths that may start from scratch: matches of `init.from_scratch`, or all if there is no folder."""
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
    """Returns a convolution with zeros for the added input channels, as for the first frame's latent (ZC)."""
    wider = np.zeros(shape, kernel.dtype)
    wider[:, :, : kernel.shape[2]] = kernel
    return wider


def new_state(params: Params, optimizer: optax.GradientTransformation, *, config: TrainConfig) -> TrainState:
    """Returns the state before the first step; jit it with out_shardings, so that the moments are sharded at once."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.init(params),
        stats=dict(_initial_stats(config)),
        ema=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else {},
        key=jax.random.key_data(jax.random.key(config.seed)),
        fault=jnp.full((), NO_FAULT, jnp.int32),
        window=empty_window(),
    )


def check_batch(config: TrainConfig, mesh: Mesh) -> None:
    """Checks that a mesh divides the batch.

    Raises:
        SMCDError: The batch size is not a multiple of the number of parts.
    """
    parts, size = config.optimizer.grad_accum_steps, config.data.batch_size
    multiple = batch_parts(mesh) * parts
    if size % multiple:
        raise SMCDError(
            f"config: data.batch_size must be a multiple of {multiple} (data {mesh.shape['data']} x "
            f"fsdp {mesh.shape['fsdp']} x grad_accum_steps {parts}), got {size}",
            argument="data.batch_size",
            value=size,
        )


def _initial_stats(config: TrainConfig) -> Stats:
    objectives = make_model(config.model).objectives
    return objectives[config.objective].initial_stats() if config.objective in objectives else {}


def empty_window() -> dict[str, jax.Array]:
    """Returns the sums that are accumulated for a log line, all zero."""
    zero = jnp.zeros((), jnp.float32)
    return {
        "steps": zero,
        "loss": zero,
        "gradient_norm": zero,
        "bucket_loss": jnp.zeros(NUM_BUCKETS, jnp.float32),
        "bucket_count": jnp.zeros(NUM_BUCKETS, jnp.float32),
    }


def window_means(window: dict[str, Any]) -> dict[str, float]:
    """Returns the means of a window by the names of their metrics, without timestep buckets that have no examples."""
    steps = max(float(window["steps"]), 1.0)
    means = {name: float(window[name]) / steps for name in ("loss", "gradient_norm")}
    for bucket, (loss, count) in enumerate(zip(window["bucket_loss"], window["bucket_count"], strict=True)):
        if count > 0:
            means[f"loss/t{bucket * 1000 // NUM_BUCKETS}"] = float(loss) / float(count)
    return means
