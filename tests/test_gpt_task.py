import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from joint_model import (
    CONFIG,
    captions_of,
    conditions_of,
    null_row,
    pictures_of,
    random_params,
    random_rows,
    reference,
    sequence_of,
)

from igpt_jax import gpt_task as task
from igpt_jax.model import Model
from igpt_jax.model_config import ModelConfig, build_tokenizer
from igpt_jax.models.conditioning import CondImage, Conditions
from igpt_jax.models.gpt import GPT
from igpt_jax.models.orders import OrdersConfig
from igpt_jax.testing import tiny_config
from igpt_jax.text.caption_tokenizers import ByteTokenizerConfig

TASK = dataclasses.replace(CONFIG, cond_drop_prob=0.0, attribute_drop_prob=0.0)
PARAMS = random_params(TASK)
ROWS = [
    dataclasses.replace(row, image=row.image or [1, 0, 2, 3, 5, 4], is_null_text=False)
    for row in random_rows(TASK)
]
SIZE, PAD = len(ROWS), TASK.caption_vocab_size - 1


def batch_of(rows):
    asked, caption = conditions_of(TASK, rows), captions_of(TASK, rows)
    return {
        "tokens": pictures_of(rows)[0],
        "label": asked.labels,
        "attributes": asked.attributes,
        "text_features": asked.text.features,
        "text_mask": asked.text.mask,
        "cond_tokens": asked.image.tokens,
        "caption": caption.tokens,
        "caption_length": caption.lengths,
    }


def losses(key, config=TASK, orders=None):
    orders = OrdersConfig() if orders is None else orders
    found = jax.jit(
        lambda params, batch: task.token_losses(GPT(config), params, batch, key, orders)
    )(PARAMS, batch_of(ROWS))
    return np.stack([found.picture, found.caption])


def expected_losses(rows):
    """Means over the tokens of each picture, and over its words."""
    means = []
    for row in rows:
        picture, caption = [], []
        nats = -reference(TASK, PARAMS, row)
        for (cell, token), given in zip(sequence_of(TASK, row), nats, strict=True):
            (caption if cell >= TASK.seq_len else picture).append(given[token])
        means.append([np.mean(picture), np.mean(caption) if caption else 0.0])
    return np.transpose(means)


def set_known(monkeypatch):
    """Half of the cells is known: they come first, in every frame."""
    cells = 6
    known = np.random.default_rng(0).random((SIZE, cells)) < 0.5
    monkeypatch.setattr(task, "random_known", lambda *_: jnp.asarray(known))
    order = []
    for row in known:
        frames = [frame * cells + cell for frame in range(2) for cell in range(cells)]
        kept = [cell for cell in frames if row[cell % cells]]
        order.append(kept + [cell for cell in frames if not row[cell % cells]])
    return order


@pytest.mark.parametrize("is_dropped", [False, True])
@pytest.mark.parametrize("is_last", [False, True])
def test_training_losses_equal_a_reference(is_last, is_dropped, monkeypatch):
    """Of captions before and behind pictures; one behind is no condition, and never dropped."""
    order = set_known(monkeypatch)
    rows = [
        dataclasses.replace(row, is_last=is_last, order=cells)
        for row, cells in zip(ROWS, order, strict=True)
    ]
    config = TASK
    if is_dropped:
        config = dataclasses.replace(TASK, cond_drop_prob=1 - 1e-9)
        null = [dataclasses.replace(null_row(row, TASK), image=None) for row in rows]
        if is_last:
            null = [
                dataclasses.replace(empty, caption=row.caption)
                for empty, row in zip(null, rows, strict=True)
            ]
        rows = null
    found = losses(jax.random.key(0), config, OrdersConfig(caption_last=float(is_last)))
    np.testing.assert_allclose(found, expected_losses(rows), rtol=1e-5)


def test_evaluation_is_not_random():
    """In raster order, captions first and last in turn, nothing dropped, whatever training does."""
    order = list(range(TASK.seq_len))
    rows = [
        dataclasses.replace(row, is_last=place % 2 == 1, order=order)
        for place, row in enumerate(ROWS)
    ]
    found = losses(None)
    np.testing.assert_allclose(found, expected_losses(rows), rtol=1e-5)
    wild = dataclasses.replace(
        TASK, cond_drop_prob=0.9, attribute_drop_prob=0.9, residual_dropout=0.9, embed_dropout=0.9
    )
    np.testing.assert_array_equal(losses(None, wild, OrdersConfig(caption_last=1.0)), found)
    first = [dataclasses.replace(row, is_last=False) for row in rows]
    found = losses(None, orders=OrdersConfig(caption_last=0.0))
    np.testing.assert_allclose(found, expected_losses(first), rtol=1e-5)


@pytest.mark.parametrize("is_last", [False, True])
def test_padding_is_never_learned(is_last):
    """No gradient reaches the embedding of the padding, before or behind the picture."""
    orders = OrdersConfig(caption_last=float(is_last))

    @jax.jit
    def gradient(params):
        def loss(params):
            key = jax.random.key(1)
            rows = task.token_losses(GPT(TASK), params, batch_of(ROWS), key, orders)
            return task.weighed(rows, 0.5)

        return jax.grad(loss)(params)["token_embedding"]

    rows = np.asarray(gradient(PARAMS))
    assert (rows[TASK.vocab_size + PAD] == 0).all()
    read = [row.caption[:-1] if is_last else row.caption for row in ROWS]
    assert all((rows[TASK.vocab_size + word] != 0).any() for words in read for word in words)


def is_near(count, total, share):
    return abs(count - total * share) < 5 * math.sqrt(total * share * (1 - share))


def many(count=4_000):
    rows = [ROWS[5]] * count
    asked = conditions_of(TASK, [dataclasses.replace(row, attributes=[1, 1]) for row in rows])
    return dataclasses.replace(asked, caption=captions_of(TASK, rows))


def test_conditions_are_dropped_together_and_alone():
    """All but the picture together in a fifth of the rows, and each kind in a fifth of the rest."""
    config = dataclasses.replace(TASK, cond_drop_prob=0.2, attribute_drop_prob=0.3)
    before, after = many(), task.drop(config, many(), jax.random.key(0))
    is_open = np.asarray(after.attributes == -1)
    null = {
        "labels": np.asarray(after.labels == TASK.num_classes),
        "caption": np.asarray(after.caption.lengths == 0),
        "text": np.asarray(after.text.is_null),
    }
    rows = len(is_open)
    for is_null in null.values():
        assert is_near(is_null.sum(), rows, 0.36)
    together = np.logical_and.reduce(list(null.values()))
    assert is_near(together.sum(), rows, 0.2 + 0.8 * 0.2**3)
    assert is_near((null["labels"] & ~null["caption"]).sum(), rows, 0.8 * 0.2 * 0.8)
    assert is_near(np.asarray(after.image.is_null).sum(), rows, 0.2)
    for one in (is_open[:, 0], is_open[:, 1]):
        assert is_near(one.sum(), rows, 1 - 0.8 * 0.8 * 0.7)
    kept = ~null["labels"]
    np.testing.assert_array_equal(after.labels[kept], before.labels[kept])
    np.testing.assert_array_equal(after.caption.tokens, before.caption.tokens)
    np.testing.assert_array_equal(after.image.tokens, before.image.tokens)
    assert (np.asarray(after.attributes)[~is_open] == 1).all()


def test_a_picture_is_dropped_where_it_is_all_that_is_asked():
    config = dataclasses.replace(TASK, cond_drop_prob=0.2)
    alone = Conditions(image=CondImage(jnp.zeros((4_000, 6), jnp.int32), jnp.zeros(4_000, bool)))
    is_null = np.asarray(task.drop(config, alone, jax.random.key(0)).image.is_null)
    assert is_near(is_null.sum(), len(is_null), 0.2)


def test_nothing_is_dropped_of_nothing():
    assert task.drop(TASK, Conditions(), jax.random.key(0)) == Conditions()


def test_the_loss_weighs_question_and_answer():
    gpt = dataclasses.replace(
        TASK,
        vocab_size=24,
        grid_shape=(4, 4),
        num_frames=1,
        caption_vocab_size=258,
        text_len=0,
        text_dim=0,
        num_classes=0,
        attribute_sizes=(),
    )
    config = tiny_config(
        gpt=gpt, caption_tokenizer=ByteTokenizerConfig(), question_loss_weight=0.25
    )
    tokenizer = build_tokenizer(config.tokenizer)
    model = Model(ModelConfig(config.tokenizer, gpt), tokenizer, {}, GPT(gpt))
    tokens, cond_tokens = np.random.default_rng(0).integers(0, 24, (2, SIZE, 16))
    batch = batch_of(ROWS) | {
        "tokens": jnp.asarray(tokens, jnp.int32),
        "cond_tokens": jnp.asarray(cond_tokens, jnp.int32),
    }
    loss, metrics = jax.jit(
        lambda params: task.gpt_task(config, model, Path()).loss(params, batch, None)
    )(random_params(gpt))
    rows = task.token_losses(GPT(gpt), random_params(gpt), batch, None, config.orders)
    expected, picture, caption = [], [], []
    for place in range(SIZE):
        one, other = float(rows.picture[place]), float(rows.caption[place])
        question, answer = (one, other) if place % 2 else (other, one)
        expected.append(0.25 * question + 0.75 * answer)
        (caption if place % 2 else picture).append(answer)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(metrics["caption_nats"], np.mean(caption), rtol=1e-5)
    np.testing.assert_allclose(metrics["picture_nats"], np.mean(picture), rtol=1e-5)
    bits = np.mean(picture) * 16 / math.log(2) / (32 * 32 * 3)
    np.testing.assert_allclose(metrics["bits_per_dim"], bits, rtol=1e-5)
