import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.models.cells import (
    arrange,
    caption_first,
    cell_coordinates,
    cond_coordinates,
    is_word,
    of_kind,
)
from igpt_jax.models.conditioning import Caption
from igpt_jax.models.gpt_config import GPTConfig

CONFIG = GPTConfig(
    vocab_size=7,
    grid_shape=(2, 3),
    num_frames=2,
    num_heads=2,
    embed_dim=16,
    order="any",
    caption_len=4,
    caption_vocab_size=6,
    cond_image=True,
)
L, T, V = 12, 4, 7
RNG = np.random.default_rng(0)
LENGTHS = [0, 1, 2, 3, 4, 0, 1, 4]
IS_LAST = [False, False, False, False, False, True, True, True]
WORDS = RNG.integers(0, 6, (8, T))
PICTURES = RNG.integers(0, V, (8, L))
ORDERS = np.stack([RNG.permutation(L) for _ in LENGTHS])


def caption():
    return Caption(jnp.asarray(WORDS, jnp.int32), jnp.asarray(LENGTHS, jnp.int32))


def test_captions_stand_at_the_right_before_a_picture():
    tokens, cells, padding = caption_first(CONFIG, caption())
    for row, length in enumerate(LENGTHS):
        assert padding[row] == T - length
        assert tokens[row, T - length :].tolist() == [V + w for w in WORDS[row, :length]]
        assert cells[row, T - length :].tolist() == [L + i for i in range(length)]
        assert sorted(cells[row].tolist()) == [L + i for i in range(T)]


def test_pictures_and_captions_in_one_sequence():
    found = arrange(
        CONFIG,
        jnp.asarray(PICTURES, jnp.int32),
        jnp.asarray(ORDERS, jnp.int32),
        caption(),
        jnp.asarray(IS_LAST),
    )
    tokens, cells, padding = (np.asarray(array) for array in found)
    for row, (length, last) in enumerate(zip(LENGTHS, IS_LAST, strict=True)):
        picture = [(cell, PICTURES[row, cell]) for cell in ORDERS[row]]
        words = [(L + i, V + WORDS[row, i]) for i in range(length)]
        expected = picture + words if last else words + picture
        start = 0 if last else T - length
        assert padding[row] == start
        end = start + len(expected)
        assert list(zip(cells[row, start:end], tokens[row, start:end], strict=True)) == expected
        assert sorted(cells[row].tolist()) == list(range(L + T))


def test_which_cells_are_words():
    cells = np.stack([RNG.permutation(L + T) for _ in LENGTHS])
    in_caption, counted = is_word(CONFIG, jnp.asarray(cells, jnp.int32), caption())
    for row, length in enumerate(LENGTHS):
        for slot, cell in enumerate(cells[row]):
            assert in_caption[row, slot] == (cell >= L)
            assert counted[row, slot] == (L <= cell < L + length)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 3)])
def test_logits_of_a_kind_keep_its_own_ids(shape):
    logits = RNG.standard_normal((2, 3, V + 6)).astype(np.float32)
    cells = RNG.integers(0, L + T, shape)
    found = np.asarray(of_kind(CONFIG, jnp.asarray(logits), jnp.asarray(cells, jnp.int32)))
    spread = np.broadcast_to(cells, (2, 3))
    for place in np.ndindex(2, 3):
        for index in range(V + 6):
            if (index >= V) == (spread[place] >= L):
                assert found[place][index] == logits[place][index]
            else:
                assert np.isfinite(found[place][index])
                assert found[place][index] < -1e20


@pytest.mark.parametrize("caption_len", [0, 1, 4])
def test_coordinates_go_on_from_caption_to_condition_to_frames(caption_len):
    config = dataclasses.replace(CONFIG, caption_len=caption_len)
    expected = [
        (caption_len + frame, row, column)
        for frame in range(2)
        for row in range(2)
        for column in range(3)
    ] + [(word, word, word) for word in range(caption_len)]
    assert [tuple(place) for place in cell_coordinates(config).tolist()] == expected
    before = [(caption_len - 1, row, column) for row in range(2) for column in range(3)]
    assert [tuple(place) for place in cond_coordinates(config).tolist()] == before
    times = cell_coordinates(config)[: config.seq_len, 0]
    assert times.min() == cond_coordinates(config)[:, 0].max() + 1
