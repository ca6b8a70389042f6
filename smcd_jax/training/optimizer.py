"""The optimizer: AdamW with clipping, warm-up and a learning-rate schedule, from optax."""

from __future__ import annotations

import jax
import optax

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
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
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


def _gates_of(params: optax.Params) -> optax.Params:
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")  # noqa: E731
    return jax.tree.map_with_path(lambda path, _: is_gate(name(path)), params)
