"""What training a GPT minimises and shows."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from igpt_jax.config import RunConfig
from igpt_jax.data.sources import num_frames
from igpt_jax.data.video_files import contact_sheet
from igpt_jax.grid import image_grid, save_png
from igpt_jax.losses import bits_per_dim, token_nll
from igpt_jax.model import Model
from igpt_jax.models.cells import arrange, is_word
from igpt_jax.models.conditioning import (
    Caption,
    CondImage,
    Conditions,
    TextFeatures,
    null_condition,
)
from igpt_jax.models.flops import training_flops
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.orders import OrdersConfig, known_first, random_known
from igpt_jax.parameters import generator_inputs
from igpt_jax.text.encoder import TextEncoder, encode_text
from igpt_jax.training.steps import Batch
from igpt_jax.training.task import Task
from igpt_jax.typing import Array, Bool, Float, Leaf, Params, PRNGKey

NUM_SHOWN = 16  # pictures of each grid while training


def gpt_task(config: RunConfig, model: Model, directory: Path) -> Task:
    """Next-token prediction of pictures, and of their captions."""
    gpt, encoder = model.gpt, model.text_encoder
    assert isinstance(gpt, GPT)

    def init(key: PRNGKey) -> Params:
        return gpt.init(key, *generator_inputs(gpt))["params"]

    def loss(frozen: Params, params: Params, batch: Batch, key: PRNGKey | None) -> tuple:
        batch = with_features(encoder, frozen, batch)
        rows = token_losses(gpt, params, batch, key, config.orders)
        all_last = config.orders.caption_last == 1 and rows.caption is not None
        picture = _mean(rows.picture, rows.is_last if all_last else ~rows.is_last)
        sub_pixels = num_frames(config.data) * 3 * model.tokenizer.image_size**2
        metrics = {"bits_per_dim": bits_per_dim(picture, gpt.config.seq_len, sub_pixels)}
        if rows.caption is None:
            return picture, metrics
        answers = rows.is_last if config.orders.caption_last else ~rows.is_last
        metrics |= {"picture_nats": picture, "caption_nats": _mean(rows.caption, answers)}
        return weighed(rows, config.question_loss_weight), metrics

    def show(params: Params, batch: dict[str, np.ndarray], step: int) -> None:
        rows = {name: jnp.asarray(values[:NUM_SHOWN]) for name, values in batch.items()}
        rows = with_features(encoder, frozen, rows)
        asked = asked_of(gpt.config, rows)
        now = dataclasses.replace(model, params=params)
        tokens = now.sample_tokens(asked, len(rows["tokens"]), model.config.sampling)
        images = now.decode(tokens)
        path = directory / f"samples-{step:06d}.png"
        grid = contact_sheet(images) if images.ndim == 5 else image_grid(images)
        save_png(path, grid, {"step": step, "seed": 0})

    frozen = {} if encoder is None else encoder.params
    tokens, flops = gpt.config.seq_len, training_flops(gpt.config)
    return Task("gpt", init, Partial(loss, frozen), show=show, tokens=tokens, flops=flops)


def with_features(encoder: TextEncoder | None, params: Params, batch: Batch) -> Batch:
    """A batch with what a frozen text encoder says of its texts.

    Args:
        encoder: what reads `batch["text_tokens"]`; None leaves the batch as it is.
        params: the encoder's parameters.
        batch: of examples.
    """
    if encoder is None:
        return batch
    tokens, mask = batch["text_tokens"], batch["text_mask"]
    features, mask = encode_text(encoder.module, params, tokens, mask)
    return {**batch, "text_features": features, "text_mask": mask}


class TokenLosses(NamedTuple):
    """Mean negative log-likelihood in nats of the tokens of each row; padding is left out.

    Attributes:
        picture: float `[b]`.
        caption: float `[b]`, 0 where there is none; None of models without captions.
        is_last: bool `[b]`, rows whose caption stands behind the picture.
    """

    picture: Leaf
    caption: Leaf | None
    is_last: Leaf


def weighed(rows: TokenLosses, question_weight: float) -> Float[Array, ""]:
    """The loss: of each row, what stands last is the answer, what stands before the question."""
    assert rows.caption is not None
    question = jnp.where(rows.is_last, rows.picture, rows.caption)
    answer = jnp.where(rows.is_last, rows.caption, rows.picture)
    return jnp.mean(question_weight * question + (1 - question_weight) * answer)


def token_losses(
    gpt: GPT, params: Params, batch: Batch, key: PRNGKey | None, orders: OrdersConfig
) -> TokenLosses:
    """Predicts each token of pictures and captions from those before it.

    Without a key nothing is random, and captions stand behind every second picture, if training has
    any there.
    """
    config, tokens = gpt.config, batch["tokens"]
    asked, rngs, order = asked_of(config, batch), {}, None
    is_last = jnp.zeros(len(tokens), bool)
    given = asked.caption
    if key is not None:
        drop_key, dropout_key, order_key, last_key = jax.random.split(key, 4)
        rngs = {"dropout": dropout_key}
        asked = drop(config, asked, drop_key)
        if config.order == "any":
            known = random_known(order_key, len(tokens), config.grid_shape, orders)
            order = known_first(jnp.tile(known, config.num_frames))
            is_last = jax.random.bernoulli(last_key, orders.caption_last, is_last.shape)
    elif given is not None and orders.caption_last:
        is_last = jnp.arange(len(tokens)) % 2 == 1
    caption, padding = asked.caption, None
    if caption is not None and given is not None:
        # Captions that stand last are what is read off a picture, and never dropped.
        caption = Caption(caption.tokens, jnp.where(is_last, given.lengths, caption.lengths))
        if order is None:
            order = jnp.tile(jnp.arange(config.seq_len), (len(tokens), 1))
        tokens, order, padding = arrange(config, tokens, order, caption, is_last)
    elif order is not None:
        tokens = jnp.take_along_axis(tokens, order, axis=1)
    logits: Any = gpt.apply(
        {"params": params},
        tokens[:, :-1],
        dataclasses.replace(asked, caption=None),
        order=order,
        padding=padding,
        deterministic=key is None,
        rngs=rngs,
    )
    nats = token_nll(logits, tokens)
    if caption is None:
        return TokenLosses(nats.mean(axis=1), None, is_last)
    assert order is not None
    in_caption, counted = is_word(config, order, caption)
    return TokenLosses(_mean(nats, ~in_caption, 1), _mean(nats, counted, 1), is_last)


def asked_of(config: GPTConfig, batch: Batch) -> Conditions:
    """What a batch of examples asks of a model."""
    given: dict[str, Any] = {}
    if config.num_classes:
        given["labels"] = batch["label"]
    if config.attribute_sizes:
        given["attributes"] = batch["attributes"]
    if config.text_len:
        is_null = jnp.zeros(len(batch["tokens"]), bool)
        given["text"] = TextFeatures(batch["text_features"], batch["text_mask"], is_null)
    if config.caption_len:
        given["caption"] = Caption(batch["caption"], batch["caption_length"])
    if config.cond_image:
        is_null = jnp.zeros(len(batch["tokens"]), bool)
        given["image"] = CondImage(batch["cond_tokens"], is_null)
    return Conditions(**given)


def drop(config: GPTConfig, asked: Conditions, key: PRNGKey) -> Conditions:
    """Leaves out the conditions of some rows, of others one kind or single attributes."""
    if asked.attributes is not None:
        shape = asked.attributes.shape
        open_key = jax.random.fold_in(key, 1)
        is_open = jax.random.bernoulli(open_key, config.attribute_drop_prob, shape)
        asked = dataclasses.replace(asked, attributes=jnp.where(is_open, -1, asked.attributes))
    kinds = [name for name, given in vars(asked).items() if given is not None]
    for place, name in enumerate(kinds if len(kinds) > 1 else []):
        one = Conditions(**{name: getattr(asked, name)})
        one = _drop_rows(config, one, jax.random.fold_in(key, 2 + place))
        asked = dataclasses.replace(asked, **{name: getattr(one, name)})
    return _drop_rows(config, asked, key) if kinds else asked


def _drop_rows(config: GPTConfig, asked: Conditions, key: PRNGKey) -> Conditions:
    """The null condition in some rows."""
    rows = len(jax.tree.leaves(asked)[0])
    is_dropped = jax.random.bernoulli(key, config.cond_drop_prob, (rows,))

    def choose(null: Array, given: Array) -> Array:
        return jnp.where(is_dropped.reshape(-1, *[1] * (given.ndim - 1)), null, given)

    return jax.tree.map(choose, null_condition(asked, config.num_classes), asked)


def _mean(
    values: Float[Array, "*n"], counted: Bool[Array, "*n"], axis: int | None = None
) -> Float[Array, "..."]:
    total = jnp.sum(values * counted, axis=axis)
    return total / jnp.maximum(jnp.sum(counted, axis=axis), 1)
