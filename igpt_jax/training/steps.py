"""The train step and the eval step, for any loss."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from igpt_jax.platform import platform
from igpt_jax.training.optimizer import NO_PLAYERS, gradient_norms
from igpt_jax.training.state import Averaged, TrainState, whole
from igpt_jax.typing import Array, Float, PRNGKey

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, "..."]]
# (params, batch, key or None for evaluation) -> (loss, metrics)
Loss = Callable[[Any, Batch, PRNGKey | None], tuple[Float[Array, ""], Metrics]]


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    accumulation_steps: int = 1,
    averaged: Averaged = whole,
    summarize: Callable[[Metrics], Metrics] = whole,
    players: Mapping[str, Any] = NO_PLAYERS,
) -> Callable[[TrainState, Batch, PRNGKey], tuple[TrainState, Metrics]]:
    """Builds `(state, batch, key) -> (state, metrics)`.

    A step whose loss or gradient is not finite changes nothing but the count, so that no
    checkpoint ever holds what is not a number; `metrics["skipped"]` is then 1.

    Args:
        loss: mean over the batch.
        optimizer: what turns gradients to updates.
        ema_decay: of the averaged parameters; warmed up as (1 + step) / (10 + step), so that
            short runs do not average over their start.
        accumulation_steps: parts of a batch whose gradients are averaged before one update.
        averaged: the part of the parameters that is averaged.
        summarize: what to make of the metrics once the parts of a batch are averaged.
        players: first keys of parameters whose gradient norms are reported apart.
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def accumulated(params: Any, batch: Batch, key: PRNGKey) -> tuple[tuple[Array, Metrics], Any]:
        if accumulation_steps == 1:
            return value_and_grad(params, batch, key)

        def split(x: Array) -> Array:
            # Interleaved, so that each part keeps rows of every device.
            rows = x.reshape(-1, accumulation_steps, *x.shape[1:])
            return jnp.moveaxis(rows, 1, 0)

        def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
            rows, index = part
            result = value_and_grad(params, rows, jax.random.fold_in(key, index))
            return jax.tree.map(lambda a, b: a + b / accumulation_steps, total, result), None

        parts = jax.tree.map(split, batch)
        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(value_and_grad, params, first, key),
        )
        # On CPUs, XLA's convolutions are tens of times slower inside of a loop.
        unroll = accumulation_steps if platform() == "cpu" else 1
        indices = jnp.arange(accumulation_steps)
        return jax.lax.scan(add, zeros, (parts, indices), unroll=unroll)[0]

    def train_step(state: TrainState, batch: Batch, key: PRNGKey) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        (value, metrics), gradients = accumulated(state.params, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = optax.incremental_update(averaged(params), state.ema_params, 1 - decay)
        finite = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradients))
        params, ema_params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, ema_params, opt_state),
            (state.params, state.ema_params, state.opt_state),
        )
        metrics = summarize(metrics) | {
            "loss": value,
            **gradient_norms(gradients, players),
            "skipped": 1.0 - finite.astype(jnp.float32),
        }
        return TrainState(state.step + 1, params, ema_params, opt_state), metrics

    return train_step


def make_eval_step(
    loss: Loss, summarize: Callable[[Metrics], Metrics] = whole
) -> Callable[[Any, Batch], Metrics]:
    """Builds `(params, batch) -> metrics`, without dropout."""

    def eval_step(params: Any, batch: Batch) -> Metrics:
        value, metrics = loss(params, batch, None)
        return summarize(metrics) | {"loss": value}

    return eval_step
