import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.models.attention import init_kv_cache
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.orders import OrdersConfig, known_first, random_known
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

RASTER = GPTConfig(
    vocab_size=17, grid_shape=(3, 4), num_layers=2, num_heads=2, embed_dim=16, num_classes=5
)
CONFIGS = {
    "rotary": dataclasses.replace(RASTER, order="any"),
    "learned": dataclasses.replace(
        RASTER, order="any", positions="learned", activation="sigmoid_gelu"
    ),
}
LABELS = jnp.asarray([0, 3], jnp.int32)
LENGTH = 12


def random_params(config):
    tokens = jnp.zeros((1, LENGTH - 1), jnp.int32)
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), tokens, LABELS[:1])["params"]
    leaves, tree = jax.tree.flatten(nn.unbox(shapes))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    config = CONFIGS[request.param]
    return GPT(config), random_params(config)


def shuffled(seed):
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(LENGTH) for _ in LABELS]).astype(np.int32)
    return jnp.asarray(order), jnp.asarray(rng.integers(0, 17, (2, LENGTH)), jnp.int32)


def test_known_cells_come_first_in_raster_order():
    is_known = jnp.asarray([[False, True, False, True], [True] * 4, [False] * 4])
    np.testing.assert_array_equal(known_first(is_known), [[1, 3, 0, 2], [0, 1, 2, 3], [0, 1, 2, 3]])


def test_what_training_hides():
    known = np.asarray(random_known(jax.random.key(0), 4_000, (4, 6), OrdersConfig())).reshape(
        -1, 4, 6
    )
    nothing = (~known).all(axis=(1, 2))
    assert OrdersConfig().everything < nothing.mean() < 0.5  # a rectangle may be everything, too
    assert (known.mean(axis=0) > 0.25).all()  # no cell is always hidden
    hidden = known == 0

    def is_box(cells):
        rows, columns = cells.any(axis=1), cells.any(axis=0)
        return (cells == rows[:, None] & columns).all()

    boxes = np.array([is_box(cells) for cells in hidden])
    assert boxes.mean() > OrdersConfig().rectangle
    left, top = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    left[:, :3], top[:2] = True, True
    for half in (left, ~left, top, ~top):
        assert (hidden == half).all(axis=(1, 2)).any()


def test_raster_is_one_of_the_orders(model):
    gpt, params = model
    _, tokens = shuffled(0)
    forward = jax.jit(gpt.apply)
    raster = jnp.arange(LENGTH)[None]
    np.testing.assert_array_equal(
        forward({"params": params}, tokens[:, :-1], LABELS),
        forward({"params": params}, tokens[:, :-1], LABELS, order=raster),
    )


def test_a_prediction_depends_on_what_came_before_in_the_order_and_on_its_cell(model):
    gpt, params = model
    order, tokens = shuffled(1)
    logits = jax.jit(lambda t, o: gpt.apply({"params": params}, t, LABELS, order=o))
    before = logits(tokens[:, :-1], order)
    changed = tokens.at[:, 6].set((tokens[:, 6] + 1) % 17)
    after = logits(changed[:, :-1], order)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert (np.abs(before - after)[:, 7:].max(axis=-1) > 1e-3).all()
    swapped = order.at[:, 6].set(order[:, 8]).at[:, 8].set(order[:, 6])
    elsewhere = logits(tokens[:, :-1], swapped)
    np.testing.assert_array_equal(before[:, :6], elsewhere[:, :6])
    assert (np.abs(before - elsewhere)[:, 6].max(axis=-1) > 1e-3).all()


@pytest.mark.parametrize("known", [0, 5])
def test_cached_logits_equal_those_of_the_whole_sequence(model, known):
    gpt, params = model
    order, tokens = shuffled(2)
    variables = {"params": params}
    whole = gpt.apply(variables, tokens[:, :-1], LABELS, order=order)
    logits, cache = gpt.apply(
        variables, tokens[:, :known], LABELS, init_kv_cache(gpt.config, 2),
        order=order[:, : known + 1], method="prefill",
    )  # fmt: skip
    step = jax.jit(lambda t, c, o: gpt.apply(variables, t, c, order=o, method="decode_step"))
    np.testing.assert_allclose(logits, whole[:, known], atol=1e-5)
    for i in range(known, LENGTH - 1):
        logits, cache = step(tokens[:, i], cache, order[:, i : i + 2])
        np.testing.assert_allclose(logits, whole[:, i + 1], atol=1e-5)


def test_sampling_in_an_order_equals_a_loop(model):
    gpt, params = model
    order, _ = shuffled(3)
    forward = jax.jit(lambda t: gpt.apply({"params": params}, t, LABELS, order=order))
    tokens = jnp.zeros((2, LENGTH), jnp.int32)
    for i in range(LENGTH):
        tokens = tokens.at[:, i].set(forward(tokens[:, :-1])[:, i].argmax(-1))
    expected = np.zeros((2, LENGTH), int)
    np.put_along_axis(expected, np.asarray(order), np.asarray(tokens), axis=1)
    rows = SamplingConfig(temperature=0).rows(2)
    drawn = generate(
        gpt, params, image_keys(0, np.arange(2)), LABELS, rows, None, None, None, order
    )
    np.testing.assert_array_equal(drawn, expected)


def test_known_tokens_stay_for_a_thousand_random_masks(model):
    gpt, params = model
    rng = np.random.default_rng(0)
    count = 1_000
    is_known = rng.random((count, LENGTH)) < rng.random((count, 1))
    given = rng.integers(0, 17, (count, LENGTH)).astype(np.int32)
    order = known_first(jnp.asarray(is_known))
    known = tuple(
        jnp.asarray(np.take_along_axis(a, np.asarray(order), 1)) for a in (given, is_known)
    )
    rows = SamplingConfig(cfg_scale=2.0).rows(count)
    labels = jnp.asarray(rng.integers(0, 5, count), jnp.int32)
    keys = image_keys(0, np.arange(count))
    drawn = np.asarray(generate(gpt, params, keys, labels, rows, None, known, None, order))
    np.testing.assert_array_equal(drawn[is_known], given[is_known])
    assert (drawn[~is_known] != given[~is_known]).mean() > 0.8


def test_a_model_of_raster_order_takes_no_order():
    with pytest.raises(UserError, match="trained in raster order"):
        GPT(RASTER).apply(
            {"params": random_params(RASTER)}, jnp.zeros((2, LENGTH - 1), jnp.int32), LABELS,
            order=jnp.arange(LENGTH)[None],
        )  # fmt: skip
