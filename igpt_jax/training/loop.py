"""The training loop, the same for tokenizers and GPTs."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from igpt_jax.data.pipeline import BatchDataset, BatchIterator
from igpt_jax.errors import Stopped, UserError
from igpt_jax.processes import StopNotice, is_first, wait_for_all
from igpt_jax.training.checkpoint import Checkpoints
from igpt_jax.training.compiled import abstract_state, compile_train_step, on_mesh
from igpt_jax.training.guard import LossGuard
from igpt_jax.training.metrics import MetricWriter
from igpt_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from igpt_jax.training.sharding import check_batch_size, replicated, shard_batch
from igpt_jax.training.shares import on_host, own_copy, own_mesh, own_rows, place
from igpt_jax.training.speed import Profile, work_done
from igpt_jax.training.state import TrainState, init_state, state_shardings
from igpt_jax.training.steps import Metrics, make_eval_step
from igpt_jax.training.task import Task
from igpt_jax.typing import PRNGKey

logger = logging.getLogger("igpt_jax.training")


@dataclass(frozen=True)
class TrainConfig:
    """How long to train and how often to look.

    Attributes:
        num_steps: optimizer updates.
        global_batch_size: pictures an update, over all devices and accumulation steps.
        accumulation_steps: parts of a batch whose gradients are averaged before an update.
        optimizer: AdamW and its schedule.
        ema_decay: of the averaged parameters that sampling uses.
        log_every: steps between rows of training metrics.
        eval_every: steps between measurements on the validation data; each checkpoint is also
            measured, to know the best.
        eval_batches: batches of each measurement.
        picture_every: steps between pictures (samples or reconstructions); 0 for none.
        checkpoint_every: steps between checkpoints; one is always written at the end.
        keep_last: newest checkpoints that are kept.
        keep_best: checkpoints of lowest validation loss that are kept too.
        profile: steps of which an XProf trace is written to `profile/`, after the first ones that
            compile; 0 for none.
    """

    num_steps: int = 1_000
    global_batch_size: int = 64
    accumulation_steps: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ema_decay: float = 0.999
    log_every: int = 50
    eval_every: int = 500
    eval_batches: int = 8
    picture_every: int = 500
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_best: int = 1
    profile: int = 0

    def __post_init__(self) -> None:
        """Refuses counts that no run has."""
        for name in ("num_steps", "global_batch_size", "accumulation_steps", "log_every",
                     "eval_every", "eval_batches", "checkpoint_every", "keep_last"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.global_batch_size % self.accumulation_steps:
            raise UserError(
                f"global_batch_size: expected a multiple of {self.accumulation_steps} accumulation "
                f"steps, got {self.global_batch_size}"
            )
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay: expected in [0, 1), got {self.ema_decay}")
        if self.picture_every < 0 or self.keep_best < 0:
            raise UserError("picture_every and keep_best: expected 0 (off) or more")
        if self.profile < 0:
            raise UserError(f"profile: expected 0 (off) or more steps, got {self.profile}")


def train(
    task: Task,
    config: TrainConfig,
    *,
    train_data: BatchDataset,
    validation_data: BatchDataset,
    directory: Path,
    mesh: Mesh,
    seed: int,
    metadata: Mapping[str, Any],
    wandb_project: str | None = None,
) -> None:
    """Trains to the last step; goes on from the newest checkpoint in `directory`.

    A run that was interrupted at any moment and started again ends with the same bits as one
    that was not: batches follow the saved position, keys follow the step. Several processes, which
    share the devices of `mesh`, see the batches of one; any number may go on from a checkpoint.

    Args:
        task: what is trained.
        config: how long, and how often to look.
        train_data: batches without end.
        validation_data: batches of one epoch.
        directory: gets `checkpoints/`, `metrics.jsonl`, `tensorboard/` and pictures.
        mesh: devices.
        seed: of parameters, dropout and condition dropout.
        metadata: JSON stored in each checkpoint.
        wandb_project: logs there too.

    Raises:
        UserError: the loss is not finite, the batch does not divide, or a checkpoint is damaged.
        Stopped: a scheduler asked to stop (SIGTERM); a checkpoint of the step before is written.
    """
    check_batch_size(config.global_batch_size, config.accumulation_steps, mesh)
    optimizer = make_optimizer(config.optimizer, config.num_steps, task.players)
    init_key, step_key = jax.random.split(jax.random.key(seed))
    task = on_host(task)
    batches = iter(train_data.of_rows(own_rows(mesh, train_data.global_batch_size)))
    stopped_at = None
    with (
        StopNotice() as notice,
        jax.set_mesh(mesh),
        Checkpoints(
            directory / "checkpoints", keep_last=config.keep_last, keep_best=config.keep_best
        ) as checkpoints,
    ):
        shardings = state_shardings(task.init, optimizer, mesh, task.averaged)
        state = _start_or_restore(
            task, optimizer, checkpoints, train_data, batches, init_key, shardings, mesh
        )
        start = int(state.step)
        if start >= config.num_steps:
            return
        train_step = compile_train_step(
            task,
            optimizer,
            mesh,
            shardings,
            ema_decay=config.ema_decay,
            accumulation_steps=config.accumulation_steps,
        )
        evaluate = _evaluator(task, config, validation_data, mesh)
        schedule = learning_rate(config.optimizer, config.num_steps)
        with MetricWriter(
            directory, resume_step=start, wandb_project=wandb_project, config=metadata
        ) as writer:
            log = _Log(writer, config, schedule, start, task)
            for step in range(start + 1, config.num_steps + 1):
                waited = time.perf_counter()
                batch = next(batches)
                log.waited += time.perf_counter() - waited
                state, metrics = train_step(state, shard_batch(batch, mesh), step_key, step - 1)
                log.add(step, metrics)

                def due(every: int, step: int = step) -> bool:
                    return step % every == 0 or step == config.num_steps

                is_stopped = notice.is_due(step)
                if due(config.log_every) or due(config.checkpoint_every) or is_stopped:
                    log.flush()  # the guard sees every loss before it is saved
                paused, measured = time.perf_counter(), None
                if due(config.eval_every) or due(config.checkpoint_every):
                    measured = evaluate(state.ema_params)
                    writer.write(step, "validation", measured)
                    if is_first():
                        log.validation(step, measured)
                if config.picture_every and due(config.picture_every) and task.show is not None:
                    _show(task.show, state.ema_params, validation_data, step, mesh)
                if due(config.checkpoint_every) or is_stopped:
                    position = {"data_position": batches.position}
                    checkpoints.save(state, {**metadata, **position}, measured)
                log.paused += time.perf_counter() - paused
                if is_stopped:
                    stopped_at = step
                    break
            log.close()
    if stopped_at is not None:
        raise Stopped(f"{task.name} step {stopped_at}: a checkpoint is written, as SIGTERM asked")
    wait_for_all(task.name)  # what the first process writes is whole


def _show(
    show: Callable[[Any, dict[str, np.ndarray], int], None],
    params: Any,
    validation_data: BatchDataset,
    step: int,
    mesh: Mesh,
) -> None:
    """Writes a picture; the first process draws it on its own devices."""
    params = own_copy(params, mesh)
    if is_first():
        with jax.set_mesh(own_mesh(mesh)):
            show(params, next(iter(validation_data)), step)


def _start_or_restore(
    task: Task,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    train_data: BatchDataset,
    batches: BatchIterator,
    key: PRNGKey,
    shardings: TrainState,
    mesh: Mesh,
) -> TrainState:
    """The state of the newest checkpoint, or a new one; moves the data to its position."""
    if checkpoints.latest is None:
        create = jax.jit(
            lambda key: init_state(task.init, optimizer, key, task.averaged),
            out_shardings=shardings,
        )
        state = create(key)
        if task.prepare is None:
            return state
        params = own_copy(state.params, mesh)
        with jax.set_mesh(own_mesh(mesh)):
            prepared = task.prepare(params, iter(train_data), jax.random.fold_in(key, 1))
        prepared = place(prepared, shardings.params)
        copy = jax.tree.map(lambda x: x.copy(), task.averaged(prepared))
        return state.replace(params=prepared, ema_params=copy)
    state, metadata = checkpoints.restore(abstract_state(task, optimizer, shardings))
    if "data_position" in metadata:
        batches.seek(metadata["data_position"])
    else:  # written before several processes could share a run
        batches.seek(metadata["data_state"]["next_index"])
    logger.info("%s: going on from step %d", task.name, int(state.step))
    return state


def _evaluator(
    task: Task, config: TrainConfig, data: BatchDataset, mesh: Mesh
) -> Callable[[Any], dict[str, float]]:
    """Means of the metrics over the first validation batches."""
    eval_step = partial(
        jax.jit(
            lambda loss, params, batch: make_eval_step(loss, task.summarize)(params, batch),
            out_shardings=replicated(mesh),
        ),
        on_mesh(task.evaluate or task.loss, mesh),
    )

    data = data.of_rows(own_rows(mesh, data.global_batch_size))

    def evaluate(params: Any) -> dict[str, float]:
        batches = itertools.islice(iter(data), config.eval_batches)
        rows = jax.device_get([eval_step(params, shard_batch(batch, mesh)) for batch in batches])
        if not rows:
            raise UserError(
                f"validation data: expected at least one batch of {config.global_batch_size} "
                "pictures, found fewer; lower global_batch_size or keep more for validation"
            )
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    return evaluate


def _largest_norm(row: Mapping[str, Any]) -> float:
    """The largest gradient norm of all players; not a number if the step was not taken."""
    if row["skipped"]:
        return math.nan
    return max(float(value) for name, value in row.items() if name.endswith("grad_norm"))


@dataclass
class _Log:
    """Collects the metrics of steps on the device, reads them once a row."""

    writer: MetricWriter
    config: TrainConfig
    schedule: optax.Schedule
    start: int
    task: Task
    waited: float = 0.0
    paused: float = 0.0

    def __post_init__(self) -> None:
        self._pending: list[tuple[int, Metrics]] = []
        self._guard = LossGuard()
        self._since = time.perf_counter()
        self._bar = tqdm(
            total=self.config.num_steps, initial=self.start, desc=self.task.name, unit="step"
        )
        self._profile = Profile(self.writer.directory / "profile", self.start, self.config.profile)

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of one step without waiting for them."""
        self._pending.append((step, metrics))
        self._bar.update()
        self._profile.after(step, metrics)

    def flush(self) -> None:
        """Judges each step since the last row and writes their means."""
        if not self._pending:
            return
        steps = [step for step, _ in self._pending]
        rows = jax.device_get([metrics for _, metrics in self._pending])
        self._pending.clear()
        elapsed = time.perf_counter() - self._since - self.paused
        spikes = [
            self._guard.check(step, float(row["loss"]), _largest_norm(row))
            for step, row in zip(steps, rows, strict=True)
        ]
        images_per_second = len(steps) * self.config.global_batch_size / elapsed
        self.writer.write(
            steps[-1],
            "train",
            {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
            | {
                "learning_rate": float(np.asarray(self.schedule(steps[-1] - 1))),
                "images_per_second": images_per_second,
                **work_done(images_per_second, self.task.tokens, self.task.flops),
                "data_wait_share": self.waited / elapsed,
                "spikes": float(sum(spikes)),
            },
        )
        self._bar.set_postfix(loss=f"{rows[-1]['loss']:.4f}", images_s=f"{images_per_second:.0f}")
        self._since, self.waited, self.paused = time.perf_counter(), 0.0, 0.0

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints one line of validation metrics above the bar."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._bar.write(f"{self.task.name} step {step}: validation {shown}")

    def close(self) -> None:
        """Ends the progress bar."""
        self._profile.close()
        self.flush()
        self._bar.close()
