"""The train step as a program of a mesh: the loop runs it, a plan compiles it from shapes."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from igpt_jax.platform import compiling_for
from igpt_jax.training.sharding import replicated
from igpt_jax.training.state import TrainState, init_state
from igpt_jax.training.steps import Batch, Loss, Metrics, make_train_step
from igpt_jax.training.task import Task
from igpt_jax.typing import PRNGKey


def jit_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    *,
    ema_decay: float,
    accumulation_steps: int,
) -> Any:
    """`(loss, state, batch, key) -> (state, metrics)` in jit, for arrays or for their shapes.

    Arrays that a loss (a `jax.tree_util.Partial`) holds are arguments, not constants of the
    program. The devices of the mesh need not be there, if it is only lowered and compiled.

    Args:
        task: what is trained.
        optimizer: what turns gradients to updates.
        mesh: devices.
        shardings: of the state, as `state_shardings` says; the state is donated.
        ema_decay: of the averaged parameters.
        accumulation_steps: parts of a batch.
    """

    def step(
        loss: Loss, state: TrainState, batch: Batch, key: PRNGKey
    ) -> tuple[TrainState, Metrics]:
        with compiling_for(mesh.devices.flat[0].platform):
            return make_train_step(
                loss,
                optimizer,
                ema_decay=ema_decay,
                accumulation_steps=accumulation_steps,
                averaged=task.averaged,
                summarize=task.summarize,
                players=task.players,
            )(state, batch, key)

    return jax.jit(
        step,
        out_shardings=(shardings, replicated(mesh)),  # or they drift, and it compiles again
        donate_argnums=1,
    )


def compile_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    *,
    ema_decay: float,
    accumulation_steps: int,
) -> Callable[[TrainState, Batch, PRNGKey, int], tuple[TrainState, Metrics]]:
    """`(state, batch, key, updates so far) -> (state, metrics)`, compiled for each of the losses.

    Arguments as of `jit_train_step`.
    """
    compiled = jit_train_step(
        task, optimizer, mesh, shardings,
        ema_decay=ema_decay, accumulation_steps=accumulation_steps,
    )  # fmt: skip
    losses = {at: on_mesh(loss, mesh) for at, loss in {0: task.loss, **task.later}.items()}

    def run_step(
        state: TrainState, batch: Batch, key: PRNGKey, done: int
    ) -> tuple[TrainState, Metrics]:
        return compiled(losses[max(at for at in losses if at <= done)], state, batch, key)

    return run_step


def abstract_state(
    task: Task, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """Shapes of the state and where they lie; nothing is computed."""
    shapes = jax.eval_shape(
        lambda key: init_state(task.init, optimizer, key, task.averaged), jax.random.key(0)
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def on_mesh(loss: Loss, mesh: Mesh) -> jax.tree_util.Partial:
    """A loss as a pytree, its arrays on every device."""
    return jax.device_put(as_partial(loss), replicated(mesh))


def as_partial(loss: Loss) -> jax.tree_util.Partial:
    """A loss as a pytree."""
    return loss if isinstance(loss, jax.tree_util.Partial) else jax.tree_util.Partial(loss)
