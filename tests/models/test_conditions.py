import dataclasses
import re

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

from igpt_jax.errors import UserError
from igpt_jax.models.attention import init_kv_cache
from igpt_jax.models.cells import arrange
from igpt_jax.models.conditioning import Conditions
from igpt_jax.models.gpt import GPT, GPTConfig

L, T, V = CONFIG.seq_len, CONFIG.caption_len, CONFIG.vocab_size
PARAMS = {"params": random_params(CONFIG)}
ROWS = random_rows(CONFIG)
SIZE = len(ROWS)


@jax.jit
def forward(variables, tokens, condition, order, padding):
    """Log-probabilities of arranged cells."""
    logits = GPT(CONFIG).apply(variables, tokens[:, :-1], condition, order=order, padding=padding)
    return jax.nn.log_softmax(logits)


@jax.jit
def forward_picture(variables, tokens, condition, order):
    """Log-probabilities of pictures whose captions are a condition."""
    logits = GPT(CONFIG).apply(variables, tokens[:, :-1], condition, order=order)
    return jax.nn.log_softmax(logits)


def arranged(rows, pad=None):
    tokens, order = pictures_of(rows)
    is_last = jnp.asarray([row.is_last for row in rows])
    return arrange(CONFIG, tokens, order, captions_of(CONFIG, rows, pad), is_last)


def logits_of(rows, pad=None, variables=PARAMS):
    """Log-probabilities of what is no padding, one array a row."""
    tokens, order, padding = arranged(rows, pad)
    found = np.asarray(forward(variables, tokens, conditions_of(CONFIG, rows, pad), order, padding))
    starts = np.asarray(padding)
    return [
        found[i, start : start + L + len(row.caption)]
        for i, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]


def picture_logits(rows, pad=None, variables=PARAMS, condition=None):
    tokens, order = pictures_of(rows)
    if condition is None:
        condition = conditions_of(CONFIG, rows, pad)
        condition = dataclasses.replace(condition, caption=captions_of(CONFIG, rows, pad))
    fed = jnp.take_along_axis(tokens, order, axis=1)
    return np.asarray(forward_picture(variables, fed, condition, order))


def test_all_conditions_together_equal_a_reference_without_padding():
    for row, found in zip(ROWS, logits_of(ROWS), strict=True):
        expected = reference(CONFIG, PARAMS["params"], row)
        np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=1e-5)
        of_kind = np.isfinite(expected)
        np.testing.assert_allclose(found[of_kind], expected[of_kind], atol=1e-4)


def test_no_mass_on_the_ids_of_the_other_kind():
    for row, found in zip(ROWS, logits_of(ROWS), strict=True):
        is_word = np.array([cell >= L for cell, _ in sequence_of(CONFIG, row)])
        mass = np.exp(found)
        assert (mass[is_word, :V] == 0).all()
        assert (mass[~is_word, V:] == 0).all()
        np.testing.assert_allclose(mass.sum(axis=-1), 1, atol=1e-5)


def test_a_caption_as_a_condition_equals_its_cells():
    rows = [dataclasses.replace(row, is_last=False) for row in ROWS]
    cells = logits_of(rows)
    for row, found, expected in zip(rows, picture_logits(rows), cells, strict=True):
        np.testing.assert_allclose(found, expected[len(row.caption) :], atol=1e-5)


def test_padding_is_never_seen():
    """Other ids in padded slots and in null pictures: the same logits, bit for bit."""
    plain, first = logits_of(ROWS), picture_logits(ROWS)
    for seed in range(3):
        for before, after in zip(plain, logits_of(ROWS, np.random.default_rng(seed)), strict=True):
            np.testing.assert_array_equal(before, after)
        again = picture_logits(ROWS, np.random.default_rng(seed))
        np.testing.assert_array_equal(first, again)


def test_an_empty_caption_equals_none():
    rows = [dataclasses.replace(row, caption=[], is_last=False) for row in ROWS]
    with_empty = picture_logits(rows)
    without = picture_logits(rows, condition=conditions_of(CONFIG, rows))
    np.testing.assert_allclose(with_empty, without, atol=1e-5)
    assert np.abs(with_empty - picture_logits(ROWS)).max() > 1e-2


@pytest.mark.parametrize(
    "change",
    [
        {"label": 3},
        {"attributes": [-1, 1]},
        {"image": None},
        {"image": [0] * CONFIG.cond_len},
        {"caption": [1]},
        {"text": np.ones((1, 4))},
        {"is_null_text": True},
    ],
)
def test_every_condition_is_read(change):
    rows = [dataclasses.replace(ROWS[0], **given) for given in ({}, change)] * (SIZE // 2)
    found = picture_logits(rows)
    assert (np.abs(found[0] - found[1]).max(axis=-1) > 1e-3).all()


def test_open_attributes_have_rows_of_their_own():
    before = picture_logits(ROWS)
    for place, size in enumerate(CONFIG.attribute_sizes):
        changed = jax.tree.map(lambda leaf: leaf, PARAMS)
        tables = changed["params"]["prefix"]["attributes"]
        tables[f"embedding_{place}"] = tables[f"embedding_{place}"].at[size].add(1.0)
        after = picture_logits(ROWS, variables=changed)
        is_same = (before == after).all(axis=(1, 2))
        np.testing.assert_array_equal(is_same, [row.attributes[place] != -1 for row in ROWS])


def test_a_cell_depends_on_what_stands_before_it_alone():
    tokens, order, padding = arranged(ROWS)
    asked = conditions_of(CONFIG, ROWS)
    before = np.asarray(forward(PARAMS, tokens, asked, order, padding))
    starts = np.asarray(padding)
    for place in range(0, L + T, 3):
        is_word = order[:, place] >= L
        other = jnp.where(is_word, V + (tokens[:, place] - V + 1) % 6, (tokens[:, place] + 1) % V)
        changed = tokens.at[:, place].set(other)
        after = np.asarray(forward(PARAMS, changed, asked, order, padding))
        for i, row in enumerate(ROWS):
            start, end = starts[i], starts[i] + L + len(row.caption)
            untouched = end if place < start else min(place + 1, end)
            np.testing.assert_array_equal(before[i, start:untouched], after[i, start:untouched])
            moved = np.abs(np.exp(before) - np.exp(after))[i, untouched:end].max(axis=-1)
            assert (moved > 1e-7).all()


@pytest.mark.parametrize("known", [0, 5])
def test_cached_equals_the_whole_sequence_behind_a_caption(known):
    tokens, order = pictures_of(ROWS)
    fed = jnp.take_along_axis(tokens, order, axis=1)
    condition = dataclasses.replace(conditions_of(CONFIG, ROWS), caption=captions_of(CONFIG, ROWS))
    check_cached(fed, condition, order, known, picture_logits(ROWS))


def test_cached_equals_the_whole_sequence_in_a_caption():
    """The caption stands behind the picture, and its words are fed one by one."""
    rows = [dataclasses.replace(row, is_last=True) for row in ROWS]
    tokens, order, padding = arranged(rows)
    asked = conditions_of(CONFIG, rows)
    whole = np.asarray(forward(PARAMS, tokens, asked, order, padding))
    check_cached(tokens, asked, order, L - 1, whole)


def check_cached(tokens, condition, order, known, whole):
    gpt = GPT(CONFIG)

    @jax.jit
    def prefill(tokens, condition, order):
        cache = init_kv_cache(CONFIG, len(tokens))
        return gpt.apply(PARAMS, tokens, condition, cache, order=order, method="prefill")

    @jax.jit
    def step(tokens, cache, order):
        return gpt.apply(PARAMS, tokens, cache, order=order, method="decode_step")

    logits, cache = prefill(tokens[:, :known], condition, order[:, : known + 1])
    for i in range(known, tokens.shape[1]):
        found = np.asarray(jax.nn.log_softmax(logits))
        np.testing.assert_allclose(np.exp(found), np.exp(whole[:, i]), atol=1e-5)
        of_kind = whole[:, i] > -1e29
        np.testing.assert_allclose(found[of_kind], whole[:, i][of_kind], atol=1e-5)
        if i + 1 < tokens.shape[1]:
            logits, cache = step(tokens[:, i], cache, order[:, i : i + 2])


def test_null_conditions_ask_for_nothing_but_the_picture():
    """Rows that differ in what was asked are the same once it is null."""
    rows = [
        dataclasses.replace(null_row(row, CONFIG), tokens=ROWS[0].tokens, order=ROWS[0].order)
        for row in ROWS
    ]
    rows = [dataclasses.replace(row, text=ROWS[2].text, image=ROWS[0].image) for row in rows]
    found = picture_logits(rows)
    np.testing.assert_array_equal(found, np.broadcast_to(found[:1], found.shape))


CLASSES = GPTConfig(vocab_size=5, grid_shape=(2, 2), num_layers=1, num_heads=1, embed_dim=8)


@pytest.mark.parametrize(
    ("kinds", "given", "says"),
    [
        ({"num_classes": 2}, {}, "expected labels, as the model was trained with, got none"),
        ({}, {"labels": jnp.zeros(1, jnp.int32)}, "expected none, .* got labels"),
        (
            {"num_classes": 2, "attribute_sizes": (2,)},
            {"labels": jnp.zeros(1, jnp.int32)},
            "expected labels and attributes, .* got labels",
        ),
        (
            {"num_classes": 2},
            {"attributes": jnp.zeros((1, 1), jnp.int32)},
            "expected labels, .* got attributes",
        ),
        (
            {"cond_image": True, "caption_len": 2, "caption_vocab_size": 3, "order": "any"},
            {},
            "expected caption and image, .* got none",
        ),
    ],
)
def test_other_kinds_of_conditions_are_refused(kinds, given, says):
    gpt = GPT(dataclasses.replace(CLASSES, **kinds))
    with pytest.raises(UserError, match=f"^condition: {says}") as refused:
        gpt.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32), Conditions(**given))
    assert "\n" not in str(refused.value)


ANY = {"vocab_size": 5, "grid_shape": (2, 2), "embed_dim": 16, "num_heads": 2, "order": "any"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"positions": "learned", "caption_len": 2}, "positions must be rotary .* got learned"),
        ({"positions": "learned", "num_frames": 2}, "positions must be rotary .* got learned"),
        ({"positions": "learned", "cond_image": True}, "positions must be rotary .* got learned"),
        ({"order": "raster", "caption_len": 2}, 'order must be "any" with caption_len, got raster'),
        ({"num_heads": 4, "caption_len": 2}, "must be at least 8 .* got 4"),
        ({"attribute_sizes": (3, 0)}, re.escape("attribute_sizes must be at least 1, got (3, 0)")),
        ({"text_len": 3}, re.escape("both be 0 or both be more, got (3, 0)")),
        ({"attribute_drop_prob": 1.0}, r"attribute_drop_prob must be in \[0, 1\), got 1.0"),
        ({"caption_len": -1}, "caption_len must be at least 0, got -1"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
    ],
)
def test_shapes_that_no_model_has_are_refused(changes, says):
    with pytest.raises(UserError, match=says) as refused:
        GPTConfig(**(ANY | changes))
    assert "\n" not in str(refused.value)
