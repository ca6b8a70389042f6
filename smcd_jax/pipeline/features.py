"""Runs the frozen encoders on a request, one component at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from smcd_jax.models.video_model import FeatureStep, VideoModel
from smcd_jax.pipeline.components import Components


def encode_features(
    model: VideoModel, components: Components, raw: Mapping[str, np.ndarray], seeds: Sequence[int]
) -> dict[str, Array]:
    """Returns ``raw`` with every feature computed; the weights of each encoder are released after use.

    A text or another item that occurs several times is encoded only once. Encoders that sample draw the noise for an
    example's first item from the example's seed.

    Args:
        model: The model.
        components: Its weights and programs.
        raw: Host arrays by name, leading axis b.
        seeds: Seed of each example.
    """
    found = dict(raw)
    for component, steps in itertools.groupby(model.feature_steps, key=lambda step: step.component):
        for _, group in itertools.groupby(steps, key=lambda step: step.apply):
            present = [step for step in group if step.source in found]
            if present:
                found |= _encode(components, present, [found.pop(step.source) for step in present], seeds)
        components.release(component)
    return {name: jnp.asarray(value) for name, value in found.items()}


def _encode(
    components: Components, steps: Sequence[FeatureStep], sources: Sequence[np.ndarray], seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Returns the outputs of steps that share one encoder."""
    first = steps[0]
    items = [source.reshape(-1, *source.shape[source.ndim - first.item_axes :]) for source in sources]
    joined = np.concatenate(items)
    params = components.params(first.component)
    program = components.program(("features", first.name), first.apply)
    if first.random:
        out = np.asarray(program(params, joined, _item_keys(seeds, len(joined))))
    else:
        unique, inverse = np.unique(joined, axis=0, return_inverse=True)
        # Padded to a power of two, so that few compiled programs serve any number of items.
        missing = 2 ** (len(unique) - 1).bit_length() - len(unique)
        filled = np.concatenate([unique, np.repeat(unique[-1:], missing, axis=0)])
        out = np.asarray(program(params, filled, None))[inverse.reshape(-1)]
    parts = np.split(out, np.cumsum([len(part) for part in items])[:-1])
    return {
        step.name: part.reshape(*source.shape[: source.ndim - step.item_axes], *part.shape[1:])
        for step, source, part in zip(steps, sources, parts, strict=True)
    }


def _item_keys(seeds: Sequence[int], count: int) -> PRNGKeyArray:
    keys = [jax.random.key(seed) for seed in seeds]
    per_example = count // len(keys)
    return jnp.stack(
        [key if index == 0 else jax.random.fold_in(key, index) for key in keys for index in range(per_example)]
    )
