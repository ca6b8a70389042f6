"""Floating-point operations of a traced function, counted over its matrix products, convolutions and fused kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Returns the number of operations of one call; a multiply-add counts as two.

    As is usual, elementwise operations and softmax are not counted. The body of a ``scan`` counts once per iteration,
    that of a ``while`` loop once. cuDNN's attention counts as its two matrix products, a Pallas kernel as it states; their
    gradients do not count, so trace them with XLA's attention.

    Args:
        function: Function that JAX can trace; it is not executed.
        *args: Arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    return jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def jaxpr_flops(jaxpr: Jaxpr) -> int:
    """Returns the operations of one evaluation, counted as in `count_flops`."""
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot_flops(equation)
        elif name == "conv_general_dilated":
            total += _conv_flops(equation)
        elif name.startswith("dot_product_attention_fwd"):
            queries, keys = (operand.aval.shape for operand in equation.invars[:2])  # [b, tokens, heads, width]
            total += 4 * math.prod(queries) * keys[1]
        elif name == "pallas_call":
            total += getattr(equation.params["cost_estimate"], "flops", 0)
        else:
            repeats = equation.params.get("length", 1) if name == "scan" else 1
            total += repeats * sum(jaxpr_flops(inner) for inner in inner_jaxprs(equation.params))
    return total


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yields the jaxprs in the parameters of an equation, such as the body of a loop."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * summed


def _conv_flops(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_channel_axis = equation.params["dimension_numbers"].rhs_spec[0]
    per_output = math.prod(size for axis, size in enumerate(kernel) if axis != out_channel_axis)
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output
