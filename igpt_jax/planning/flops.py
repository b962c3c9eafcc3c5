"""Operations of a computation as it is written, before any compiler: matrix products alone."""

import math
from typing import Any

import jax

from igpt_jax.platform import compiling_for


def count_flops(function: Any, *args: Any) -> float:
    """Operations (a multiplication and an addition are two) of products and convolutions.

    Loops of known length are counted in full; of a condition, the longer branch. Arguments may be
    shapes. It is traced as for a CPU, where attention is plain matrix products; of causal
    attention all products count, as in PaLM's MFU (Chowdhery et al. 2022, appendix B).
    """
    with compiling_for("cpu"):
        return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return 2.0 * math.prod(result) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _count_convolution(equation)
    if name == "cond":
        return max((_count(branch.jaxpr) for branch in params["branches"]), default=0.0)
    times = params["length"] if name == "scan" else 1
    return times * sum(_count(inner) for inner in _inner(params))


def _count_convolution(equation: Any) -> float:
    """Products that meet an element: dilated inputs are mostly zeros, as in a gradient."""
    numbers = equation.params["dimension_numbers"]
    kernel, result = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    window = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    products = math.prod(result) * window * kernel[numbers.rhs_spec[1]]
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2.0 * products / dilation


def _inner(params: dict[str, Any]) -> list[Any]:
    """Programs that an equation runs."""
    found = []
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(part, "eqns"):
                found.append(part)
            elif hasattr(part, "jaxpr") and hasattr(part.jaxpr, "eqns"):
                found.append(part.jaxpr)
    return found
