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
    that of a ``while`` loop once. cuDNN's attention counts as its two matrix products, a Pallas kernel as it states.
    Gradients of fused attention do not count; trace them with XLA's attention.

    Args:
        function: Function that JAX can trace; it is not executed.
        *args: Arrays, or `jax.ShapeDtypeStruct` in their place.
    """
    return jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def jaxpr_flops(jaxpr: Jaxpr) -> int:
    """Returns the operations of one evaluation, counted as in `count_flops`."""
    total = 0
    for equation in jaxpr.eqns:
        flops = _flops_of(equation.primitive.name)
        if flops is not None:
            total += flops(equation)
        else:
            repeats = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
            total += repeats * sum(jaxpr_flops(inner) for inner in inner_jaxprs(equation.params))
    return total


def is_product(equation: Any) -> bool:
    """Returns whether an equation is a matrix product, a convolution or a fused kernel."""
    return _flops_of(equation.primitive.name) is not None


def inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yields the jaxprs in the parameters of an equation, such as the body of a loop."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _flops_of(name: str) -> Callable[[Any], int] | None:
    """Returns the function that counts the operations of a primitive; None for primitives that do not count."""
    if name.startswith("dot_product_attention_fwd"):
        return _cudnn_flops
    return {"dot_general": _dot_flops, "conv_general_dilated": _conv_flops, "pallas_call": _pallas_flops}.get(name)


def _cudnn_flops(equation: Any) -> int:
    queries, keys = (operand.aval.shape for operand in equation.invars[:2])  # [b, tokens, heads, width]
    return 4 * math.prod(queries) * keys[1]


def _pallas_flops(equation: Any) -> int:
    return getattr(equation.params["cost_estimate"], "flops", 0)


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * summed


def _conv_flops(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    out_channel_axis = equation.params["dimension_numbers"].rhs_spec[0]
    per_output = math.prod(size for axis, size in enumerate(kernel) if axis != out_channel_axis)
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output
