import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.models.attention import attend, init_kv_cache
from igpt_jax.models.conditioning import ClassEmbedder, split_label
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.layers import RMSNorm
from igpt_jax.models.presets import imagegpt, llamagen
from igpt_jax.models.rotary import raster_coordinates, rotate, rotation

SHAPE = {"vocab_size": 17, "grid_shape": (3, 4), "num_layers": 2, "num_heads": 2, "embed_dim": 16}
VARIANTS = {
    "llamagen": GPTConfig(**SHAPE, num_classes=5),
    "imagegpt": GPTConfig(**SHAPE, activation="sigmoid_gelu", positions="learned"),
    "digits": GPTConfig(**SHAPE, num_classes=101, class_factors=(11, 10)),
    "grouped": GPTConfig(**(SHAPE | {"num_heads": 4}), num_kv_heads=2, qk_norm=True),
    "learned digits": GPTConfig(**SHAPE, num_classes=12, class_factors=(3, 4), positions="learned"),
    "zero prefix": GPTConfig(**SHAPE, num_classes=5, prefix_rotation="zero"),
    "remat": GPTConfig(**SHAPE, num_classes=5, remat="full"),
}


def random_params(config):
    """Every parameter random, the zero-initialised head included."""
    labels = jnp.zeros((1,), jnp.int32) if config.num_classes else None
    tokens = jnp.zeros((1, config.seq_len - 1), jnp.int32)
    shapes = jax.eval_shape(GPT(config).init, jax.random.key(0), tokens, labels)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    draw = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return nn.unbox(jax.tree.unflatten(tree, draw))


def example(config, batch=3):
    key = jax.random.key(2)
    tokens = jax.random.randint(key, (batch, config.seq_len), 0, config.vocab_size)
    labels = jnp.arange(batch, dtype=jnp.int32) if config.num_classes else None
    return tokens, labels


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (imagegpt("S"), 76_571_648),
        (imagegpt("M"), 455_157_760),
        (imagegpt("L"), 1_362_250_752),
        (llamagen("B"), 110_888_448),
        (llamagen("L"), 342_910_976),
        (llamagen("XL"), 774_699_520),
        (llamagen("XXL"), 1_410_972_672),
        (llamagen("3B"), 3_096_659_200),
    ],
)
def test_parameter_counts_are_the_published_integers(config, count):
    tokens = jnp.zeros((1, config.seq_len - 1), jnp.int32)
    labels = jnp.zeros((1,), jnp.int32) if config.num_classes else None
    params = jax.eval_shape(GPT(config).init, jax.random.key(0), tokens, labels)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(params)) == count


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_cached_decoding_equals_the_full_forward_pass(config):
    model, params = GPT(config), random_params(config)
    tokens, labels = example(config)
    variables = {"params": params}
    full = jax.jit(model.apply)(variables, tokens[:, :-1], labels)
    prefill = jax.jit(lambda *inputs: model.apply(variables, *inputs, method="prefill"))
    step = jax.jit(lambda *inputs: model.apply(variables, *inputs, method="decode_step"))
    for start in (0, 5):
        cache = init_kv_cache(config, len(tokens))
        logits, cache = prefill(tokens[:, :start], labels, cache)
        np.testing.assert_allclose(logits, full[:, start], atol=1e-5)
        for i in range(start, config.seq_len - 1):
            logits, cache = step(tokens[:, i], cache)
            np.testing.assert_allclose(logits, full[:, i + 1], atol=1e-5)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_token_j_changes_no_logit_up_to_j(config):
    model, params = GPT(config), random_params(config)
    tokens, labels = example(config, batch=1)
    forward = jax.jit(lambda t: model.apply({"params": params}, t, labels))
    before = forward(tokens[:, :-1])
    for j in range(config.seq_len - 1):
        changed = tokens.at[0, j].set((tokens[0, j] + 1) % config.vocab_size)
        after = forward(changed[:, :-1])
        np.testing.assert_array_equal(after[:, : j + 1], before[:, : j + 1])
        assert jnp.abs(after[:, j + 1] - before[:, j + 1]).max() > 1e-4


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_features_are_what_the_head_would_see_if_the_model_ended_there(config):
    """The head is linear: the mean of logits is the head of the mean."""
    params, (tokens, labels) = random_params(config), example(config)
    features = GPT(config).apply({"params": params}, tokens[:, :-1], labels, method="features")
    assert features.shape == (len(tokens), config.num_layers + 1, config.embed_dim)
    for layers in range(1, config.num_layers + 1):
        blocks = jax.tree.map(lambda leaf, n=layers: leaf[:n], params["blocks"])
        short = params | {"blocks": blocks}
        if layers < config.num_layers:
            norm = params["blocks"]["attention_norm"]
            short["norm"] = jax.tree.map(lambda leaf, n=layers: leaf[n], norm)
        model = GPT(dataclasses.replace(config, num_layers=layers))
        logits = model.apply({"params": short}, tokens[:, :-1], labels)
        np.testing.assert_allclose(
            features[:, layers] @ params["head"], logits.mean(axis=1), atol=1e-4
        )


def test_coordinates_are_data():
    config = VARIANTS["llamagen"]
    model, params = GPT(config), random_params(config)
    tokens, labels = example(config)
    raster = jnp.asarray(raster_coordinates(config.grid_shape))[None, :-1]
    forward = jax.jit(
        lambda **given: model.apply({"params": params}, tokens[:, :-1], labels, **given)
    )
    given, default = forward(coordinates=raster), forward()
    np.testing.assert_array_equal(given, default)
    moved = forward(coordinates=raster[:, ::-1])
    assert jnp.abs(moved[:, 2:] - default[:, 2:]).max() > 1e-3


@pytest.mark.parametrize("policy", ["full", "dots", "all_dots"])
def test_rematerialisation_changes_no_gradient(policy):
    plain, remat = (GPTConfig(**SHAPE, num_classes=5, remat=name) for name in ("none", policy))
    params = random_params(plain)
    tokens, labels = example(plain)

    def loss(params, config):
        return jnp.sum(GPT(config).apply({"params": params}, tokens[:, :-1], labels) ** 2)

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    expected, got = gradient(params, plain), gradient(params, remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4), expected, got)


def test_rotary_against_complex_multiplication():
    coordinates = jnp.asarray([[[0, 0, 0], [0, 2, 5], [0, 7, 1]]])
    x = jax.random.normal(jax.random.key(0), (2, 3, 2, 16))
    got = rotate(x, *rotation(coordinates, 16, 10_000.0))
    as_complex = np.asarray(x)[..., 0::2] + 1j * np.asarray(x)[..., 1::2]
    frequencies = 10_000.0 ** (-np.arange(4) / 4)
    rows, columns = np.asarray(coordinates)[..., 1:2], np.asarray(coordinates)[..., 2:3]
    angles = np.concatenate([rows * frequencies, columns * frequencies], axis=-1)
    turned = as_complex * np.exp(1j * angles)[:, :, None]
    np.testing.assert_allclose(np.asarray(got)[..., 0::2], turned.real, atol=1e-5)
    np.testing.assert_allclose(np.asarray(got)[..., 1::2], turned.imag, atol=1e-5)


def test_rms_norm_against_numpy():
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    got = RMSNorm().apply({"params": {"scale": jnp.full((8,), 2.0)}}, jnp.asarray(x))
    np.testing.assert_allclose(got, 2 * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5), 1e-5)


def test_grouped_attention_against_numpy():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 5, 4, 8)).astype(np.float32)
    keys, values = rng.normal(size=(2, 2, 5, 2, 8)).astype(np.float32)
    got = attend(jnp.asarray(query), jnp.asarray(keys), jnp.asarray(values))
    for b in range(2):
        for n in range(4):
            scores = query[b, :, n] @ keys[b, :, n // 2].T / np.sqrt(8)
            scores = np.where(np.tril(np.ones((5, 5), bool)), scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            np.testing.assert_allclose(got[b, :, n], weights @ values[b, :, n // 2], atol=1e-5)


def test_labels_split_into_digits():
    numbers = jnp.arange(101)
    expected = [[n // 10, n % 10] for n in range(101)]
    np.testing.assert_array_equal(split_label(numbers, (11, 10)), expected)


def test_numbers_share_their_digits_and_null_has_its_own():
    embedder = ClassEmbedder(num_classes=101, factors=(11, 10), embed_dim=8)
    prefix, _ = embedder.init_with_output(jax.random.key(0), jnp.asarray([42, 47, 12, 101]))
    np.testing.assert_array_equal(prefix[0, 0], prefix[1, 0])
    np.testing.assert_array_equal(prefix[0, 1], prefix[2, 1])
    assert (prefix[3] != prefix[0]).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_heads": 8}, "divide by 4"),
        ({"num_classes": 200, "class_factors": (11, 10)}, "class_factors"),
        ({"cond_drop_prob": 1.5}, "cond_drop_prob"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
    ],
)
def test_impossible_shapes_are_refused_with_a_word(change, word):
    with pytest.raises(UserError, match=word):
        GPTConfig(**(SHAPE | change))


def test_labels_must_fit_the_model():
    config = VARIANTS["llamagen"]
    with pytest.raises(UserError, match="expected labels, as the model was trained with, got none"):
        GPT(config).apply({"params": random_params(config)}, jnp.zeros((1, 3), jnp.int32))
