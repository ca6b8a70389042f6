"""One training step: loss, gradients of the trained parameters, and update; `TrainProgram` compiles it for a mesh.

A step is a pure function ``(state, frozen, batch) -> state``. The loss is that of an objective: the denoising loss of
any video model, or an objective that a model defines itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.loss import diffusion_loss, draw_timesteps, training_noise
from smcd_jax.errors import SMCDError
from smcd_jax.models.registry import make_model
from smcd_jax.models.video_model import Inputs, Losses, Params, Stats, VideoModel
from smcd_jax.nn.low_rank import with_low_rank
from smcd_jax.nn.networks import flatten
from smcd_jax.runtime.flops import count_flops
from smcd_jax.runtime.gathering import gather
from smcd_jax.runtime.memory import gc_paused
from smcd_jax.runtime.sharding import WHOLE_AXES, batch_sharding, constrain_batch, shardings, state_shardings
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.data import stored_shapes
from smcd_jax.training.distill import TEACHER, distillation_objective, teacher_part
from smcd_jax.training.optimizer import learning_rate, make_optimizer
from smcd_jax.training.selection import join, split
from smcd_jax.training.state import (
    NUM_BUCKETS,
    TrainState,
    abstract,
    check_batch,
    is_cached,
    load_params,
    new_state,
    placeholder_null,
    policy,
    trained_paths,
)
from smcd_jax.training.update import GradientSums, updated

Batch = Mapping[str, Array]
TrainObjective = Callable[..., tuple[Losses, Stats]]
TrainStep = Callable[[TrainState, Params, Batch], TrainState]


class Noised(NamedTuple):
    """Noise and timestep of each example."""

    noise: Float[Array, "b f h w c"]
    timesteps: Int[Array, " b"]


def make_objective(config: TrainConfig, model: VideoModel, *, null: Mapping[str, Any] | None = None) -> TrainObjective:
    """Returns the objective of a run: ``objective(params, stats, batch, key, train=True) -> (Losses, stats)``.

    Args:
        config: Config of the run.
        model: Model of the run.
        null: Arrays of the null prompt, leading axis 1 (`smcd_jax.training.data.null_arrays`); required if the text
            condition can be dropped.

    Raises:
        SMCDError: The model has no such objective, or no such condition to drop.
    """
    if config.objective == "denoise":
        return _denoising_objective(config, model, null or {})
    if config.objective == "distill":
        return distillation_objective(config, model, null or {})
    if config.objective not in model.objectives:
        known = ", ".join(("denoise", "distill", *model.objectives))
        raise SMCDError(
            f"objective must be one of {known}, got {config.objective!r}", argument="objective", value=config.objective
        )
    return functools.partial(model.objectives[config.objective].losses, weights=config.loss)


def _denoising_objective(config: TrainConfig, model: VideoModel, null: Mapping[str, Any]) -> TrainObjective:
    model.check_rates(config.condition_dropout)
    total = model.schedule.num_train_timesteps

    def objective(
        params: Params, stats: Stats, batch: Batch, key: PRNGKeyArray, train: bool = True
    ) -> tuple[Losses, Stats]:
        keys = dict(zip(("features", "noise", "timesteps", "drop", "dropout"), jax.random.split(key, 5), strict=True))
        raw = {**batch, **jax.tree.map(jnp.asarray, dict(null))} if train else batch
        features = model.features(params, raw, keys["features"])
        latents = features[model.target].astype(jnp.float32)
        inputs = model.inputs(features, jax.random.fold_in(keys["features"], 0) if train else None)
        noise = training_noise(keys["noise"], latents.shape, noise_offset=config.loss.noise_offset)
        timesteps = draw_timesteps(keys["timesteps"], len(latents), total, stratified=not train)
        if train:
            rates, unit = config.condition_dropout, config.condition_dropout_unit
            inputs = model.drop(inputs, model.draw_keep(keys["drop"], len(latents), rates, unit=unit))
        loss = denoising_losses(
            model,
            params,
            latents,
            Noised(noise, timesteps),
            inputs=inputs,
            min_snr_gamma=config.loss.min_snr_gamma,
            temporal=config.temporal,
            dropout_key=keys["dropout"] if train and config.dropout else None,
        )
        return Losses(loss, timesteps * NUM_BUCKETS // total), stats

    return objective


def denoising_losses(
    model: VideoModel,
    params: Params,
    latents: Float[Array, "b f h w c"],
    noised: Noised,
    *,
    inputs: Inputs,
    min_snr_gamma: float | None = None,
    temporal: bool = True,
    dropout_key: PRNGKeyArray | None = None,
) -> Float[Array, " b"]:
    """Returns the denoising loss of each example for given noise and timesteps.

    Args:
        model: Model to train.
        params: Parameters of the components of stages "encode" and "denoise".
        latents: Clean latents, multiplied by the scaling factor.
        noised: Noise and timesteps.
        inputs: Conditions that remain after dropping.
        min_snr_gamma: Gamma of the min-SNR weights; None for equal weights.
        temporal: Whether temporal layers run.
        dropout_key: Random key of dropout; None for no dropout.
    """
    x = model.schedule.add_noise(latents, noised.noise, noised.timesteps)
    context = model.precompute(params, model.encode(params, inputs))
    times = noised.timesteps.astype(jnp.float32)
    out = model.denoise(params, x, times, context, dropout_key=dropout_key, temporal=temporal)
    return diffusion_loss(
        out, schedule=model.schedule, x0=latents, noise=noised.noise, t=noised.timesteps, min_snr_gamma=min_snr_gamma
    )


def make_train_step(
    config: TrainConfig,
    objective: TrainObjective,
    optimizer: optax.GradientTransformation,
    *,
    gathered: Callable[[Params], Params] = lambda trained: trained,
) -> TrainStep:
    """Returns ``step(state, frozen, batch) -> state``, a pure function for `jax.jit` with the state donated.

    Args:
        config: Config of the run.
        objective: Result of `make_objective`.
        optimizer: Result of `make_optimizer`.
        gathered: Function from the trained parameters to those that the objective takes.
    """
    parts, decay = config.optimizer.grad_accum_steps, config.optimizer.ema_decay

    def loss_of(
        trained: Params, frozen: Params, stats: Stats, batch: Batch, key: Array
    ) -> tuple[Array, tuple[Losses, Stats]]:
        losses, stats = objective(join(gathered(trained), frozen), stats, batch, key)
        return losses.loss.mean(), (losses, stats)

    def gradients(state: TrainState, frozen: Params, batch: Batch) -> tuple[GradientSums, Stats]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def one_part(
            carry: tuple[GradientSums, Stats], part: tuple[Array, Batch]
        ) -> tuple[tuple[GradientSums, Stats], None]:
            (sums, stats), (index, rows) = carry, part
            rows = jax.tree.map(constrain_batch, rows)
            gradient_of = jax.value_and_grad(loss_of, has_aux=True)
            (loss, (losses, stats)), gradient = gradient_of(
                state.params, frozen, stats, rows, jax.random.fold_in(key, index)
            )
            one_hot = jax.nn.one_hot(losses.timestep_bucket, NUM_BUCKETS, dtype=jnp.float32)
            new = GradientSums(gradient, loss, losses.loss @ one_hot, one_hot.sum(axis=0))
            return (jax.tree.map(jnp.add, sums, new), stats), None

        def zeros(gradient: Params) -> GradientSums:
            return GradientSums(gradient, jnp.zeros(()), jnp.zeros(NUM_BUCKETS), jnp.zeros(NUM_BUCKETS))

        if parts == 1:
            start = zeros(jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), state.params))
            return one_part((start, state.stats), (jnp.zeros((), jnp.int32), batch))[0]
        start = zeros(jax.tree.map(jnp.zeros_like, state.params))
        # Every device keeps its own rows in every part, so that no rows move between devices.
        rows = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        (sums, stats), _ = jax.lax.scan(one_part, (start, state.stats), (jnp.arange(parts), rows))
        mean = jax.tree.map(lambda x: x / parts, (sums.gradient, sums.loss))
        return sums._replace(gradient=mean[0], loss=mean[1]), stats

    def step(state: TrainState, frozen: Params, batch: Batch) -> TrainState:
        sums, stats = gradients(state, frozen, batch)
        return updated(state, sums, stats, optimizer=optimizer, ema_decay=decay, log_every=config.run.log_every)

    return step


class TrainProgram:
    """The step of a run with the sharding of every array, for the loop, `smcd bench train` and `smcd plan`.

    It holds no arrays: states and batches are shapes until `initial_state` or a checkpoint fills them.

    Attributes:
        config: Config of the run.
        mesh: Mesh of real devices, or of the devices of a topology to compile for.
        platform: Platform of these devices: "cpu", "gpu" or "tpu".
        model: Model of the run, at its compute policy.
        objective: Result of `make_objective`.
        optimizer: Result of `make_optimizer`.
        learning_rate: Learning rate by step, before the decay by time of a run with ``run.minutes``.
        trained: Paths of the trained parameters.
        state: Shapes and shardings of a `TrainState`.
        frozen: Shapes and shardings of the frozen parameters.
        batch: Shapes and shardings of a batch.
        step: Jitted ``(state, frozen, batch) -> state``; the state is donated.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh, *, null: Mapping[str, Any] | None = None):
        """Traces shapes, without compiling.

        Args:
            config: Config of the run.
            mesh: Mesh to run on.
            null: Arrays of the null prompt (`smcd_jax.training.data.null_arrays`); None for zeros of their shape.

        Raises:
            SMCDError: A pattern matches no parameter, or the mesh does not divide the batch.
        """
        self.config, self.mesh = config, mesh
        check_batch(config, mesh)
        self.platform: str = mesh.devices.flat[0].platform
        self._policy = policy(config, self.platform)
        self.model = make_model(config.model, self._policy)
        null = placeholder_null(config, self.model) if null is None else null
        self.objective: TrainObjective = make_objective(config, self.model, null=null)
        self.optimizer = make_optimizer(config.optimizer, config.run.steps, timed=config.run.minutes > 0)
        self.learning_rate = learning_rate(config.optimizer, config.run.steps, timed=config.run.minutes > 0)
        self.trained = trained_paths(config)
        trained, frozen = split(abstract(config), self.trained)
        compute = self._policy.compute

        def compute_shapes(shapes: Any) -> Any:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, compute if x.ndim else x.dtype), shapes)

        frozen = compute_shapes(frozen)
        table = with_low_rank(self.model.sharding) if config.low_rank.rank else self.model.sharding
        over = config.mesh.frozen_axes
        frozen_places = shardings(frozen, mesh, table, over=over)
        if config.objective == "distill":
            teacher = compute_shapes(teacher_part(abstract(config), self.trained))
            frozen, frozen_places[TEACHER] = {**frozen, TEACHER: teacher}, shardings(teacher, mesh, table, over=over)
        self.frozen = _placed(frozen, frozen_places)
        state = jax.eval_shape(self._new_state, trained)
        self._state_places = state_shardings(state, mesh, table)
        self.state: TrainState = _placed(state, self._state_places)
        inputs = config.data.inputs
        shapes = self.model.feature_shapes(
            config.data.batch_size, config.data.frames, cached=lambda step: is_cached(step, inputs)
        )
        shapes |= stored_shapes(config.data, self.model)
        self.batch = _placed(shapes, jax.tree.map(lambda _: batch_sharding(mesh), shapes))
        gathered = lambda trained: trained  # noqa: E731
        if config.mesh.gather == "step":
            whole = shardings(trained, mesh, table, over=WHOLE_AXES)
            shards = self._state_places.params
            gathered = functools.partial(gather, shards=shards, whole=whole, dtype=compute)
        step = make_train_step(config, self.objective, self.optimizer, gathered=gathered)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=self._state_places)

    def initial_state(self) -> TrainState:
        """Returns the state before the first step, from the model folder or from scratch, sharded."""
        places = self._state_places
        state = self.state_from(load_params(self.config, self.trained, places.params))
        if not self.config.init.model or not state.stats:
            return state
        known = frozenset(flatten(abstract(self.config))) & frozenset(flatten(state.stats))
        return state._replace(stats=load_params(self.config, known, places.stats))

    def state_from(self, params: Params) -> TrainState:
        """Returns the state before the first step with these trained parameters, sharded."""
        return jax.jit(self._new_state, out_shardings=self._state_places)(params)

    def frozen_params(self) -> Params:
        """Returns the frozen parameters, sharded."""
        places = dict(jax.tree.map(lambda x: x.sharding, self.frozen))
        parts = {TEACHER: places.pop(TEACHER, {}), "": places}
        read = {
            name: load_params(self.config, frozenset(flatten(part)), part, dtype=self._policy.compute)
            for name, part in parts.items()
            if part
        }
        return {**read.get("", {}), **({TEACHER: read[TEACHER]} if TEACHER in read else {})}

    def compile(self) -> Any:
        """Returns the step, compiled for the shapes of this run."""
        with jax.set_mesh(self.mesh):
            with gc_paused():
                lowered = self.step.lower(self.state, self.frozen, self.batch)
            return lowered.compile()

    def flops(self) -> int:
        """Returns the operations of a step over all devices, without recomputation, and with XLA's attention."""
        plain = dataclasses.replace(self.config, remat="none")
        model = make_model(plain.model, dataclasses.replace(policy(plain, self.platform), attention="xla"))
        objective = make_objective(plain, model, null=placeholder_null(plain, model))
        bare = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (self.state, self.frozen, self.batch))
        return count_flops(make_train_step(plain, objective, self.optimizer), *bare)

    def _new_state(self, params: Params) -> TrainState:
        return new_state(params, self.optimizer, config=self.config)


def _placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)
