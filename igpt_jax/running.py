"""Running statistics as parameters, so that `params` stays the only collection of a model.

A leaf whose name starts with `running_` is not trained: its gradient is the difference to the value
that it takes next, and `training/optimizer.py` subtracts just that. Gradient accumulation then
averages the next values, a data-parallel mean covers the global batch, and checkpoints need nothing
more.
"""

from typing import Any

import jax
import jax.numpy as jnp

from igpt_jax.typing import Array, Float

PREFIX = "running_"


def is_running(path: tuple[Any, ...]) -> bool:
    """Tell whether the leaf at a pytree path is a running statistic."""
    return str(getattr(path[-1], "key", "")).startswith(PREFIX)


def set_next(value: Float[Array, "*n"], following: Float[Array, "*n"]) -> Float[Array, ""]:
    """Return a loss of value 0 that makes a running statistic take its next value.

    Args:
        value: the parameter.
        following: what it is after this update; no gradient flows through it.
    """
    loss = 0.5 * jnp.sum((value - jax.lax.stop_gradient(following)) ** 2)
    return loss - jax.lax.stop_gradient(loss)


def moving_average(
    value: Float[Array, "*n"], observed: Float[Array, "*n"], decay: float
) -> Float[Array, "*n"]:
    """Return an exponential moving average after one more observation."""
    return decay * value + (1 - decay) * observed
