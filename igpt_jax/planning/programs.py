"""The programs of a run, lowered from shapes for the devices of a plan."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.tree_util import Partial

from igpt_jax.config import RunConfig
from igpt_jax.data.paths import expand_path
from igpt_jax.dtypes import resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.gpt_task import asked_of, gpt_task, with_features
from igpt_jax.model import Model
from igpt_jax.model_config import ModelConfig, build_tokenizer
from igpt_jax.models.gpt import GPT
from igpt_jax.parameters import abstract_params, text_inputs
from igpt_jax.planning.batches import Shapes, on_all, on_rows, picture_batch, token_batch
from igpt_jax.planning.flops import count_flops
from igpt_jax.platform import compiling_for
from igpt_jax.sampling.sampler import generate
from igpt_jax.stored import read_text_encoder
from igpt_jax.text.encoder import TextEncoder
from igpt_jax.text.t5 import T5Encoder
from igpt_jax.tokenizer_task import perceptual_distance, tokenizer_task
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.perceptual import LPIPS
from igpt_jax.training.compiled import abstract_state, as_partial, jit_train_step
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import make_optimizer
from igpt_jax.training.sharding import check_batch_size, make_mesh
from igpt_jax.training.state import state_shardings
from igpt_jax.training.task import Task

ProgramName = Literal["gpt", "tokenizer", "sampler"]
_NOWHERE = Path("nowhere")  # a task writes pictures there; a plan has none


@dataclass(frozen=True)
class Program:
    """A program before it is compiled.

    Attributes:
        lowered: of `jax.jit`.
        arguments: kind (`parameters`, `averaged`, `optimizer`, `batch`, ...) -> shapes that are
            laid out on the mesh.
        model_flops: of one step or one batch of pictures on all devices, as it is written down:
            nothing that is computed again counts.
        mesh: its devices.
    """

    lowered: Any
    arguments: Mapping[str, Any]
    model_flops: float
    mesh: Mesh


def lower(config: RunConfig, name: ProgramName, devices: list[Any], batch_size: int) -> Program:
    """Lowers one of a run's programs.

    Args:
        config: the run, resolved; its `mesh` says how the devices share the work.
        name: the train step of a GPT or a tokenizer, or the sampler.
        devices: they need not be there.
        batch_size: pictures at once, over all devices.

    Raises:
        UserError: the run has no such program, or the batch or the mesh does not divide.
    """
    mesh = make_mesh(config.mesh, devices)
    with compiling_for(devices[0].platform):
        if name == "sampler":
            return _lower_sampler(config, mesh, batch_size)
        if name == "gpt":
            task, plain = _gpt_task(config), _gpt_task(_without_remat(config))
            return _lower_step(
                task, plain, config.gpt_training, mesh, token_batch(config, batch_size)
            )
        task = _tokenizer_task(config)
        batch = picture_batch(config, batch_size)
        return _lower_step(task, task, config.tokenizer_training, mesh, batch)


def _lower_step(
    task: Task, plain: Task, training: TrainConfig, mesh: Mesh, batch: Shapes
) -> Program:
    """The train step, of the last of its losses, which is the longest."""
    rows = jax.tree.leaves(batch)[0].shape[0]
    check_batch_size(rows, training.accumulation_steps, mesh)
    optimizer = make_optimizer(training.optimizer, training.num_steps, task.players)
    shardings = state_shardings(task.init, optimizer, mesh, task.averaged)
    state = abstract_state(task, optimizer, shardings)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def gradient(loss: Partial, params: Any, batch: Shapes, key: Any) -> Any:
        return jax.value_and_grad(loss, has_aux=True)(params, batch, key)

    model_flops = count_flops(gradient, _last_loss(plain), state.params, batch, key)
    loss, batch = on_all(_last_loss(task), mesh), on_rows(batch, mesh)
    with jax.set_mesh(mesh):
        lowered = jit_train_step(
            task, optimizer, mesh, shardings,
            ema_decay=training.ema_decay, accumulation_steps=training.accumulation_steps,
        ).lower(loss, state, batch, on_all(key, mesh))  # fmt: skip
    arguments = {
        "parameters": state.params,
        "averaged": state.ema_params,
        "optimizer": state.opt_state,
        "batch": batch,
        "frozen": loss,
    }
    return Program(lowered, arguments, model_flops, mesh)


def _lower_sampler(config: RunConfig, mesh: Mesh, batch_size: int) -> Program:
    """The sampler over a mesh: parameters by the table, rows over the rest."""
    gpt, encoder = GPT(config.gpt), _text_encoder(config)
    check_batch_size(batch_size, 1, mesh)
    params = abstract_params(gpt, placement=mesh)

    def ask(frozen: Any, batch: Shapes) -> tuple[Any, ...]:
        rows = config.sampling.rows(batch_size, config.gpt.seq_len)
        keys = jax.random.split(jax.random.key(0), batch_size)
        return keys, asked_of(config.gpt, with_features(encoder, frozen, batch)), rows

    frozen = {} if encoder is None else encoder.params
    asked = jax.eval_shape(ask, frozen, token_batch(config, batch_size))
    if not config.gpt.kinds:
        asked = (asked[0], None, asked[2])
    # Unwrapped, or what is compiled below would be this trace, which is for a CPU.
    model_flops = count_flops(partial(inspect.unwrap(generate), gpt), params, *asked)
    laid = on_rows(asked, mesh)
    with jax.set_mesh(mesh):
        lowered = generate.lower(gpt, params, *laid)
    return Program(lowered, {"parameters": params, "batch": laid}, model_flops, mesh)


def _gpt_task(config: RunConfig) -> Task:
    model = Model(
        ModelConfig(config.tokenizer, config.gpt, sampling=config.sampling),
        build_tokenizer(config.tokenizer),
        {},
        GPT(config.gpt),
        text_encoder=_text_encoder(config),
    )
    return gpt_task(config, model, _NOWHERE)


def _without_remat(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, gpt=dataclasses.replace(config.gpt, remat="none"))


def _text_encoder(config: RunConfig) -> TextEncoder | None:
    """The encoder that a run reads, with shapes for parameters."""
    if config.text_encoder is None:
        return None
    encoder, tokenizer = read_text_encoder(expand_path(config.text_encoder))
    module = T5Encoder(encoder)
    params = jax.eval_shape(module.init, jax.random.key(0), *text_inputs())["params"]
    return TextEncoder(module, params, tokenizer)


def _tokenizer_task(config: RunConfig) -> Task:
    tokenizer = build_tokenizer(config.tokenizer)
    if not isinstance(tokenizer, Autoencoder) or config.tokenizer_path is not None:
        raise UserError(
            "stage: expected gpt, as this run trains no tokenizer (a palette, or one taken by "
            "tokenizer_path), got tokenizer"
        )
    return tokenizer_task(config, tokenizer, _NOWHERE, _distance(config))


def _distance(config: RunConfig) -> Partial:
    """What the loss compares pictures by, with shapes for its weights."""
    loss = config.tokenizer_loss
    if loss.lpips_path is None or not loss.perceptual_weight:
        return perceptual_distance(config)
    network = LPIPS(dtype=resolve_dtype(config.tokenizer_dtype))
    size = config.tokenizer.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), image, image)["params"]

    def distance(params: Any, images: Any, others: Any) -> Any:
        return network.apply({"params": params}, images, others)

    return Partial(distance, params)


def _last_loss(task: Task) -> Partial:
    return as_partial(task.later[max(task.later)] if task.later else task.loss)
