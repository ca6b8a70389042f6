"""The optimiser of the trained parameters: AdamW with clipping, warm-up and schedule, all of optax."""

from __future__ import annotations

import jax
import optax

from smcd_jax.errors import SMCDError
from smcd_jax.training.config import OptimizerConfig
from smcd_jax.training.selection import is_gate


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The rate by step: linear warm-up, then constant or a cosine down to ``end_lr_ratio`` of it at ``steps``.

    Raises:
        SMCDError: a warm-up as long as the run, or a rate that is not above 0.
    """
    if config.learning_rate <= 0:
        raise SMCDError(f"config: optimizer.learning_rate is {config.learning_rate:g}; use a rate above 0")
    if not 0 <= config.warmup_steps < steps:
        raise SMCDError(f"config: optimizer.warmup_steps is {config.warmup_steps}; use 0 up to below run.steps {steps}")
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        after = optax.cosine_decay_schedule(
            config.learning_rate, steps - config.warmup_steps, alpha=config.end_lr_ratio
        )
    if not config.warmup_steps:
        return after
    rise = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([rise, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clipping by the global norm of all trained gradients, then AdamW; its state mirrors the trained tree only."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    if config.gate_lr_scale == 1:
        return optax.chain(clip, adamw)
    gates = optax.masked(optax.scale(config.gate_lr_scale), _gates_of)
    return optax.chain(clip, adamw, gates)


def _gates_of(params: optax.Params) -> optax.Params:
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return jax.tree.map_with_path(lambda path, _: is_gate(name(path)), params)
