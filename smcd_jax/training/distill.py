"""Few-step distillation: one step of the student replaces several guided steps of the teacher.

Progressive distillation (Salimans & Ho 2022, arXiv 2202.00512) of a guided teacher (Meng et al. 2023, arXiv 2210.03142)
in a single round: the student is trained at the few timesteps that it visits in sampling, and nowhere else. At the
first of them it starts from pure noise, as in sampling. The teacher consists of the weights that the run starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.guidance import combine
from smcd_jax.diffusion.loss import training_noise
from smcd_jax.diffusion.prediction import per_example
from smcd_jax.diffusion.samplers import SolverTable
from smcd_jax.models.branches import branch_inputs, branch_outputs
from smcd_jax.models.distilled import Distilled
from smcd_jax.models.video_model import Inputs, Losses, Params, Stats, VideoModel
from smcd_jax.training.config import TrainConfig
from smcd_jax.training.state import NUM_BUCKETS

TEACHER = "teacher"  # key, in the frozen parameters, of the teacher's copy of the components that the student trains


def distilled_of(config: TrainConfig) -> Distilled:
    """Returns the sampling settings of the model that a run with the objective "distill" produces."""
    return Distilled(guidance=config.distill.guidance, num_inference_steps=config.distill.num_inference_steps)


def teacher_part(shapes: Params, trained: frozenset[str]) -> Params:
    """Returns the components that the run trains in whole or in part; the teacher shares all others."""
    names = {path.split("/", 1)[0] for path in trained}
    return {name: part for name, part in shapes.items() if name in names}


def distillation_objective(
    config: TrainConfig, model: VideoModel, null: Mapping[str, Any]
) -> Callable[..., tuple[Losses, Stats]]:
    """Returns the objective "distill" (`smcd_jax.training.step.make_objective`).

    The target is the output with which one DDIM step lands where the teacher's steps land; the loss is the squared
    error. For a network that predicts v, this weights errors of the clean latents by SNR + 1.

    Raises:
        SMCDError: The model does not have a guidance option of the config, or the steps are out of range.
    """
    count, total = config.distill.num_inference_steps, model.schedule.num_train_timesteps
    student = model.solver_table(model.resolve(distilled_of(config).teacher_options(1)))
    teach = _teacher(config, model)

    def objective(
        params: Params, stats: Stats, batch: Mapping[str, Array], key: PRNGKeyArray, train: bool = True
    ) -> tuple[Losses, Stats]:
        feature_key, noise_key, row_key = jax.random.split(key, 3)
        features = model.features(params, {**batch, **jax.tree.map(jnp.asarray, dict(null))}, feature_key)
        latents = features[model.target].astype(jnp.float32)
        inputs = model.inputs(features, jax.random.fold_in(feature_key, 0) if train else None)
        first = jax.random.randint(row_key, (), 0, count) if train else 0
        rows = (jnp.arange(len(latents)) + first) % count  # each step occurs equally often in every batch
        times = jnp.asarray(student.timesteps)[rows]
        noise = training_noise(noise_key, latents.shape)
        x = model.schedule.add_noise(latents, noise, times.astype(jnp.int32))
        x = jnp.where(per_example(rows, x) == 0, noise, x)
        landing = jax.lax.stop_gradient(teach(params, inputs, x, rows))

        from_x, from_model, update = _row(student, rows, x)
        wanted = ((landing - update[0] * x) / update[1] - from_x * x) / from_model
        context = model.precompute(params, model.encode(params, model.drop(inputs, {})))
        out = model.denoise(params, x, times, context, temporal=config.temporal).astype(jnp.float32)
        loss = jnp.mean(jnp.square(out - wanted), axis=tuple(range(1, out.ndim)))
        return Losses(loss, times.astype(jnp.int32) * NUM_BUCKETS // total), stats

    return objective


def _teacher(config: TrainConfig, model: VideoModel) -> Callable[..., Array]:
    """Returns ``teach(params, inputs, x, rows)``: the latents the teacher reaches from ``x`` at the student's rows."""
    steps = config.distill.teacher_steps
    options = model.resolve(distilled_of(config).teacher_options(steps))
    table, guidance = model.solver_table(options), model.guidance(options.as_dict())

    def teach(
        params: Params, inputs: Inputs, x: Float[Array, "b f h w c"], rows: Int[Array, " b"]
    ) -> Float[Array, "b f h w c"]:
        params = {**params, **params[TEACHER]}
        context = model.encode(params, branch_inputs(model, inputs, guidance.branches))
        context = model.precompute(params, context)
        predict = branch_outputs(model, params, context, len(guidance.branches), temporal=config.temporal)

        def step(i: Int[Array, ""], x: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
            row = rows * steps + i
            outputs = predict(x, jnp.asarray(table.timesteps)[row])
            guided = combine(outputs, guidance.weights, guidance_rescale=options.guidance_rescale)
            from_x, from_model, update = _row(table, row, x)
            return update[0] * x + update[1] * (from_x * x + from_model * guided)

        return jax.lax.fori_loop(0, steps, step, x)

    return teach


def _row(table: SolverTable, rows: Int[Array, " b"], x: Array) -> tuple[Array, Array, tuple[Array, Array]]:
    """Returns the coefficients of x_0 from x and from the output, and of the next x from x and x_0, per example."""

    def column(values: Any) -> Array:
        return per_example(jnp.asarray(values)[rows], x)

    update = (column(table.update[:, 0]), column(table.update[:, 1]))
    return column(table.x0_from_x), column(table.x0_from_model), update
