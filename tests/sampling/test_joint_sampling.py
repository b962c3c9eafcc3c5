import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from joint_model import (
    CONFIG,
    captions_of,
    conditions_of,
    null_row,
    pictures_of,
    random_params,
    random_rows,
)

from igpt_jax.models.conditioning import CondImage, Conditions
from igpt_jax.models.gpt import GPT
from igpt_jax.models.orders import known_first
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

L, T, V = CONFIG.seq_len, CONFIG.caption_len, CONFIG.vocab_size
MODEL = GPT(CONFIG)
PARAMS = random_params(CONFIG)
ROWS = random_rows(CONFIG)
SIZE = len(ROWS)
GREEDY = SamplingConfig(temperature=0)
GUIDED = SamplingConfig(temperature=0, cfg_scale=2.0)


@jax.jit
def forward(tokens, condition, order):
    return MODEL.apply({"params": PARAMS}, tokens[:, :-1], condition, order=order)


def asked_of(rows):
    condition = conditions_of(CONFIG, rows)
    return dataclasses.replace(condition, caption=captions_of(CONFIG, rows))


def loop(condition, away, order, scale=2.0):
    """Greedy tokens in their order: all of it is computed again for each of them."""
    tokens = jnp.zeros(order.shape, jnp.int32)
    for i in range(order.shape[1]):
        with_condition, without = (forward(tokens, c, order)[:, i] for c in (condition, away))
        guided = without + scale * (with_condition - without)
        tokens = tokens.at[:, i].set(guided.argmax(-1))
    return by_cells(tokens, order)


def by_cells(tokens, order):
    cells = np.zeros(order.shape, int)
    np.put_along_axis(cells, np.asarray(order), np.asarray(tokens), axis=1)
    return cells


def draw(rows, sampling, indices=None, negative=None):
    keys = image_keys(0, np.arange(len(rows)) if indices is None else np.asarray(indices))
    _, order = pictures_of(rows)
    settings = sampling.rows(len(rows))
    found = generate(MODEL, PARAMS, keys, asked_of(rows), settings, None, None, negative, order)
    return np.asarray(found)


def test_a_caption_drawn_behind_a_picture_equals_a_loop():
    tokens, order = pictures_of(ROWS)
    prompt = jnp.take_along_axis(tokens, order, axis=1)
    words = jnp.tile(L + jnp.arange(T), (SIZE, 1))
    order, condition = jnp.concatenate([order, words], axis=1), conditions_of(CONFIG, ROWS)
    expected = jnp.pad(prompt, ((0, 0), (0, T)))
    for i in range(L, L + T):
        expected = expected.at[:, i].set(forward(expected, condition, order)[:, i].argmax(-1))
    found = generate(
        MODEL, PARAMS, image_keys(0, np.arange(SIZE)), condition, GREEDY.rows(SIZE), prompt,
        order=order,
    )  # fmt: skip
    np.testing.assert_array_equal(found, by_cells(expected, order))
    np.testing.assert_array_equal(found[:, :L], tokens)
    assert (found[:, L:] >= V).all()
    assert len({tuple(row) for row in found[:, L:].tolist()}) > 1


def test_guided_pictures_equal_a_loop():
    _, order = pictures_of(ROWS)
    null = asked_of([null_row(row, CONFIG) for row in ROWS])
    expected = loop(asked_of(ROWS), null, order)
    np.testing.assert_array_equal(draw(ROWS, GUIDED), expected)
    assert (expected != loop(asked_of(ROWS), null, order, scale=1.0)).any()


def test_a_negative_caption_leads_away_from_it():
    _, order = pictures_of(ROWS)
    others = [
        dataclasses.replace(row, caption=other.caption[:2], label=0)
        for row, other in zip(ROWS, ROWS[::-1], strict=True)
    ]
    found = draw(ROWS, GUIDED, negative=asked_of(others))
    np.testing.assert_array_equal(found, loop(asked_of(ROWS), asked_of(others), order))
    assert (found != draw(ROWS, GUIDED)).any()


def test_captions_of_many_lengths_share_a_batch():
    settings = SamplingConfig(cfg_scale=2.0)
    together = draw(ROWS, settings)
    for i, row in enumerate(ROWS):
        np.testing.assert_array_equal(draw([row], settings, [i])[0], together[i])


def test_known_tokens_stay_wherever_they_lie():
    rng, count = np.random.default_rng(0), 300
    rows = [ROWS[i % SIZE] for i in range(count)]
    is_known = rng.random((count, L)) < rng.random((count, 1))
    given = rng.integers(0, V, (count, L)).astype(np.int32)
    order = known_first(jnp.asarray(is_known))
    known = tuple(
        jnp.asarray(np.take_along_axis(a, np.asarray(order), 1)) for a in (given, is_known)
    )
    settings = SamplingConfig(cfg_scale=2.0).rows(count)
    keys = image_keys(0, np.arange(count))
    drawn = np.asarray(
        generate(MODEL, PARAMS, keys, asked_of(rows), settings, None, known, None, order)
    )
    np.testing.assert_array_equal(drawn[is_known], given[is_known])
    assert (drawn < V).all()
    assert (drawn[~is_known] != given[~is_known]).mean() > 0.5


def test_guidance_of_a_model_of_pictures_alone_leads_away_from_any_picture():
    """A picture is all that is asked, so the null condition is none, whatever its tokens."""
    config = dataclasses.replace(
        CONFIG, num_frames=1, num_classes=0, attribute_sizes=(), text_len=0, text_dim=0,
        caption_len=0, caption_vocab_size=0, order="raster",
    )  # fmt: skip
    gpt, params = GPT(config), random_params(config)
    given = jax.random.randint(jax.random.key(0), (4, 6), 0, V)
    condition, away = (
        Conditions(image=CondImage(tokens, jnp.full(4, is_null)))
        for tokens, is_null in ((given, False), (jnp.zeros_like(given), True))
    )
    full = jax.jit(lambda tokens, asked: gpt.apply({"params": params}, tokens[:, :-1], asked))
    tokens = jnp.zeros((4, 6), jnp.int32)
    for i in range(6):
        with_picture, without = (full(tokens, asked)[:, i] for asked in (condition, away))
        tokens = tokens.at[:, i].set((without + 2 * (with_picture - without)).argmax(-1))
    keys = image_keys(0, np.arange(4))
    found = generate(gpt, params, keys, condition, GUIDED.rows(4))
    np.testing.assert_array_equal(found, tokens)
