"""The matrix product of linear layers, with a gradient that CPUs compute faster."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
from jax import lax

from igpt_jax.platform import platform
from igpt_jax.typing import Array, Float

Axes = tuple[Sequence[int], Sequence[int]]


def dot_general(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    dimension_numbers: tuple[Axes, Axes],
    precision: Any = None,
) -> Float[Array, "..."]:
    """`lax.dot_general` of the last axes of `x` and the first ones of a kernel.

    JAX writes the gradient of the kernel as features x inputs and transposes it, for which XLA on
    CPUs walks through the gradient of the output, and all that is fused into it, against its order
    in memory. On CPUs it is inputs x features here: loss and gradient of a GPT of 8 layers of 256
    channels, 32 x 64 tokens, take 0.7 of the time (one core of an AMD EPYC). There, only reverse
    mode is known. Other platforms take JAX's own.

    Args:
        x: inputs.
        kernel: weights.
        dimension_numbers: as `flax.linen.Dense` and `DenseGeneral` give them, without batch axes.
        precision: of the products.
    """
    of_x, _ = dimension_numbers[0]
    assert dimension_numbers == _numbers(x.ndim, len(of_x)), dimension_numbers
    if platform() != "cpu":
        return lax.dot_general(x, kernel, dimension_numbers, precision)
    return _product(len(of_x), precision, x, kernel)


def _numbers(ndim: int, axes: int) -> tuple[Axes, Axes]:
    """The last axes of one side, the first of the other."""
    return (tuple(range(ndim - axes, ndim)), tuple(range(axes))), ((), ())


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(axes: int, precision: Any, x: Any, kernel: Any) -> Any:
    return lax.dot_general(x, kernel, _numbers(x.ndim, axes), precision)


def _forward(axes: int, precision: Any, x: Any, kernel: Any) -> Any:
    # Written out: policies of remat keep `lax.dot_general`, not a function with its own gradient.
    return lax.dot_general(x, kernel, _numbers(x.ndim, axes), precision), (x, kernel)


def _backward(axes: int, precision: Any, kept: Any, gradient: Any) -> Any:
    x, kernel = kept
    rows = tuple(range(x.ndim - axes))
    features = tuple(range(len(rows), gradient.ndim)), tuple(range(axes, kernel.ndim))
    of_x = lax.dot_general(gradient, kernel, (features, ((), ())), precision)
    of_kernel = lax.dot_general(x, gradient, ((rows, rows), ((), ())), precision)
    return of_x, of_kernel


_product.defvjp(_forward, _backward)
