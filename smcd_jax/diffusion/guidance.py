"""Classifier-free guidance: a weighted sum of network outputs over branches that see different conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Branch = frozenset[str]  # switches of the conditions that are visible to one network evaluation


class Condition(NamedTuple):
    """A condition of a model that guidance scales.

    Attributes:
        name: Name of the condition, such as "text".
        option: Name of the sampling option that holds its scale, such as "guidance_scale".
        switches: Names of the inputs that are present only with the condition.
        default_scale: Default scale, or the name of another condition whose scale is used.
    """

    name: str
    option: str
    switches: tuple[str, ...]
    default_scale: float | str = 1.0


@dataclass(frozen=True)
class Guidance:
    """Branches to evaluate and the weight of each output in the sum; the last branch sees the most conditions."""

    branches: tuple[Branch, ...]
    weights: tuple[float, ...]

    @classmethod
    def weighted(cls, *weighted: tuple[Branch, float]) -> Guidance:
        """Returns the guidance of these branches and weights, without the branches whose weight is zero."""
        kept = [(branch, float(weight)) for branch, weight in weighted if weight != 0]
        return cls(branches=tuple(branch for branch, _ in kept), weights=tuple(weight for _, weight in kept))


def composed_guidance(conditions: Sequence[Condition], scales: Mapping[str, float | None] | None = None) -> Guidance:
    """Returns guidance with a scale for each condition, added in the order of ``conditions``.

    With network outputs e and scales s the sum is
    e() + s_1 (e(1) - e()) + s_2 (e(1, 2) - e(1)) + ... + s_n (e(all) - e(1, ..., n-1)), so its weights sum to one
    (InstructPix2Pix, Brooks et al. 2023, arXiv 2211.09800, eq. 3, for any number of conditions). Branches of weight
    zero are left out. If all scales but the last are 1, two branches remain and the sum is u + s (y - u), where y sees
    all conditions and u all but the last; if all are 1, only y remains.

    Args:
        conditions: Conditions of the model, in guidance order.
        scales: Finite scale by name of condition; a missing scale or None selects the condition's default.
    """
    resolved = resolve_scales(conditions, scales or {})
    seen: list[Branch] = [frozenset()]
    for condition in conditions:
        seen.append(seen[-1] | frozenset(condition.switches))
    upper, lower = [1.0, *resolved.values()], [*resolved.values(), 0.0]
    return Guidance.weighted(*((branch, a - b) for branch, a, b in zip(seen, upper, lower, strict=True)))


def resolve_scales(conditions: Sequence[Condition], scales: Mapping[str, float | None]) -> dict[str, float]:
    """Returns the scale of each condition by the name of its option, in guidance order.

    Args:
        conditions: Conditions of the model.
        scales: Scale by name of condition; a missing scale or None selects the condition's default.
    """
    by_name = {condition.name: condition for condition in conditions}

    def scale_of(condition: Condition) -> float:
        scale, default = scales.get(condition.name), condition.default_scale
        if scale is not None:
            return scale
        return scale_of(by_name[default]) if isinstance(default, str) else default

    return {condition.option: scale_of(condition) for condition in conditions}


def combine(
    model_outputs: Float[Array, "k b ..."],
    weights: Float[Array, " k"] | tuple[float, ...],
    *,
    guidance_rescale: float = 0.0,
) -> Float[Array, "b ..."]:
    """Returns the weighted sum of the branches' outputs, in float32.

    Args:
        model_outputs: Network outputs, one for each branch, in the order of ``Guidance.branches``.
        weights: ``Guidance.weights``; they may be traced, so that new scales need no new compilation.
        guidance_rescale: Weight phi, in 0..1, with which each example's standard deviation is restored to that of the
            last branch, which sees the most conditions (Lin et al. 2023, arXiv 2305.08891, section 3.4). Reduces
            overexposure at high scales.
    """
    model_outputs = model_outputs.astype(jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    # A sum of products rather than a dot: matmul units round float32 inputs, and weights of 8.5 and -7.5 magnify that.
    guided = jnp.sum(weights.reshape(-1, *(1,) * (model_outputs.ndim - 1)) * model_outputs, axis=0)
    return _rescaled(guided, model_outputs[-1], guidance_rescale) if guidance_rescale else guided


def _rescaled(guided: Float[Array, "b ..."], conditional: Float[Array, "b ..."], phi: float) -> Float[Array, "b ..."]:
    per_example = tuple(range(1, guided.ndim))
    target = jnp.std(conditional, axis=per_example, keepdims=True)
    current = jnp.std(guided, axis=per_example, keepdims=True)
    # A network whose zero-initialised head is untrained outputs exact zeros, which have no deviation to restore.
    factor = jnp.where(current > 0, target / current, 1.0)
    return (phi * factor + (1 - phi)) * guided
