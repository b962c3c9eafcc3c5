"""The published outputs of RAR, for weights made by a rule (see tests/golden/README.md)."""

import dataclasses
import json
import zlib
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.errors import UserError
from igpt_jax.interop.conversion import convert, find_layout
from igpt_jax.models.attention import init_kv_cache
from igpt_jax.models.rar import RAR, RARConfig, rar
from igpt_jax.sampling.sampler import SamplingConfig, generate, image_keys

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "rar.npz")
META = json.loads(str(GOLDEN["meta"]))
SHAPES = {name: tuple(shape) for name, shape in META["param_shapes"].items()}
TABLES = (
    "embeddings.weight", "cls_token", "pos_embed", "target_aware_pos_embed", "timesteps_embeddings",
)  # fmt: skip


def ruled_weight(name):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(SHAPES[name])
    draw = draw.astype(np.float32)
    if draw.ndim >= 2:
        scale = 1 if name in TABLES else np.sqrt(np.prod(draw.shape[1:]))
        return (draw / scale).astype(np.float32)
    return (1 + 0.1 * draw if name.endswith("weight") else 0.1 * draw).astype(np.float32)


@pytest.fixture(scope="module")
def weights():
    return {name: ruled_weight(name) for name in SHAPES}


@pytest.fixture(scope="module")
def published(weights):
    return convert(weights, "rar")


def golden(name):
    return jnp.asarray(GOLDEN[name], jnp.int32)


def specs():
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in SHAPES.items()}


def test_logits_are_the_published(published):
    """The last row asks for the null condition."""
    model, params = published
    assert model.config == RARConfig(
        vocab_size=48, grid_shape=(4, 4), num_layers=3, num_heads=4, embed_dim=32, mlp_dim=80,
        num_classes=10,
    )  # fmt: skip
    assert GOLDEN["labels"][-1] == model.config.num_classes
    tokens = golden("tokens")[:, :-1]
    logits = jax.jit(model.apply)({"params": params}, tokens, golden("labels"))
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("greedy", SamplingConfig(temperature=0)),
        ("greedy_cfg1", SamplingConfig(temperature=0)),
        ("greedy_cfg4_constant", SamplingConfig(temperature=0, cfg_scale=4)),
        (
            "greedy_cfg4_power",
            SamplingConfig(temperature=0, cfg_scale=4, cfg_schedule="power_cosine", cfg_power=1.5),
        ),
    ],
)
def test_greedy_tokens_are_the_published(published, name, sampling):
    model, params = published
    labels = golden("asked")
    rows = sampling.rows(len(labels), model.config.seq_len)
    tokens = generate(model, params, image_keys(0, np.arange(len(labels))), labels, rows)
    np.testing.assert_array_equal(tokens, GOLDEN[name])


@pytest.mark.parametrize("known", [0, 5, 15])
def test_cached_logits_equal_those_of_the_whole_sequence(published, known):
    model, params = published
    tokens, labels = golden("tokens")[:, :-1], golden("labels")
    variables = {"params": params}
    whole = jax.jit(model.apply)(variables, tokens, labels)
    cache = init_kv_cache(model.config, len(labels))
    prefill = jax.jit(partial(model.apply, method="prefill"))
    decode_step = jax.jit(partial(model.apply, method="decode_step"))
    logits, cache = prefill(variables, tokens[:, :known], labels, cache)
    np.testing.assert_allclose(logits, whole[:, known], atol=1e-5)
    for i in range(known, tokens.shape[1]):
        logits, cache = decode_step(variables, tokens[:, i], cache)
        np.testing.assert_allclose(logits, whole[:, i + 1], atol=1e-5)
    assert cache.length == model.config.num_slots


@pytest.mark.parametrize(
    ("size", "published", "stated"),
    [
        ("B", 260_923_648, 261e6),
        ("L", 461_668_352, 461e6),
        ("XL", 955_425_024, 955e6),
        ("XXL", 1_498_520_704, 1.5e9),
    ],
)
def test_sizes_have_the_published_number_of_parameters(size, published, stated):
    """That of the published code, but for rows that no picture uses; the paper rounds it."""
    config = rar(size)
    example = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1,), jnp.int32)
    params = jax.eval_shape(RAR(config).init, jax.random.key(0), *example)["params"]
    count = sum(x.size for x in jax.tree.leaves(params))
    mask, positions, targets, steps = 1, 1280 - 257, 1280 - 256, 356 - 257
    assert count + (mask + positions + targets + steps) * config.embed_dim == published
    assert abs(published / stated - 1) < 2e-3


def test_the_layout_fills_every_parameter(published):
    model, params = published
    example = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1,), jnp.int32)
    wanted = jax.eval_shape(model.init, jax.random.key(0), *example)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, nn.unbox(wanted))


def test_untrained_blocks_do_nothing():
    """adaLN-Zero: at the start every block is the identity, so the past does not matter."""
    model = RAR(RARConfig(48, (2, 2), num_layers=2, num_heads=2, embed_dim=8, mlp_dim=16))
    tokens = jnp.asarray([[1, 2, 3], [4, 5, 3]], jnp.int32)
    labels = jnp.asarray([0, 0], jnp.int32)
    params = jax.jit(model.init)(jax.random.key(0), tokens, labels)["params"]
    logits = jax.jit(model.apply)({"params": params}, tokens, labels)
    np.testing.assert_array_equal(logits[0, 3], logits[1, 3])
    assert (logits[0, 2] != logits[1, 2]).any()


def test_dropout_needs_training_and_changes_logits(published):
    model, params = published
    model = RAR(dataclasses.replace(model.config, residual_dropout=0.5))
    tokens, labels = golden("tokens")[:, :-1], golden("labels")
    apply = jax.jit(model.apply, static_argnames="deterministic")
    plain = apply({"params": params}, tokens, labels)
    np.testing.assert_allclose(plain, GOLDEN["logits"], atol=1e-4)
    rngs = {"dropout": jax.random.key(0)}
    dropped = apply({"params": params}, tokens, labels, deterministic=False, rngs=rngs)
    assert np.abs(dropped - plain).max() > 0.1


@pytest.mark.parametrize("labels", [None, jnp.zeros((4,), jnp.int32)])
def test_missing_labels_and_too_many_tokens_are_refused(published, labels):
    model, params = published
    expected = "expected labels" if labels is None else "expected at most 15"
    with pytest.raises(UserError, match=expected):
        model.apply({"params": params}, golden("tokens"), labels)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lm_head.weight": None}, "expected an array lm_head.weight"),
        (
            {"blocks.2.attn.proj.bias": None},
            r"expected blocks\.2\.attn\.proj\.bias of shape \[32\]",
        ),
        ({"pos_embed": (1, 1041, 32)}, "square number, got 1041 rows"),
        ({"blocks.1.attn.q_norm.weight": (16,)}, r"shape \[8\], got \[16\]"),
        ({"blocks.0.attn.q_norm.weight": (5,)}, "num_heads"),
        ({"blocks.0.extra": (1,)}, "blocks.0.extra"),
    ],
)
def test_other_checkpoints_are_refused(changed, message):
    given = specs()
    for name, shape in changed.items():
        if shape is None:
            del given[name]
        else:
            given[name] = jax.ShapeDtypeStruct(shape, np.float32)
    with pytest.raises(UserError, match=message):
        find_layout(given, "rar")


@pytest.mark.parametrize(
    "field",
    [{"embed_dim": 100}, {"num_classes": 0}, {"cond_drop_prob": 1.0}, {"grid_shape": (0, 4)}],
)
def test_shapes_that_no_model_has_are_refused(field):
    with pytest.raises(UserError, match="RAR config"):
        RARConfig(**field)
