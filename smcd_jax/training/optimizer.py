"""The optimizer: AdamW with clipping, warm-up and a learning-rate schedule, from optax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from smcd_jax.errors import SMCDError
from smcd_jax.nn.gate_names import is_gate
from smcd_jax.training.config import OptimizerConfig
from smcd_jax.training.time_box import decay_by_time


def learning_rate(config: OptimizerConfig, steps: int, *, timed: bool = False) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then constant or a cosine decay until ``steps``.

    Args:
        config: Settings of the optimizer.
        steps: Number of steps of the run.
        timed: Whether the learning rate decays by time (`decay_by_time`) instead of steps.

    Raises:
        SMCDError: The learning rate is not above 0, or the warm-up is as long as the run.
    """
    if config.learning_rate <= 0:
        raise SMCDError(
            f"config: optimizer.learning_rate must be above 0, got {config.learning_rate:g}",
            argument="optimizer.learning_rate",
            value=config.learning_rate,
        )
    if not 0 <= config.warmup_steps < steps:
        raise SMCDError(
            f"config: optimizer.warmup_steps must be at least 0 and below run.steps ({steps}), got "
            f"{config.warmup_steps}",
            argument="optimizer.warmup_steps",
            value=config.warmup_steps,
        )
    if config.schedule == "constant" or timed:
        after = optax.constant_schedule(config.learning_rate)
    else:
        after = optax.cosine_decay_schedule(
            config.learning_rate, steps - config.warmup_steps, alpha=config.end_lr_ratio
        )
    if not config.warmup_steps:
        return after
    rise = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([rise, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int, *, timed: bool = False) -> optax.GradientTransformation:
    """Returns clipping by the global norm followed by AdamW, with scaled updates of the gates.

    Args:
        config: Settings of the optimizer.
        steps: Number of steps of the run.
        timed: Whether the learning rate decays by time, as for runs with ``run.minutes``.
    """
    clip = clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adamw = optax.adamw(
        learning_rate(config, steps, timed=timed),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    parts = [clip, adamw]
    if config.gate_lr_scale != 1:
        parts.append(optax.masked(optax.scale(config.gate_lr_scale), _gates_of))
    if timed:
        parts.append(decay_by_time(config.end_lr_ratio if config.schedule == "cosine" else 1.0))
    return optax.chain(*parts)


def clip_by_global_norm(largest: float) -> optax.GradientTransformation:
    """Returns optax's transformation of this name, with `global_norm` as the norm."""

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        norm = global_norm(updates)
        factor = jnp.where(norm < largest, 1.0, largest / norm)
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def global_norm(tree: Any) -> Float[Array, ""]:
    """Returns the Euclidean norm of all arrays together.

    Vectors and scalars, which every device holds whole, are summed together. On a single device the other arrays are
    summed over their last axis first, and the rest of all of them together. A GPU then needs one kernel per matrix
    instead of two, and none per vector.
    """
    leaves = [jnp.square(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(tree)]
    mesh = jax.sharding.get_abstract_mesh()
    together = mesh.empty or mesh.size == 1
    rows = [leaf.sum(axis=-1) if together else leaf.sum() for leaf in leaves if leaf.ndim > 1]
    vectors = [leaf for leaf in leaves if leaf.ndim <= 1]
    # Without the barrier, XLA sums each part of the concatenation in a kernel of its own.
    parts = jax.lax.optimization_barrier(jnp.concatenate([part.ravel() for part in (*rows, *vectors)]))
    return jnp.sqrt(parts.sum())


def _gates_of(params: optax.Params) -> optax.Params:
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return jax.tree.map_with_path(lambda path, _: is_gate(name(path)), params)
