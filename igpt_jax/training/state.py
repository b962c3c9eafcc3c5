"""What a training run carries from step to step."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from igpt_jax.training.sharding import opt_state_shardings, param_shardings, replicated
from igpt_jax.typing import Leaf, PRNGKey


@flax.struct.dataclass
class TrainState:
    """A pytree.

    Attributes:
        step: int `[]`, optimizer updates so far.
        params: trained parameters.
        ema_params: exponential moving average of the part that is used after training.
        opt_state: the optimizer's moments and count.
    """

    step: Leaf
    params: Any
    ema_params: Any
    opt_state: Any


InitParams = Callable[[PRNGKey], Any]
Averaged = Callable[[Any], Any]  # params -> the part of them that is averaged


def whole(params: Any) -> Any:
    """All parameters."""
    return params


def state_shardings(
    init_params: InitParams,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    averaged: Averaged = whole,
) -> TrainState:
    """Where each array of the state lies on the mesh."""
    boxed = jax.eval_shape(init_params, jax.random.key(0))
    params = param_shardings(boxed, mesh)
    return TrainState(
        step=replicated(mesh),
        params=params,
        ema_params=averaged(params),
        opt_state=opt_state_shardings(optimizer, nn.unbox(boxed), params, mesh),
    )


def init_state(
    init_params: InitParams,
    optimizer: optax.GradientTransformation,
    key: PRNGKey,
    averaged: Averaged = whole,
) -> TrainState:
    """The state before the first update; run it in jit to create it sharded."""
    params = nn.unbox(init_params(key))
    # A copy: the train step donates the state, and no buffer may be donated twice.
    ema_params = jax.tree.map(jnp.copy, averaged(params))
    return TrainState(jnp.int32(0), params, ema_params, optimizer.init(params))
