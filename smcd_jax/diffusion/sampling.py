"""The sampling loop: one compiled program for any sampler and number of steps, run whole or step by step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from smcd_jax.diffusion.guidance import combine
from smcd_jax.diffusion.samplers import SamplerState, SolverTable, advance, table_row

Predict = Callable[[Float[Array, "b ..."], Float[Array, ""]], Float[Array, "k b ..."]]
EstimateX0 = Callable[[Float[Array, "b ..."]], Float[Array, "b ..."]]
X0Transform = Callable[[Float[Array, "b ..."], EstimateX0, SolverTable], Float[Array, "b ..."]]


def sample(
    predict: Predict,
    state: SamplerState,
    *,
    table: SolverTable,
    weights: Float[Array, " k"],
    keys: PRNGKeyArray,
    start: Int[Array, ""] | int,
    stop: Int[Array, ""] | int,
    guidance_rescale: float = 0.0,
    x0_transform: X0Transform | None = None,
) -> SamplerState:
    """Runs steps ``start`` to ``stop`` of a sampler.

    ``start``, ``stop``, the table and the weights may be traced, so one program serves a single step and the whole
    loop, every sampler, every number of steps and every guidance scale.

    Args:
        predict: Function ``(latents, timestep) -> outputs`` that returns the network's output in every guidance branch.
        state: State before step ``start``: `initial_state`, or the result of an earlier call.
        table: Coefficients of the sampler, from `make_solver_table`.
        weights: Weights of the guidance branches.
        keys: One random key per example, ``[b]``. The noise of step i comes from ``fold_in(key, i)``.
        start: First step.
        stop: One past the last step.
        guidance_rescale: See `combine`.
        x0_transform: Function ``(x, estimate_x0, row) -> x_0`` that replaces the predicted clean latents of a step, for
            thresholding and for guidance by an energy. ``estimate_x0(x)`` evaluates the network at x and may be
            differentiated.
    """

    def step(i: Int[Array, ""], state: SamplerState) -> SamplerState:
        row = table_row(table, i)

        def estimate_x0(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
            guided = combine(predict(x, row.timesteps), weights, guidance_rescale=guidance_rescale)
            return row.x0_from_x * x + row.x0_from_model * guided

        x = state.latents
        x0 = estimate_x0(x) if x0_transform is None else x0_transform(x, estimate_x0, row)
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), x.shape[1:]))(keys)
        return advance(row, state, x0, noise=noise)

    return jax.lax.fori_loop(start, stop, step, state)


def initial_noise(keys: PRNGKeyArray, shape: tuple[int, ...], *, num_rows: int) -> Float[Array, "b ..."]:
    """Returns unit Gaussian noise ``[b, *shape]`` for `initial_state`, independent of the noise that `sample` adds.

    Args:
        keys: One random key per example, ``[b]``.
        shape: Shape of one example.
        num_rows: Rows of the sampler's table, ``table.timesteps.size``.
    """
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, num_rows), shape))(keys)


def on_device(table: SolverTable) -> SolverTable:
    """Returns the table as arrays, so that a jitted function takes it as an argument and not as a constant."""
    return jax.tree.map(jnp.asarray, table._replace(num_steps=jnp.int32(table.num_steps)))
