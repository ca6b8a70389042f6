"""The optimizer: AdamW with clipping, warm-up and a learning-rate schedule, from optax."""

from __future__ import annotations

import jax
import optax

from smcd_jax.errors import SMCDError
from smcd_jax.nn.gate_names import is_gate
from smcd_jax.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then constant or a cosine decay until ``steps``.

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
    """Returns clipping by the global norm followed by AdamW, with scaled updates of the gates."""
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
