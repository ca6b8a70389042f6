"""The step of a run, with every array's place on the mesh: what the loop runs, `smcd bench` times and plans compile.

Nothing here holds an array: states and batches are shapes until `initial_state` or a checkpoint fills them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from smcd_jax.errors import SMCDError
from smcd_jax.models.registry import make_model
from smcd_jax.models.video_model import VideoModel
from smcd_jax.nn.networks import Params, flatten
from smcd_jax.runtime.flops import count_flops
from smcd_jax.runtime.memory import gc_paused
from smcd_jax.runtime.sharding import batch_parts, batch_sharding, shardings, state_shardings
from smcd_jax.tokenizer import Tokenizer
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.objective import TrainObjective, make_objective
from smcd_jax.training.optimizer import learning_rate, make_optimizer
from smcd_jax.training.selection import split
from smcd_jax.training.state import (
    TrainState,
    abstract,
    cached_null,
    is_cached,
    load_params,
    new_state,
    policy,
    trained_paths,
)
from smcd_jax.training.step import make_train_step


class TrainProgram:
    """The step of a run on a mesh.

    Attributes:
        config: of the run.
        mesh: real devices, or those of a topology to compile for.
        platform: of these devices.
        model: Model of the run, at its compute policy.
        objective: Result of `make_objective`.
        optimizer: of `make_optimizer`.
        rate: learning rate by step.
        trained: paths of the trained parameters.
        state: shapes and shardings of a `TrainState`.
        frozen: shapes and shardings of the frozen parameters.
        batch: shapes and shardings of a batch.
        step: jitted ``(state, frozen, batch) -> state``; the state is donated.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh, *, null: Mapping[str, Any] | None = None):
        """Traces shapes only.

        Raises:
            SMCDError: patterns that match nothing, or a mesh that does not divide the batch.
        """
        self.config, self.mesh = config, mesh
        _check_batch(config, mesh)
        # that of the mesh: the devices of a topology to compile for are not those of this machine
        self.platform: str = mesh.devices.flat[0].platform
        self.model = make_model(config.model, policy(config, self.platform))
        self.objective: TrainObjective = make_objective(config, self.model, null=null)
        self.optimizer: optax.GradientTransformation = make_optimizer(config.optimizer, config.run.steps)
        self.rate = learning_rate(config.optimizer, config.run.steps)
        self.trained = trained_paths(config)
        table = self.model.sharding
        trained, frozen = split(abstract(config), self.trained)
        compute = policy(config, self.platform).compute
        frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, compute if x.ndim else x.dtype), frozen)
        self.frozen = _placed(frozen, shardings(frozen, mesh, table))
        state = jax.eval_shape(lambda params: new_state(params, self.optimizer, config=config), trained)
        self.state: TrainState = _placed(state, state_shardings(state, mesh, table))
        self.batch = _placed(batch_shapes(config, self.model), batch_sharding(mesh))
        self._norm = jax.jit(optax.tree.norm)
        step = make_train_step(config, self.objective, self.optimizer)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=jax.tree.map(lambda x: x.sharding, self.state))

    def initial_state(self) -> TrainState:
        """The state before the first step, from the model folder or from scratch, each array on its own devices."""
        params = load_params(self.config, self.trained, jax.tree.map(lambda x: x.sharding, self.state.params))
        make = lambda params: new_state(params, self.optimizer, config=self.config)  # noqa: E731
        return jax.jit(make, out_shardings=jax.tree.map(lambda x: x.sharding, self.state))(params)

    def frozen_params(self) -> Params:
        """The frozen parameters on their devices."""
        return load_params(
            self.config,
            frozenset(flatten(self.frozen)),
            jax.tree.map(lambda x: x.sharding, self.frozen),
            dtype=policy(self.config, self.platform).compute,
        )

    def norm(self, params: Params) -> float:
        """Of all trained parameters together; waits for them."""
        return float(self._norm(params))

    def compile(self) -> Any:
        """The step, compiled for the shapes of this run."""
        with jax.set_mesh(self.mesh):
            with gc_paused():
                lowered = self.step.lower(self.state, self.frozen, self.batch)
            return lowered.compile()

    def flops(self) -> int:
        """Operations of a step over all devices; what rematerialisation computes twice counts once."""
        plain = dataclasses.replace(self.config, remat="none")
        model = make_model(plain.model, policy(plain, self.platform))
        objective = make_objective(plain, model, null=placeholder_null(plain, model))
        step = make_train_step(plain, objective, self.optimizer)
        bare = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)  # noqa: E731
        return count_flops(step, bare(self.state), bare(self.frozen), bare(self.batch))


def _check_batch(config: TrainConfig, mesh: Mesh) -> None:
    parts = config.optimizer.grad_accum_steps
    if config.data.batch_size % (batch_parts(mesh) * parts):
        raise SMCDError(
            f"config: data.batch_size must be a multiple of {batch_parts(mesh) * parts} (data {mesh.shape['data']} x "
            f"fsdp {mesh.shape['fsdp']} x grad_accum_steps {parts}), got {config.data.batch_size}",
            argument="data.batch_size",
            value=config.data.batch_size,
        )


def batch_shapes(config: TrainConfig, model: VideoModel) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the arrays of a batch; a feature that comes from the cache takes the place of its source."""
    inputs = config.data.inputs
    return model.feature_shapes(config.data.batch_size, config.data.frames, cached=lambda step: is_cached(step, inputs))


def sample_rows(config: TrainConfig, mesh: Mesh) -> int:
    """Rows of the batch that samples are made in: as many as are wanted, or more, so that the mesh divides them."""
    return batch_parts(mesh) * -(-config.run.samples // batch_parts(mesh))


def placeholder_null(config: TrainConfig, model: VideoModel) -> dict[str, np.ndarray]:
    """Arrays in the shape of `smcd_jax.training.data.null_arrays`, where no data are read."""
    null = model.null_raw(Tokenizer.published())
    for step in cached_null(model, null, config.data.inputs):
        del null[step.source]
        null[step.name] = np.zeros((1, *step.shape), np.float32)
    return null


def _placed(shapes: Any, places: Any) -> Any:
    if not isinstance(places, jax.sharding.Sharding):
        return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places), shapes)
