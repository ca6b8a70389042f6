"""Selection of the trained parameters: trees are split by path patterns before `jax.grad` and joined inside it.

Gradients, optimizer state and moving averages therefore exist only for the trained parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from smcd_jax.errors import SMCDError
from smcd_jax.nn.low_rank import adapted
from smcd_jax.nn.networks import Params, flatten, unflatten


def select(paths: Iterable[str], patterns: Sequence[str], *, what: str) -> frozenset[str]:
    """Returns the paths that any pattern matches as a whole.

    Args:
        paths: Parameter paths, such as "unet/encoder_1/residual/...".
        patterns: Regular expressions.
        what: Source of the patterns for error messages, such as "config: trainable".

    Raises:
        SMCDError: A pattern is not a regular expression, or matches nothing.
    """
    known, chosen, key = list(paths), set(), what.removeprefix("config: ")
    for pattern in patterns:
        try:
            matched = {path for path in known if re.fullmatch(pattern, path)}
        except re.error as error:
            raise SMCDError(
                f"{what}: {pattern!r} is not a regular expression ({error})", argument=key, value=pattern
            ) from error
        if not matched:
            raise SMCDError(
                f"{what}: {pattern!r} matches none of {len(known)} parameters; `smcd plan --list` shows their paths",
                argument=key,
                value=pattern,
            )
        chosen |= matched
    return frozenset(chosen)


def split(params: Params, trained: frozenset[str]) -> tuple[Params, Params]:
    """Returns the trained and the frozen part of a tree, without copying arrays."""
    leaves = flatten(params)
    parts = ({}, {})
    for path, leaf in leaves.items():
        parts[path not in trained][path] = leaf
    return unflatten(parts[0]), unflatten(parts[1])


def join(trained: Params, frozen: Params) -> Params:
    """Returns the whole tree, the inverse of `split`; a low-rank adapter is added to its kernels."""
    return adapted(unflatten({**flatten(frozen), **flatten(trained)}))
