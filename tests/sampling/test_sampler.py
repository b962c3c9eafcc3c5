import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.models.presets import llamagen
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

CONFIG = GPTConfig(
    vocab_size=17, grid_shape=(3, 4), num_layers=2, num_heads=2, embed_dim=16, num_classes=5
)


@pytest.fixture(scope="module")
def params():
    tokens, labels = jnp.zeros((1, 11), jnp.int32), jnp.zeros((1,), jnp.int32)
    shapes = jax.eval_shape(GPT(CONFIG).init, jax.random.key(0), tokens, labels)["params"]
    leaves, tree = jax.tree.flatten(nn.unbox(shapes))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree, [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def sample(params, labels, config=SamplingConfig(), seed=0, indices=None, prompt=None):  # noqa: B008
    labels = jnp.asarray(labels, jnp.int32)
    keys = image_keys(seed, np.arange(len(labels)) if indices is None else np.asarray(indices))
    return np.asarray(generate(GPT(CONFIG), params, keys, labels, config.rows(len(labels)), prompt))


def test_sampling_equals_a_loop_over_the_full_forward_pass(params):
    """Greedy: the scan with its cache against recomputing everything for each token."""
    labels = jnp.asarray([0, 3], jnp.int32)
    forward = jax.jit(lambda tokens: GPT(CONFIG).apply({"params": params}, tokens, labels))
    tokens = jnp.zeros((2, CONFIG.seq_len), jnp.int32)
    for i in range(CONFIG.seq_len):
        tokens = tokens.at[:, i].set(forward(tokens[:, :-1])[:, i].argmax(-1))
    np.testing.assert_array_equal(sample(params, [0, 3], SamplingConfig(temperature=0)), tokens)


def test_picture_i_does_not_depend_on_the_batch(params):
    together = sample(params, [0, 1, 2, 3, 4, 0, 1])
    for i, label in enumerate([0, 1, 2, 3, 4, 0, 1]):
        np.testing.assert_array_equal(sample(params, [label], indices=[i])[0], together[i])


def test_seeds_differ(params):
    assert (sample(params, [0, 1], seed=0) != sample(params, [0, 1], seed=1)).any()


def test_guidance_1_equals_none_bit_for_bit(params):
    labels = jnp.asarray([0, 3], jnp.int32)
    keys = image_keys(0, np.arange(2))
    plain = SamplingConfig().rows(2)
    doubled = plain.replace(cfg_scale=jnp.ones(2))
    first = generate(GPT(CONFIG), params, keys, labels, plain)
    second = generate(GPT(CONFIG), params, keys, labels, doubled)
    np.testing.assert_array_equal(first, second)


def test_guidance_0_forgets_the_class(params):
    config = SamplingConfig(cfg_scale=0.0)
    np.testing.assert_array_equal(
        sample(params, [0], config, indices=[3]), sample(params, [4], config, indices=[3])
    )


def test_settings_are_one_value_a_row(params):
    """A batch of mixed settings gives each row what it gets alone."""
    labels = jnp.asarray([0, 1, 2], jnp.int32)
    keys = image_keys(0, np.arange(3))
    configs = [
        SamplingConfig(temperature=0.7, cfg_scale=2.0, top_k=4, top_p=0.9),
        SamplingConfig(temperature=0.0, cfg_scale=1.5, top_k=2, top_p=0.8),
        SamplingConfig(temperature=1.3, cfg_scale=4.0, top_k=9, top_p=0.5),
    ]
    mixed = jax.tree.map(lambda *rows: jnp.concatenate(rows), *[c.rows(1) for c in configs])
    together = generate(GPT(CONFIG), params, keys, labels, mixed)
    for i, config in enumerate(configs):
        alone = generate(GPT(CONFIG), params, keys[i : i + 1], labels[i : i + 1], config.rows(1))
        np.testing.assert_array_equal(together[i], alone[0])


def test_top_k_1_is_greedy(params):
    np.testing.assert_array_equal(
        sample(params, [0, 1], SamplingConfig(top_k=1)),
        sample(params, [0, 1], SamplingConfig(temperature=0)),
    )


def test_the_prompt_is_kept_and_read(params):
    prompt = jnp.asarray([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], jnp.int32)
    greedy = SamplingConfig(temperature=0)
    tokens = sample(params, [0, 1], greedy, prompt=prompt)
    np.testing.assert_array_equal(tokens[:, :5], prompt)
    again = sample(params, [0, 1], greedy, prompt=jnp.asarray(tokens[:, :9]))
    np.testing.assert_array_equal(again, tokens)


def test_a_whole_picture_is_no_prompt(params):
    with pytest.raises(UserError, match="fewer than the 12 tokens"):
        sample(params, [0], prompt=jnp.zeros((1, 12), jnp.int32))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": -2}, {"top_p": 0.0},
     {"top_p": 1.5}, {"cfg_scale": float("inf")}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        SamplingConfig(**settings)


def lowered_lines(config):
    """Lines of the sampler's program, lowered on shapes alone: no parameter exists."""
    tokens, labels = jnp.zeros((1, config.seq_len - 1), jnp.int32), jnp.zeros((1,), jnp.int32)
    params = jax.eval_shape(GPT(config).init, jax.random.key(0), tokens, labels)["params"]
    lowered = generate.lower(
        GPT(config),
        nn.unbox(params),
        jax.eval_shape(lambda: image_keys(0, np.arange(8))),
        jax.ShapeDtypeStruct((8,), jnp.int32),
        SamplingConfig(cfg_scale=4.0, top_k=2000).rows(8),
    )
    return len(lowered.as_text().splitlines())


def test_depth_does_not_enter_the_program():
    """XL (36 layers) is as long a program as B (12 layers)."""
    small = lowered_lines(llamagen("B", grid_shape=(24, 24)))
    assert lowered_lines(llamagen("XL", grid_shape=(24, 24))) == pytest.approx(small, rel=0.02)


@pytest.mark.parametrize("start", [0, 1, 100, 127, 128, 200])
def test_a_cache_that_grows_gives_the_tokens_of_the_full_pass(start):
    """256 tokens are drawn in two stages of the cache: greedy, against the full forward pass."""
    config = dataclasses.replace(CONFIG, grid_shape=(16, 16), num_layers=1)
    gpt = GPT(config)
    shapes = jax.eval_shape(
        gpt.init, jax.random.key(0), jnp.zeros((1, 255), jnp.int32), jnp.zeros((1,), jnp.int32)
    )["params"]
    leaves, tree = jax.tree.flatten(nn.unbox(shapes))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    params, labels = jax.tree.unflatten(tree, drawn), jnp.asarray([3], jnp.int32)
    prompt = jax.random.randint(jax.random.key(2), (1, start), 0, config.vocab_size)
    rows = SamplingConfig(temperature=0).rows(1)
    tokens = generate(gpt, params, image_keys(0, np.arange(1)), labels, rows, prompt)
    np.testing.assert_array_equal(tokens[:, :start], prompt)
    logits = jax.jit(gpt.apply)({"params": params}, tokens[:, :-1], labels)
    np.testing.assert_array_equal(tokens[:, start:], logits[:, start:].argmax(-1))
